//! The command line: one variant a command.

use anyhow::Result;
use wootz_kernels::simd::IsaKind;

use crate::commands::{
    bench, chat, check, data, doctor, eval, export, generate, grpo, inspect, merge, pull, quantize, sft,
    tokenizer, train,
};
use crate::hub;

/// The whole life of a language model in one program.
#[derive(Debug, clap::Parser)]
#[command(name = "wootz", version, max_term_width = 110)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    command: Command,
    /// Ask nothing of the network: a model of the hub must be in the cache already
    #[arg(long, global = true)]
    offline: bool,
}

impl Args {
    /// Does it.
    ///
    /// # Errors
    /// Those of the command; an instruction set in `WOOTZ_ISA` that this machine has not.
    pub fn run(self) -> Result<()> {
        IsaKind::check_environment().map_err(anyhow::Error::msg)?;
        if self.offline {
            hub::stay_offline();
        }
        self.command.run()
    }
}

/// What the program can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Pretrain a model, or go on with one
    Train(Box<train::TrainArgs>),
    /// Fine-tune a model on samples: with an adapter (LoRA), or with all its weights
    Sft(Box<sft::SftArgs>),
    /// Reinforce a model by rewards of its answers (GRPO)
    Grpo(Box<grpo::GrpoArgs>),
    /// Have a model answer problems, and judge its answers
    Eval(Box<eval::EvalArgs>),
    /// Continue a text
    Generate(Box<generate::GenerateArgs>),
    /// Talk with a model
    Chat(Box<chat::ChatArgs>),
    /// Show what is in a model, a token shard, an adapter
    Inspect(inspect::InspectArgs),
    /// Make token shards to train on, and look into them
    Data(data::DataArgs),
    /// Turn text into token ids, and back; learn a vocabulary
    Tokenizer(tokenizer::TokenizerArgs),
    /// Compare logits, loss and gradients with a reference file, or gradients with differences of the loss
    Check(check::CheckArgs),
    /// Make a model small: a GGUF file with 2 to 8 bits a weight
    Quantize(Box<quantize::QuantizeArgs>),
    /// Write a model in another program's format: safetensors, GGUF, llm.c
    Export(export::ExportArgs),
    /// Put adapters into a model's weights, and measure what that changes
    Merge(Box<merge::MergeArgs>),
    /// Download a model, an adapter or a data set from the Hugging Face hub
    Pull(pull::PullArgs),
    /// Measure this machine, the kernels, or a model
    Bench(bench::BenchArgs),
    /// Show what this machine can do, and which device would compute and why
    Doctor(doctor::DoctorArgs),
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Command::Train(args) => train::run(*args),
            Command::Sft(args) => sft::run(*args),
            Command::Grpo(args) => grpo::run(*args),
            Command::Eval(args) => eval::run(&args),
            Command::Generate(args) => generate::run(*args),
            Command::Chat(args) => chat::run(*args),
            Command::Inspect(args) => inspect::run(args),
            Command::Data(args) => data::run(args),
            Command::Tokenizer(args) => tokenizer::run(args),
            Command::Check(args) => check::run(args),
            Command::Quantize(args) => quantize::run(*args),
            Command::Export(args) => export::run(args),
            Command::Merge(args) => merge::run(*args),
            Command::Pull(args) => pull::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Doctor(args) => doctor::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        super::Args::command().debug_assert();
    }
}
