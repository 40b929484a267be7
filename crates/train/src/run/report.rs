//! `report.html`: a run as a page. It is one file, which needs no network and no script, in light and in dark.

mod chart;

use std::io::Write;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use self::chart::{Chart, Look, Origin, Series};
use super::metrics::{
    BITS_PER_BYTE, GRAD_NORM, History, LOSS, LR, REWARD_MEAN, TOKENS, TOKENS_PER_SECOND, VAL_LOSS, VAL_REWARD,
};
use super::{CONFIG, METRICS, REPORT, parse_toml, read_small};
use crate::error::{Context, Result};
use crate::progress::grouped;

const STYLE: &str = include_str!("report/style.css");
/// Charts of what a run measures beside the usual, at the most.
const OTHERS: usize = 24;
/// Pixels of a chart that takes the page's width, and of one that takes half.
const WIDE: (u32, u32) = (1040, 380);
const HALF: (u32, u32) = (510, 230);

/// Makes the report of a run from its `metrics.jsonl` and its settings, and returns its path.
///
/// It needs no lock: it may be made while the run is training. What is not there yet is left out of it.
pub fn write(run: &Path) -> Result<PathBuf> {
    let metrics = run.join(METRICS);
    let history = if metrics.exists() { History::read(&metrics)? } else { History::default() };
    let config = run.join(CONFIG);
    let settings: Table = match config.exists() {
        true => parse_toml(&config, &read_small(&config)?)?,
        false => Table::new(),
    };
    let name =
        run.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let page = page(&name.unwrap_or_else(|| run.display().to_string()), &history, &settings);
    let report = run.join(REPORT);
    wootz_formats::write_atomically(&report, |file| file.write_all(page.as_bytes()))
        .context(|| "cannot write the report")?;
    Ok(report)
}

/// The page of a run: its name, what it measured, and its settings.
pub fn page(name: &str, history: &History, settings: &Table) -> String {
    let title = escape(name);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} · training report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"kind\">Training run</p>\n<h1>{title}</h1>\n</header>\n<main>\n"
    );
    if history.series.is_empty() {
        page += "<p class=\"empty\">Nothing has been measured yet.</p>\n";
    }
    page += &tiles(history);
    page += &charts(history);
    page += &table(settings);
    page += "</main>\n<footer>\n<p>";
    page += "Long curves are thinned, and no extreme is left out. A strong line is the mean of neighbours without \
             the outer ones, a triangle on the axis marks a value that is no number. ";
    if history.damaged > 0 {
        page += &format!("{} lines of {METRICS} could not be read. ", history.damaged);
    }
    page + &format!("All numbers: <code>{METRICS}</code>.</p>\n</footer>\n</body>\n</html>\n")
}

