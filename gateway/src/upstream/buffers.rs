use bytes::BytesMut;
use parking_lot::Mutex;

/// The largest buffer that is kept: what a call or a reply takes beyond it goes back to the system with it.
pub(super) const MAX_KEPT_BYTES: usize = 128 << 10;
/// How many of each are kept at most.
const MAX_KEPT: usize = 64;

/// Buffers of one relay thread for calls and replies: used again while they are wanted, given up soon after.
#[derive(Debug, Default)]
pub struct Buffers {
    calls: Mutex<Stack<Vec<u8>>>,
    replies: Mutex<Stack<BytesMut>>,
}

#[derive(Debug)]
struct Stack<B> {
    free: Vec<B>,
    /// The fewest that were free at once since the last look: those at the bottom, which nobody needed.
    idle: usize,
}

impl Buffers {
    /// An empty buffer to write a call into.
    #[must_use]
    pub fn call(&self) -> Vec<u8> {
        self.calls.lock().take().unwrap_or_default()
    }

    pub fn put_call(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= MAX_KEPT_BYTES {
            buffer.clear();
            self.calls.lock().put(buffer);
        }
    }

    /// An empty buffer to read a reply into.
    #[must_use]
    pub fn reply(&self) -> BytesMut {
        self.replies.lock().take().unwrap_or_default()
    }

    /// Takes a buffer whose memory is no larger than what is kept. It may still share it with the reply that was read into it, and is
    /// used again once nothing else uses it.
    pub fn put_reply(&self, mut buffer: BytesMut) {
        buffer.clear();
        self.replies.lock().put(buffer);
    }

    /// Gives up what was not needed since this was last called.
    pub fn trim(&self) {
        self.calls.lock().trim();
        self.replies.lock().trim();
    }
}

impl<B> Stack<B> {
    fn take(&mut self) -> Option<B> {
        let buffer = self.free.pop();
        self.idle = self.idle.min(self.free.len());
        buffer
    }

    fn put(&mut self, buffer: B) {
        if self.free.len() < MAX_KEPT {
            self.free.push(buffer);
        }
    }

    fn trim(&mut self) {
        self.free.drain(..self.idle);
        self.idle = self.free.len();
    }
}

impl<B> Default for Stack<B> {
    fn default() -> Self {
        Self { free: Vec::new(), idle: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_needs_is_given_up_and_large_ones_at_once() {
        let buffers = Buffers::default();
        buffers.put_call(Vec::with_capacity(MAX_KEPT_BYTES + 1));
        assert_eq!(buffers.call().capacity(), 0);
        for _ in 0..3 {
            buffers.put_call(Vec::with_capacity(100));
        }
        buffers.trim();
        let used = buffers.call();
        assert!(used.capacity() >= 100);
        buffers.put_call(used);
        buffers.trim();
        assert_eq!(buffers.calls.lock().free.len(), 1, "two of the three were not needed");
        for _ in 0..1000 {
            buffers.put_reply(BytesMut::with_capacity(10));
        }
        assert_eq!(buffers.replies.lock().free.len(), MAX_KEPT);
    }
}
