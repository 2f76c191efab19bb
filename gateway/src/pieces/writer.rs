use super::{Memory, PIECE, Pieces};

/// Fills one piece after another.
#[derive(Default)]
pub struct PieceWriter {
    full: Pieces,
    current: Option<Memory>,
}

impl PieceWriter {
    /// Room for what comes next, which is never empty. Who writes multiples of a number that divides [`PIECE`] always finds room for
    /// such a multiple.
    pub fn room(&mut self) -> &mut [u8] {
        if let Some(full) = self.current.take_if(|current| current.filled == PIECE) {
            self.full.push(full.freeze());
        }
        let current = self.current.get_or_insert_with(Memory::take);
        &mut current.room[current.filled..]
    }

    /// Says how much of the room was filled.
    pub fn advance(&mut self, filled: usize) {
        if let Some(current) = &mut self.current {
            current.filled = (current.filled + filled).min(PIECE);
        }
    }

    #[must_use]
    pub fn finish(mut self) -> Pieces {
        if let Some(last) = self.current.take() {
            self.full.push(last.freeze());
        }
        self.full
    }
}

impl std::fmt::Debug for PieceWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let filled = self.full.len() + self.current.as_ref().map_or(0, |current| current.filled);
        f.debug_struct("PieceWriter").field("filled", &filled).finish()
    }
}