/// The numbers that one looks for first.
fn tiles(history: &History) -> String {
    let mut tiles = Vec::new();
    let steps = history.series.values().filter_map(|points| points.last()).map(|&(step, _)| step).max();
    if let Some(steps) = steps {
        let tokens = history.last(TOKENS).map(|tokens| format!("{} tokens", compact(tokens, 3)));
        tiles.push(tile("Steps", &grouped(steps as f64), &tokens.unwrap_or_default()));
    }
    let last = last_values(history.of(LOSS));
    if !last.is_empty() {
        let mean = last.iter().map(|loss| loss / last.len() as f64).sum();
        let of =
            if last.len() == 1 { "last step".into() } else { format!("mean of the last {}", last.len()) };
        tiles.push(tile("Training loss", &compact(mean, 4), &of));
    }
    for (label, name) in [("Validation loss", VAL_LOSS), ("Bits per byte", BITS_PER_BYTE)] {
        let points = history.of(name);
        let best = points.iter().filter(|(_, y)| y.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some(&(_, value)) = points.last() {
            let best =
                best.map(|&(step, y)| format!("best {} at step {}", compact(y, 4), grouped(step as f64)));
            tiles.push(tile(label, &compact(value, 4), &best.unwrap_or_default()));
        }
    }
    let mut rates: Vec<f64> = history.of(TOKENS_PER_SECOND).iter().map(|&(_, y)| y).collect();
    rates.retain(|rate| rate.is_finite());
    rates.sort_by(f64::total_cmp);
    if let Some(&median) = rates.get(rates.len() / 2) {
        tiles.push(tile("Tokens per second", &compact(median, 3), "median"));
    }
    if tiles.is_empty() { String::new() } else { format!("<dl class=\"tiles\">\n{}</dl>\n", tiles.concat()) }
}

fn tile(label: &str, value: &str, note: &str) -> String {
    format!("<div><dt>{label}</dt><dd>{value}</dd><dd class=\"note\">{note}</dd></div>\n")
}

/// The numbers among the last fiftieth of the points, but no more than 100.
fn last_values(points: &[(u64, f64)]) -> Vec<f64> {
    let count = (points.len() / 50).clamp(1, 100);
    let last = points.iter().rev().take(count).map(|&(_, y)| y);
    last.filter(|y| y.is_finite()).collect()
}

fn charts(history: &History) -> String {
    let series = |name: &str, label: &str, class, look| {
        let points = history.of(name);
        (!points.is_empty()).then(|| Series { label: label.to_owned(), class, look, points })
    };
    let loss =
        [series(LOSS, "training", "train", Look::Noise), series(VAL_LOSS, "validation", "val", Look::Dots)];
    // Where there are rewards, they are what the run is about.
    let reward = [
        series(REWARD_MEAN, "training", "train", Look::Noise),
        series(VAL_REWARD, "validation", "val", Look::Dots),
    ];
    let mut figures = figure("Reward", "", reward.into_iter().flatten().collect(), Origin::Least, WIDE);
    figures += &figure("Loss", "nats a token", loss.into_iter().flatten().collect(), Origin::Least, WIDE);
    let usual = [
        (LR, "Learning rate", "", Look::Line, Origin::Zero),
        (GRAD_NORM, "Gradient norm", "before clipping", Look::Noise, Origin::Least),
        (TOKENS_PER_SECOND, "Throughput", "tokens a second", Look::Noise, Origin::Zero),
        (BITS_PER_BYTE, "Bits per byte", "validation", Look::Dots, Origin::Least),
    ];
    let mut known = vec![LOSS, VAL_LOSS, TOKENS, REWARD_MEAN, VAL_REWARD];
    for (name, title, unit, look, origin) in usual {
        known.push(name);
        let class = if look == Look::Dots { "val" } else { "train" };
        let all = series(name, &title.to_lowercase(), class, look).into_iter().collect();
        figures += &figure(title, unit, all, origin, HALF);
    }
    let others = history.series.keys().filter(|name| !known.contains(&name.as_str()));
    for name in others.take(OTHERS) {
        let title = name.replace('_', " ");
        let all = series(name, &title, "other", Look::Noise).into_iter().collect();
        figures += &figure(&title, "", all, Origin::Least, HALF);
    }
    if figures.is_empty() { figures } else { format!("<section class=\"charts\">\n{figures}</section>\n") }
}

/// A chart with its heading; nothing where there is nothing to show.
fn figure(title: &str, unit: &str, series: Vec<Series<'_>>, origin: Origin, size: (u32, u32)) -> String {
    if series.is_empty() {
        return String::new();
    }
    let legend: String = match series.len() {
        1 => String::new(),
        _ => {
            let entry =
                |s: &Series<'_>| format!("<span class=\"key {}\">{}</span>", s.class, escape(&s.label));
            series.iter().map(entry).collect()
        }
    };
    let class = if size == WIDE { " class=\"wide\"" } else { "" };
    let heading = format!("<h2>{}</h2><span class=\"unit\">{unit}</span>{legend}", escape(title));
    let svg = Chart { title, series, origin, size }.svg();
    format!("<figure{class}>\n<figcaption>{heading}</figcaption>\n{svg}</figure>\n")
}

/// The settings: those of no section first, then a table a section.
fn table(settings: &Table) -> String {
    if settings.is_empty() {
        return String::new();
    }
    let mut sections = vec![(String::new(), Vec::new())];
    collect("", settings, &mut sections);
    let mut html = String::from("<section>\n<h2>Settings</h2>\n<div class=\"settings\">\n");
    for (name, rows) in sections.iter().filter(|(_, rows)| !rows.is_empty()) {
        let caption =
            if name.is_empty() { String::new() } else { format!("<caption>{}</caption>", escape(name)) };
        html += &format!("<table>{caption}<tbody>\n");
        for (key, value) in rows {
            html += &format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape(key), escape(value));
        }
        html += "</tbody></table>\n";
    }
    html + "</div>\n</section>\n"
}

/// Adds the rows of a table to the last section, and then its inner tables as sections of their own.
fn collect(name: &str, table: &Table, sections: &mut Vec<(String, Vec<(String, String)>)>) {
    let mut inner = Vec::new();
    let mut rows = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(table) => inner.push((key, table)),
            Value::String(text) => rows.push((key.clone(), text.clone())),
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => {
                rows.push((key.clone(), value.to_string()));
            }
        }
    }
    sections.push((name.to_owned(), rows));
    for (key, table) in inner {
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        collect(&name, table, sections);
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            c => escaped.push(c),
        }
    }
    escaped
}

/// A number in at most so many digits: `12.3k`, `1.5M`, `3e-4`.
fn compact(x: f64, digits: usize) -> String {
    let rounded = format!("{x:.*e}", digits.saturating_sub(1)).parse().unwrap_or(x);
    compact_like(rounded, digits, rounded)
}

/// A number in at most so many digits, with the suffix that `like` would have.
fn compact_like(x: f64, digits: usize, like: f64) -> String {
    if x == 0.0 {
        return "0".into();
    }
    let (unit, suffix) = match like.abs() {
        _ if !x.is_finite() => return x.to_string(),
        size if !(1e-3..1e15).contains(&size) => {
            let text = format!("{x:.*e}", digits.saturating_sub(1));
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            return format!("{}e{exponent}", without_zeros(mantissa));
        }
        1e12.. => (1e12, "T"),
        1e9.. => (1e9, "B"),
        1e6.. => (1e6, "M"),
        1e4.. => (1e3, "k"),
        _ => (1.0, ""),
    };
    let scaled = x / unit;
    let decimals = (digits as f64 - 1.0 - scaled.abs().log10().floor()).max(0.0) as usize;
    format!("{}{suffix}", without_zeros(&format!("{scaled:.decimals$}")))
}

/// Without zeros at the end of what stands behind the point.
fn without_zeros(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

#[cfg(test)]
mod tests;
