//! What happens beside the steps: flags of every kind of run.

use super::said;
use serde::{Deserialize, Serialize};
use wootz_train::fit::Meanwhile;

/// What happens beside the steps, as far as it was said.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MeanwhileArgs {
    /// Validate every N steps; 0: at the end alone
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    pub val_every: Option<u64>,
    /// Batches of a validation, at the most
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    pub val_batches: Option<u64>,
    /// Show what the model writes every N steps; 0: before and after alone
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    pub sample_every: Option<u64>,
    /// Save a checkpoint every N steps; 0: at the end alone
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    pub save_every: Option<u64>,
    /// Checkpoints that stay; 0: all
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    pub keep: Option<usize>,
    /// Give up after so many steps in a row with NaN or infinity
    #[arg(long, value_name = "N", help_heading = "Safety")]
    pub max_bad_steps: Option<u64>,
    /// Skip steps whose loss stands out by more deviations than this; 0: none
    #[arg(long, value_name = "Z", help_heading = "Safety")]
    pub skip_loss_z: Option<f64>,
    /// Skip steps whose gradient norm stands out by more deviations than this; 0: none
    #[arg(long, value_name = "Z", help_heading = "Safety")]
    pub skip_grad_z: Option<f64>,
}

/// What nobody says, where kinds of runs differ.
pub struct UsualMeanwhile {
    pub val_every: u64,
    pub val_batches: u64,
    pub save_every: u64,
}

impl MeanwhileArgs {
    /// Flags first, then the file, then what is usual.
    pub fn resolve(&self, file: &MeanwhileArgs, usual: &UsualMeanwhile) -> Meanwhile {
        Meanwhile {
            val_every: said!(self, file, val_every).unwrap_or(usual.val_every),
            val_batches: said!(self, file, val_batches).unwrap_or(usual.val_batches),
            sample_every: said!(self, file, sample_every).unwrap_or(0),
            save_every: said!(self, file, save_every).unwrap_or(usual.save_every),
            keep: said!(self, file, keep).unwrap_or(2),
            max_bad_steps: said!(self, file, max_bad_steps).unwrap_or(10),
            skip_loss_z: said!(self, file, skip_loss_z).unwrap_or(0.0),
            skip_grad_z: said!(self, file, skip_grad_z).unwrap_or(0.0),
        }
    }

    /// What is said takes the place of what a run had, and is not left to be refused: it may change in any run.
    pub fn change(&mut self, old: &Meanwhile) -> Meanwhile {
        Meanwhile {
            val_every: self.val_every.take().unwrap_or(old.val_every),
            val_batches: self.val_batches.take().unwrap_or(old.val_batches),
            sample_every: self.sample_every.take().unwrap_or(old.sample_every),
            save_every: self.save_every.take().unwrap_or(old.save_every),
            keep: self.keep.take().unwrap_or(old.keep),
            max_bad_steps: self.max_bad_steps.take().unwrap_or(old.max_bad_steps),
            skip_loss_z: old.skip_loss_z,
            skip_grad_z: old.skip_grad_z,
        }
    }
}
