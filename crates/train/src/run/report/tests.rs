//! The page, from files that a run would leave.

use std::fs;

use super::super::metrics::{Metrics, Row, Step, Validation};
use super::super::scratch::Scratch;
use super::*;

const SETTINGS: &str = "\
name = \"tiny <3\"
seed = 1337
lr = 0.0006
data = [\"a.bin\", \"b.bin\"]
[model]
layers = 6
[model.attention]
heads = 6
";

/// Writes the metrics of a run that learns, with a spike and two values that are no numbers.
fn train(run: &Path, steps: u64) {
    let mut metrics = Metrics::create(&run.join(METRICS)).unwrap();
    let noise = |i: u64| ((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1 << 24) as f64 - 0.5;
    for step in 1..=steps {
        let done = step as f64 / steps as f64;
        let fall = 9.3 * (-6.0 * done.sqrt()).exp();
        let row = Row::from(Step {
            step,
            tokens: step * 16_384,
            loss: if step == steps / 3 { f64::NAN } else { 1.45 + fall + 0.16 * noise(step) },
            grad_norm: if step == steps / 2 { 212.0 } else { 0.5 + fall + 0.4 * noise(7 * step).abs() },
            lr: 6e-4 * (20.0 * done).min(1.0 - done),
            tokens_per_second: 12_345.0 + 900.0 * noise(3 * step),
        });
        metrics.append(&row.with("max_ratio_deviation", 0.0f32)).unwrap();
        if step % (steps / 20).max(1) == 0 {
            let val_loss = 1.5 + fall;
            let validation = Validation { step, val_loss, bits_per_byte: Some(val_loss / 3.1) };
            metrics.append(&Row::from(validation)).unwrap();
        }
    }
}

fn report(run: &Path) -> String {
    let path = write(run).unwrap();
    assert_eq!(path, run.join("report.html"));
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_page_has_every_chart_and_every_setting() {
    let runs = Scratch::new();
    let run = runs.path().join("2026-01-31-tiny & co");
    fs::create_dir(&run).unwrap();
    fs::write(run.join(CONFIG), SETTINGS).unwrap();
    train(&run, 2000);
    let page = report(&run);
    assert!(page.contains("<h1>2026-01-31-tiny &amp; co</h1>"));
    let titles =
        ["Loss", "Learning rate", "Gradient norm", "Throughput", "Bits per byte", "max ratio deviation"];
    for title in titles {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
        assert!(page.contains(&format!("aria-label=\"{title}\"")), "{title}");
    }
    assert_eq!(page.matches("<svg").count(), titles.len());
    assert!(page.contains("<dt>Steps</dt><dd>2,000</dd><dd class=\"note\">32.8M tokens</dd>"));
    assert!(page.contains("mean of the last 40"));
    assert!(page.contains("<dt>Tokens per second</dt><dd>12.3k</dd>"));
    assert!(page.contains(" at step 2,000</dd>"));
    for row in [
        "name</th><td>tiny &lt;3",
        "lr</th><td>0.0006",
        "data</th><td>[&quot;a.bin&quot;, &quot;b.bin&quot;]",
    ] {
        assert!(page.contains(row), "{row}");
    }
    assert!(page.contains("<caption>model</caption>") && page.contains("<caption>model.attention</caption>"));
    assert!(page.contains("<span class=\"key val\">validation</span>"));
    // One value of the loss is no number: that of step 666.
    assert_eq!(page.matches("class=\"nan\"").count(), 1);
    assert!(!page.contains("<script") && !page.contains("http"), "it needs no script and no network");
}

#[test]
fn rewards_come_first() {
    let runs = Scratch::new();
    let mut metrics = Metrics::create(&runs.path().join(METRICS)).unwrap();
    for step in 1..=20 {
        let row = Row::new(step).with(LOSS, -0.1f32).with(REWARD_MEAN, step as f32 / 20.0);
        metrics.append(&row).unwrap();
        if step % 10 == 0 {
            metrics.append(&Row::new(step).with(VAL_REWARD, 1.0f32)).unwrap();
        }
    }
    let page = report(runs.path());
    let at = |title: &str| page.find(&format!("<h2>{title}</h2>")).unwrap();
    assert!(at("Reward") < at("Loss"));
    // Both are in one chart, and in no other.
    assert!(!page.contains("<h2>reward mean</h2>") && !page.contains("<h2>val reward</h2>"));
    let chart = &page[at("Reward")..at("Loss")];
    assert!(chart.contains("training</span>") && chart.contains("validation</span>"), "{chart}");
}

#[test]
fn a_page_is_bounded_however_long_the_run() {
    let sizes = [5000, 50_000].map(|steps| {
        let run = Scratch::new();
        train(run.path(), steps);
        report(run.path()).len()
    });
    assert!(sizes[0] < 400_000 && sizes[1] < sizes[0] + 20_000, "{sizes:?}");
}

#[test]
fn what_is_not_there_yet_is_left_out() {
    let run = Scratch::new();
    let page = report(run.path());
    assert!(page.contains("Nothing has been measured yet") && !page.contains("<svg"));
    fs::write(run.path().join(METRICS), "{\"step\":1,\"loss\":null}\nhalf a li").unwrap();
    let page = report(run.path());
    assert!(page.contains("<h2>Loss</h2>") && !page.contains("<dt>Training loss"));
    assert!(
        page.contains("1 lines of metrics.jsonl could not be read") && !page.contains("<h2>Settings</h2>")
    );
    fs::write(run.path().join(CONFIG), "a = 1\nb = = 2\n").unwrap();
    let error = write(run.path()).unwrap_err().to_string();
    assert!(error.contains("config.toml: line 2: "), "{error}");
}

#[test]
fn numbers_are_short_and_true() {
    let cases = [
        (0.0, 3, "0"),
        (2.0, 3, "2"),
        (1.25, 2, "1.2"),
        (0.001, 3, "0.001"),
        (0.0006, 3, "6e-4"),
        (0.000_612, 2, "6.1e-4"),
        (9999.0, 4, "9999"),
        (9999.6, 4, "10k"),
        (12_345.0, 3, "12.3k"),
        (999_999.0, 3, "1M"),
        (-1.5e6, 3, "-1.5M"),
        (2.5e9, 3, "2.5B"),
        (7e12, 3, "7T"),
        (1e30, 3, "1e30"),
        (100.0, 1, "100"),
        (f64::NAN, 3, "NaN"),
        (f64::NEG_INFINITY, 3, "-inf"),
    ];
    for (x, digits, expected) in cases {
        assert_eq!(compact(x, digits), expected);
    }
    assert_eq!(compact_like(5e3, 3, 2e4), "5k");
}
