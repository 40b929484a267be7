//! Prompts and rewards, as several commands take them.

use anyhow::Result;
use wootz_rewards::{Rewards, Setup};
use wootz_text::Tokenizer;
use wootz_train::data::prompts::{self, Built, Prompt, ReadOptions};

/// What an answer is worth: as a spec says, or as the task of that name does.
///
/// # Errors
/// A spec that means nothing.
pub fn rewards(task: Option<Built>, spec: &str) -> Result<Rewards> {
    match task {
        Some(task) if task.name() == spec => Ok(task.rewards()?),
        _ => parse(spec),
    }
}

/// What an answer is worth, as a spec says.
///
/// # Errors
/// A spec that means nothing.
pub fn parse(spec: &str) -> Result<Rewards> {
    Ok(setup().parse(spec)?)
}

/// Services may be asked over https, where this program and this machine can encrypt.
fn setup() -> Setup {
    #[cfg(feature = "hub")]
    if let Some(agent) = wootz_hub::agent() {
        return Setup::default().with_agent(agent);
    }
    Setup::default()
}

/// Reads prompts, and says how many there are and what was left out.
///
/// # Errors
/// Those of [`prompts::read`].
pub fn read_prompts(
    names: &[String],
    tokenizer: &Tokenizer,
    rewards: &Rewards,
    options: ReadOptions,
) -> Result<Vec<Prompt>> {
    let (prompts, report) = prompts::read(names, tokenizer, rewards, options)?;
    eprintln!("{}: {} prompts", names.join(", "), prompts.len());
    if report.bad + report.too_long > 0 {
        eprintln!("  left out: {} that are too long, {} that are bad", report.too_long, report.bad);
    }
    report.first.iter().for_each(|why| eprintln!("  {why}"));
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "hub")]
    use super::*;

    #[cfg(feature = "hub")]
    #[test]
    fn services_may_be_encrypted() {
        if wootz_hub::agent().is_none() {
            println!("skipped: this machine cannot encrypt");
            return;
        }
        parse("https://localhost:1/score").unwrap();
    }
}
