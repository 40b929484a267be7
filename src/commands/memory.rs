//! The memory plan of a run: printed before anything is taken, and refused where it does not fit.

use anyhow::{Result, bail};
use wootz_kernels::device::{Accelerator, Gpu};
use wootz_model::plan::{Memory, Share};
use wootz_model::{DecoderConfig, Model};

/// Bytes by what they hold.
pub type Rows<'a> = &'a [(&'static str, usize)];

/// Whose memory a run takes.
#[derive(Clone, Copy)]
pub enum Whose<'a> {
    /// The machine's, of which so many bytes are taken already.
    Host(usize),
    /// A GPU's.
    Device(&'a Accelerator),
}

impl Whose<'_> {
    /// As a plan calls it.
    pub fn memory(self) -> Memory {
        match self {
            Whose::Host(_) => Memory::Host,
            Whose::Device(_) => Memory::Device,
        }
    }
}

/// Where a model is to be whose last `layers` blocks go to a GPU, of the machine's memory so many bytes are taken already: in
/// whose memory there is which share of it.
pub fn places<'a>(
    gpu: Option<&'a Accelerator>,
    layers: usize,
    config: &DecoderConfig,
    taken: usize,
) -> Vec<(Whose<'a>, Share)> {
    match gpu {
        Some(gpu) if layers >= config.n_layers() => vec![(Whose::Device(gpu), Share::All)],
        Some(gpu) if layers > 0 => {
            vec![(Whose::Host(taken), Share::AllBut(layers)), (Whose::Device(gpu), Share::Last(layers))]
        }
        _ => vec![(Whose::Host(taken), Share::All)],
    }
}

/// Where a model is.
pub fn places_of(model: &Model) -> Vec<(Whose<'_>, Share)> {
    let layers = model.gpu_layers();
    let taken = model.weight_bytes_of(Share::AllBut(layers));
    places(model.gpu(), layers, model.config(), taken)
}

/// Prints what a run will take, and refuses what does not fit. `limit` is in MiB; without one, what is free counts, or what a
/// GPU has. `advice` is what to do where it does not fit.
///
/// # Errors
/// It does not fit.
pub fn check(rows: Rows, whose: Whose, limit: Option<usize>, advice: &str) -> Result<()> {
    let total: usize = rows.iter().map(|(_, bytes)| bytes).sum();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let list: Vec<String> = (rows.iter().filter(|(_, bytes)| *bytes > 0))
        .map(|(name, bytes)| format!("{name} {:.1}", mib(*bytes)))
        .collect();
    let (of, there) = match whose {
        Whose::Host(taken) => (String::new(), free().map(|free| free + taken)),
        Whose::Device(gpu) => {
            let bytes = gpu.info().memory_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
            (format!(" of {}", gpu.info().name), bytes)
        }
    };
    eprintln!("memory{of}: {:.1} MiB ({})", mib(total), list.join(", "));
    let available = limit.map(|limit| limit << 20).or(there);
    if let Some(available) = available
        && total > available
    {
        bail!(
            "{:.0} MiB are needed and {:.0} MiB {}; try {advice}{}",
            mib(total),
            mib(available),
            match whose {
                _ if limit.is_some() => "allowed",
                Whose::Host(_) => "free",
                Whose::Device(_) => "on the device",
            },
            match whose {
                Whose::Host(_) => "",
                Whose::Device(_) => ", or --device cpu",
            }
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
