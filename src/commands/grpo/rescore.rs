//! `wootz grpo rescore`: the answers of a run, judged again.

use crate::commands::answer::note;
use crate::commands::prompts;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use wootz_rewards::{Answer, Rewards};

/// Judge the answers of a run again, with other rewards: nothing is drawn, and the run stays as it is
#[derive(Debug, clap::Args)]
pub struct RescoreArgs {
    /// The run
    run: PathBuf,
    /// What an answer is worth: as in `wootz grpo --reward`
    #[arg(long, value_name = "SPEC")]
    reward: String,
    /// Where to write the answers with their new rewards [default: nowhere]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Lines that are judged at once.
const BATCH: usize = 256;

/// A line of a run's answers.
struct Line {
    object: Map<String, Value>,
    fields: Map<String, Value>,
}

/// Sums over all answers.
#[derive(Default)]
struct Sums {
    answers: usize,
    judged: usize,
    old: f64,
    new: f64,
    /// Answers whose reward is another one now.
    changed: usize,
    parts: Vec<f64>,
    first_failure: Option<String>,
}

pub fn run(args: &RescoreArgs) -> Result<()> {
    let rewards = prompts::parse(&args.reward)?;
    let path = super::rollouts(&args.run);
    let file = std::fs::File::open(&path)
        .with_context(|| format!("{}: expected the answers of a run of `wootz grpo`", path.display()))?;
    let mut lines = BufReader::new(file).lines().enumerate();
    let mut out = Vec::new();
    let mut sums = Sums { parts: vec![0.0; rewards.names().len()], ..Sums::default() };
    loop {
        let mut batch = Vec::new();
        for (number, line) in lines.by_ref().take(BATCH) {
            let place = || format!("{}:{}", path.display(), number + 1);
            batch.push(Line::read(&line.with_context(place)?).with_context(place)?);
        }
        if batch.is_empty() {
            break;
        }
        judge(batch, &rewards, &mut sums, &mut out)?;
    }
    if sums.answers == 0 {
        bail!("{}: there are no answers", path.display());
    }
    if let Some(path) = &args.out {
        wootz_formats::write_atomically(path, |file| file.write_all(&out))?;
    }
    report(args, &rewards, &sums);
    Ok(())
}

impl Line {
    fn read(line: &str) -> Result<Line> {
        let mut object: Map<String, Value> = serde_json::from_str(line)?;
        let fields = match object.remove("fields") {
            Some(Value::Object(fields)) => fields,
            _ => bail!("expected an answer with its `fields`"),
        };
        Ok(Line { object, fields })
    }

    fn text(&self, name: &str) -> &str {
        self.object.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn answer(&self) -> Answer<'_> {
        Answer {
            prompt: self.text("prompt"),
            text: self.text("completion"),
            tokens: self.object.get("completion_ids").and_then(Value::as_array).map_or(0, Vec::len),
            truncated: self.object.get("truncated").and_then(Value::as_bool).unwrap_or(false),
            fields: &self.fields,
        }
    }
}

fn judge(lines: Vec<Line>, rewards: &Rewards, sums: &mut Sums, out: &mut Vec<u8>) -> Result<()> {
    let answers: Vec<Answer> = lines.iter().map(Line::answer).collect();
    let scores = rewards.score(&answers);
    for (mut line, score) in lines.into_iter().zip(scores) {
        let old = line.object.remove("reward").and_then(|reward| reward.as_f64());
        for name in ["parts", "advantage", "error"] {
            line.object.remove(name);
        }
        sums.answers += 1;
        match score {
            Ok(score) => {
                sums.judged += 1;
                sums.new += score.total;
                sums.old += old.unwrap_or(0.0);
                sums.changed += usize::from(old != Some(score.total));
                sums.parts.iter_mut().zip(&score.parts).for_each(|(sum, part)| *sum += part);
                let parts = rewards.names().iter().cloned().zip(score.parts.iter().map(|&part| json!(part)));
                line.object.insert("parts".to_owned(), Value::Object(parts.collect()));
                line.object.insert("reward".to_owned(), json!(score.total));
            }
            Err(failure) => {
                let failure = failure.to_string();
                line.object.insert("error".to_owned(), failure.clone().into());
                sums.first_failure.get_or_insert(failure);
            }
        }
        line.object.insert("fields".to_owned(), line.fields.into());
        serde_json::to_writer(&mut *out, &line.object)?;
        out.push(b'\n');
    }
    Ok(())
}

fn report(args: &RescoreArgs, rewards: &Rewards, sums: &Sums) {
    let count = sums.judged.max(1) as f64;
    let parts = || rewards.names().iter().zip(&sums.parts).map(|(name, sum)| (name, sum / count));
    if let Some(first) = &sums.first_failure {
        note(&format!("{} answers could not be judged; the first: {first}", sums.answers - sums.judged));
    }
    if args.json {
        let parts: Map<String, Value> = parts().map(|(name, mean)| (name.clone(), json!(mean))).collect();
        let result = json!({
            "answers": sums.answers,
            "judged": sums.judged,
            "changed": sums.changed,
            "reward_mean_before": sums.old / count,
            "reward_mean": sums.new / count,
            "parts": parts,
        });
        println!("{result}");
        return;
    }
    println!("{} answers, {} of them judged", sums.answers, sums.judged);
    println!(
        "mean reward {:.4}, before {:.4}; {} answers are worth something else",
        sums.new / count,
        sums.old / count,
        sums.changed
    );
    for (name, mean) in parts() {
        println!("  {name:<24} {mean:.4}");
    }
}
