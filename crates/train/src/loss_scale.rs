//! Keeping small gradients alive in f16.
//!
//! The smallest f16 is 6e-8, and many a gradient is smaller. So the loss is multiplied by a large number, and with it
//! every gradient; the optimiser divides it off again. Where a gradient then exceeds the largest f16, 65504, it becomes
//! infinite: the step is given up, and the number halved. After many steps without that it is doubled, so that it stays
//! as large as the gradients allow (Micikevicius et al., "Mixed Precision Training", 2018).
//!
//! It is a power of two, so that multiplying and dividing change no bit of what fits.

use serde::{Deserialize, Serialize};

/// Steps that must fit before the number is doubled.
const PATIENCE: u32 = 2000;
/// Beyond this nothing would be gained: the number must stay far from the largest f32.
const LARGEST: f32 = (1u32 << 24) as f32;

/// What the loss is multiplied by. It is part of what a resumed run needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    value: f32,
    /// Steps in a row whose gradients fitted.
    fitted: u32,
}

impl Default for LossScale {
    fn default() -> LossScale {
        LossScale { value: 65536.0, fitted: 0 }
    }
}

impl LossScale {
    /// The number.
    pub fn value(self) -> f32 {
        self.value
    }

    /// A step's gradients were finite.
    pub fn fits(&mut self) {
        self.fitted += 1;
        if self.fitted >= PATIENCE {
            *self = LossScale { value: (2.0 * self.value).min(LARGEST), fitted: 0 };
        }
    }

    /// A step's gradients were not: they are to be half as large. False if scaling is not the cause, because it has come
    /// down to 1.
    pub fn overflows(&mut self) -> bool {
        let can_shrink = self.value > 1.0;
        *self = LossScale { value: (self.value / 2.0).max(1.0), fitted: 0 };
        can_shrink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_slowly_and_shrinks_at_once() {
        let mut scale = LossScale::default();
        for _ in 0..PATIENCE - 1 {
            scale.fits();
        }
        assert_eq!(scale.value(), 65536.0);
        scale.fits();
        assert_eq!(scale.value(), 131_072.0);
        assert!(scale.overflows());
        assert_eq!(scale, LossScale::default());
        for _ in 0..40 * PATIENCE {
            scale.fits();
        }
        assert_eq!(scale.value(), LARGEST);
    }

    #[test]
    fn stops_at_one() {
        let mut scale = LossScale::default();
        assert!((0..16).all(|_| scale.overflows()));
        assert_eq!(scale.value(), 1.0);
        assert!(!scale.overflows());
        assert_eq!(scale.value(), 1.0);
    }
}
