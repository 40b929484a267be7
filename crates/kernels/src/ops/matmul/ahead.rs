//! Asking for memory before it is needed.

use crate::simd::Isa;

/// A cache line.
const LINE: usize = 64;

/// Memory to ask for bit by bit while something else is computed: the hardware alone reads less than memory gives, and
/// nothing while it does not see that a sequence goes on.
pub(super) struct Ahead {
    at: *const u8,
    /// Bytes from one call to the next.
    step: usize,
}

impl Ahead {
    /// Asks for nothing that is not there.
    pub fn nothing(near: &[u8]) -> Ahead {
        Ahead { at: near.as_ptr(), step: 0 }
    }

    /// Asks for `bytes` in `calls` calls.
    pub fn spread(bytes: &[u8], calls: usize) -> Ahead {
        Ahead { at: bytes.as_ptr(), step: bytes.len().div_ceil(calls.max(1)) }
    }

    /// Asks for what lies `distance` bytes behind `from`, at `step` bytes a call.
    pub fn follow(from: &[u8], distance: usize, step: usize) -> Ahead {
        Ahead { at: from.as_ptr().wrapping_add(distance), step }
    }

    /// One call, of up to two cache lines. Without a branch, for the innermost loops: where there is nothing to ask for,
    /// they ask for one address again and again.
    #[inline(always)]
    pub fn ask<I: Isa>(&mut self, isa: I) {
        isa.prefetch(self.at);
        isa.prefetch(self.at.wrapping_add(LINE));
        self.at = self.at.wrapping_add(self.step);
    }

    /// One call, of as many lines as it takes.
    #[inline(always)]
    pub fn ask_all<I: Isa>(&mut self, isa: I) {
        for at in (0..self.step).step_by(LINE) {
            isa.prefetch(self.at.wrapping_add(at));
        }
        self.at = self.at.wrapping_add(self.step);
    }
}
