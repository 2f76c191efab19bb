use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A call sent again costs as much as so many calls bring in: a fifth more load is the most that repetition adds in the long run.
const COST: u64 = 5;
/// Calls sent again that wait at most, from the calls of better times: what a restart under load takes.
const MOST: u64 = 1000 * COST;
/// Time alone brings in so much a second, for names that are called seldom.
const PER_SECOND: u64 = 10 * COST;
/// Time alone saves up to this.
const RESERVE: u64 = 100 * COST;

/// How often calls to one worker name may be sent again, so that workers in trouble are not buried by repetition. A token bucket as
/// Finagle and Linkerd have it, filled by calls and by time.
#[derive(Debug)]
pub struct RetryBudget {
    balance: AtomicU64,
    begun: Instant,
    /// Until when time has paid, in milliseconds from the beginning.
    paid_until: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { balance: AtomicU64::new(RESERVE), begun: Instant::now(), paid_until: AtomicU64::new(0) }
    }
}

impl RetryBudget {
    /// Counts a call that was sent for the first time.
    pub fn deposit(&self) {
        if self.balance.load(Ordering::Relaxed) < MOST {
            self.balance.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a call may be sent again now, which is counted.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        self.withdraw_at(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn withdraw_at(&self, now_ms: u64) -> bool {
        let paid_until = self.paid_until.load(Ordering::Relaxed);
        let earned = now_ms.saturating_sub(paid_until).saturating_mul(PER_SECOND) / 1000;
        // Too short a time to earn anything is paid along with the next; and no time is paid twice.
        let pays = earned > 0
            && self
                .paid_until
                .compare_exchange(paid_until, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if pays {
            // One that is above the reserve already stays as it is.
            let topped_up = |balance: u64| (balance < RESERVE).then(|| (balance + earned).min(RESERVE));
            self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, topped_up).ok();
        }
        let withdrawn = |balance: u64| balance.checked_sub(COST);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, withdrawn).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(budget: &RetryBudget, now_ms: u64) -> u64 {
        (0..10_000).take_while(|_| budget.withdraw_at(now_ms)).count() as u64
    }

    #[test]
    fn repetition_is_a_fifth_of_the_calls_and_ten_a_second() {
        let budget = RetryBudget::default();
        assert_eq!(drain(&budget, 0), RESERVE / COST);
        for _ in 0..100 {
            budget.deposit();
        }
        assert_eq!(drain(&budget, 0), 20);
        assert_eq!(drain(&budget, 1000), 10);
        assert_eq!(drain(&budget, 1001), 0);
        assert_eq!(drain(&budget, 100_000), RESERVE / COST);
        for _ in 0..1_000_000 {
            budget.deposit();
        }
        assert_eq!(drain(&budget, 100_000), MOST / COST);
    }

    #[test]
    fn asking_often_earns_as_much_as_asking_seldom() {
        let budget = RetryBudget::default();
        drain(&budget, 0);
        let granted: u64 = (1..=2000).map(|now_ms| drain(&budget, now_ms)).sum();
        assert_eq!(granted, 20, "in two seconds");
    }
}
