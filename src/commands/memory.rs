//! The memory plan of a run: printed before anything is taken, and refused where it does not fit.

use anyhow::{Result, bail};

/// Bytes by what they hold.
pub type Rows<'a> = &'a [(&'static str, usize)];

/// Prints what a run will take, and refuses what does not fit. `taken` of it is in memory already. `limit` is in MiB;
/// without one, what is free counts. `advice` is what to do where it does not fit.
///
/// # Errors
/// It does not fit.
pub fn check(rows: Rows, taken: usize, limit: Option<usize>, advice: &str) -> Result<()> {
    let total: usize = rows.iter().map(|(_, bytes)| bytes).sum();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let list: Vec<String> = (rows.iter().filter(|(_, bytes)| *bytes > 0))
        .map(|(name, bytes)| format!("{name} {:.1}", mib(*bytes)))
        .collect();
    eprintln!("memory: {:.1} MiB ({})", mib(total), list.join(", "));
    let available = limit.map(|limit| limit << 20).or_else(|| free().map(|free| free + taken));
    if let Some(available) = available
        && total > available
    {
        bail!(
            "{:.0} MiB are needed and {:.0} MiB {}; try {advice}",
            mib(total),
            mib(available),
            if limit.is_some() { "allowed" } else { "free" }
        );
    }
    Ok(())
}

/// Memory that can be taken without swapping, in bytes, where the system says.
fn free() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}
