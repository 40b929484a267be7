//! `wootz bench soak`: the same generation again and again. Every answer must be the first one, and memory must not grow.

use crate::commands::flags::RunningArgs;
use anyhow::{Result, bail};
use serde_json::json;
use std::time::Instant;
use wootz_kernels::device::Gpu;
use wootz_model::generate::{Engine, EngineOptions, Event, Request};

/// Generate the same text again and again: answers must be equal, and memory must not grow
#[derive(Debug, clap::Args)]
pub struct SoakArgs {
    /// The model [default: the built-in story model]
    model: Option<String>,
    /// Generations
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..))]
    rounds: u32,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,
    /// Memory may grow by this much from the tenth part of the rounds to the last one, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 8.0)]
    growth: f64,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    running: RunningArgs,
}

/// Runs the command.
///
/// # Errors
/// An answer that is another, memory that grew; what generating meets.
pub fn run(args: &SoakArgs) -> Result<()> {
    let path = crate::model_arg::resolve(args.model.as_deref())?;
    let model = args.running.load(&path)?;
    let vocab = model.config().vocab_size as u32;
    let context = (args.prompt + args.generate) as usize;
    let options = EngineOptions { max_batch: 1, chunk: 512, context, cache: args.running.cache() };
    let mut engine = Engine::new(model, options);
    // Ids that every vocabulary of more than a few hundred tokens has, and that are no special tokens.
    let prompt: Vec<u32> = (0..args.prompt).map(|i| (100 + i % 300) % vocab).collect();
    let (mut first, mut early) = (None, None);
    let begun = Instant::now();
    for round in 0..args.rounds {
        engine.add(Request::greedy(prompt.clone(), args.generate as usize))?;
        let mut answer = Vec::new();
        while !engine.is_idle() {
            for event in engine.step()? {
                match event {
                    Event::Token { token, .. } => answer.push(token.id),
                    Event::Finished { .. } => {}
                }
            }
        }
        let first = first.get_or_insert_with(|| answer.clone());
        if *first != answer {
            let at = first.iter().zip(&answer).take_while(|(a, b)| a == b).count();
            bail!(
                "generation {} is another than the first from token {at} on: {:?} and {:?}; please report it, with \
                 what `wootz doctor` prints",
                round + 1,
                answer.get(at),
                first.get(at)
            );
        }
        // By then everything has its size.
        if round + 1 == args.rounds.div_ceil(10) {
            early = Some(memory(&engine));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (early, late) = (early.unwrap_or([None; 2]), memory(&engine));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let growth = |i: usize| early[i].zip(late[i]).map(|(early, late)| mib(late) - mib(early));
    let growths = [("the process", growth(0)), ("the device", growth(1))];
    let rate = f64::from(args.rounds * args.generate) / seconds;
    let fallbacks = engine.model().gpu().map(|gpu| gpu.fallbacks());
    if args.json {
        println!(
            "{}",
            json!({
                "rounds": args.rounds,
                "equal": true,
                "tokens_per_second": rate,
                "process_growth_mib": growths[0].1,
                "device_growth_mib": growths[1].1,
                "device": engine.model().gpu().map(|gpu| gpu.info().name.clone()),
                "fallbacks": fallbacks,
            })
        );
    } else {
        println!("{} generations are equal, {rate:.1} tokens a second", args.rounds);
        for (name, growth) in growths {
            match growth {
                Some(growth) => {
                    println!("memory of {name} grew by {growth:.2} MiB ({:.0} allowed)", args.growth)
                }
                None => println!("memory of {name}: not known"),
            }
        }
    }
    for (name, growth) in growths {
        if growth.is_some_and(|growth| growth > args.growth) {
            bail!("memory of {name} grew by more than {} MiB", args.growth);
        }
    }
    Ok(())
}

/// Bytes of the process, and of the device that has the model, as far as they are known.
fn memory(engine: &Engine) -> [Option<u64>; 2] {
    [super::resident_bytes(), engine.model().gpu().map(|gpu| gpu.held_bytes() as u64)]
}
