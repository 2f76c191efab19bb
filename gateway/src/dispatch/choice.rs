use std::sync::Arc;

use smallvec::SmallVec;

use crate::registry::{Handler, Offer, Rotation, Slot};

/// So many replicas are looked at one by one.
const FEW: usize = 8;
/// How many of more are drawn before they are looked at one by one all the same.
const DRAWS: usize = 16;

/// The less loaded of two replicas chosen at random, among those in rotation with room, and a slot on it.
pub(super) fn choose<'h>(handler: &'h Handler, declined: &[Arc<str>]) -> Option<(&'h Offer, Slot)> {
    let can_take = |offer: &Offer| {
        let replica = &offer.replica;
        replica.rotation() == Rotation::In && replica.has_room() && !declined.contains(&replica.id)
    };
    if handler.offers.len() > FEW
        && let Some(found) = draw(&handler.offers, can_take)
    {
        return Some(found);
    }
    let mut candidates: SmallVec<[&Offer; FEW]> =
        handler.offers.iter().filter(|offer| can_take(offer)).collect();
    while !candidates.is_empty() {
        let mut place = fastrand::usize(..candidates.len());
        if candidates.len() > 1 {
            let other = (place + 1 + fastrand::usize(..candidates.len() - 1)) % candidates.len();
            if candidates[other].replica.in_flight() < candidates[place].replica.in_flight() {
                place = other;
            }
        }
        let offer = candidates.swap_remove(place);
        if let Some(slot) = offer.replica.take_slot() {
            return Some((offer, slot));
        }
    }
    None
}

/// As [`choose`], without looking at them all: draws until there are two that can take a call. [`None`] when luck did not find them,
/// which with most of them able to is next to never.
fn draw(offers: &[Offer], can_take: impl Fn(&Offer) -> bool) -> Option<(&Offer, Slot)> {
    let mut drawn: Option<&Offer> = None;
    for _ in 0..DRAWS {
        let offer = &offers[fastrand::usize(..offers.len())];
        if !can_take(offer) {
            continue;
        }
        match drawn {
            None => drawn = Some(offer),
            Some(first) if std::ptr::eq(first, offer) => {}
            Some(first) => {
                let is_idler = offer.replica.in_flight() < first.replica.in_flight();
                let chosen = if is_idler { offer } else { first };
                return chosen.replica.take_slot().map(|slot| (chosen, slot));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use arc_swap::ArcSwap;
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::config::Config;
    use crate::data_dir::DataDir;
    use crate::path::{self, Target};
    use crate::registry::{Claim, Registry};
    use crate::route::Found;
    use crate::store::Store;

    fn claim(port: usize) -> Claim {
        let registration = json!({
            "name": "many", "url": format!("http://127.0.0.1:{port}/"), "protocol": "gearway-v1",
            "handlers": [{"name": "foo"}], "max_concurrency": 1_000,
        });
        Claim::check(serde_json::from_value(registration).unwrap()).unwrap()
    }

    /// What `look` sees of a handler that so many replicas offer.
    async fn with_replicas(count: usize, look: impl FnOnce(&Registry, &Handler)) {
        let dir = tempfile::tempdir().unwrap();
        let (store, recovered) = Store::open(&DataDir::open(dir.path()).unwrap()).unwrap();
        let config = Arc::new(ArcSwap::from_pointee(Config::default()));
        let (registry, _ejections) = Registry::restore(config, store, recovered);
        futures_util::future::join_all((0..count).map(|n| registry.register(claim(9_000 + n)))).await;
        let table = registry.table();
        let Ok(Target::Path(path)) = path::canonicalise("/foo") else { panic!("a path") };
        let Found::Match { value, .. } = table.routes.find(&path) else { panic!("a route") };
        let handler = value.handler(&Method::GET).unwrap();
        assert_eq!(handler.offers.len(), count);
        look(&registry, handler);
    }

    fn chosen(handler: &Handler, declined: &[Arc<str>], times: usize) -> HashSet<Arc<str>> {
        let choices = (0..times).filter_map(|_| choose(handler, declined));
        choices
            .map(|(offer, slot)| {
                assert!(Arc::ptr_eq(slot.replica(), &offer.replica));
                Arc::clone(&offer.replica.id)
            })
            .collect()
    }

    #[tokio::test]
    async fn whoever_can_take_a_call_is_chosen_and_nobody_else() {
        for count in [1, 2, FEW, 60] {
            with_replicas(count, |registry, handler| {
                let ids = |offers: &[Offer]| -> HashSet<_> {
                    offers.iter().map(|offer| Arc::clone(&offer.replica.id)).collect()
                };
                assert_eq!(chosen(handler, &[], 5_000), ids(&handler.offers));
                // One after the other becomes unable, in each of the ways, until nobody is left.
                let (mut declined, mut full) = (Vec::new(), Vec::new());
                for (place, offer) in handler.offers.iter().enumerate() {
                    match place % 3 {
                        0 => assert!(registry.eject(&offer.replica, "nobody listens")),
                        1 => declined.push(Arc::clone(&offer.replica.id)),
                        _ => full.extend(
                            std::iter::repeat_with(|| offer.replica.take_slot()).take_while(Option::is_some),
                        ),
                    }
                    let able = &handler.offers[place + 1..];
                    let (found, able) = (chosen(handler, &declined, 200), ids(able));
                    assert!(found.is_subset(&able));
                    assert_eq!(found.is_empty(), able.is_empty());
                }
            })
            .await;
        }
    }

    /// At random the busiest of sixty would have some 235.
    #[tokio::test]
    async fn of_two_the_less_loaded_is_chosen() {
        for count in [FEW, 60] {
            with_replicas(count, |_, handler| {
                let slots: Vec<_> = (0..count * 200).map(|_| choose(handler, &[]).unwrap().1).collect();
                let most = handler.offers.iter().map(|offer| offer.replica.in_flight()).max();
                assert!(most <= Some(210), "{most:?}");
                drop(slots);
            })
            .await;
        }
    }
}
