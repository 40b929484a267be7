//! `wootz doctor`: what this machine can do, which device would compute, and why.

use super::device::{DeviceArg, DeviceArgs};
use anyhow::Result;
use serde_json::json;
use wootz_kernels::device::{Accelerator, Gpu, Info, trial};
use wootz_kernels::pool;
use wootz_kernels::simd::IsaKind;

/// Show what this machine can do, and which device would compute and why
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// What came of looking at a GPU.
struct Verdict {
    info: Info,
    is_chosen: bool,
    why: String,
}

/// Runs the command.
///
/// # Errors
/// A device that was asked for by name is not there.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let opened = args.device.open();
    let chosen = opened.as_ref().ok().and_then(Option::as_ref).map(|gpu| gpu.info().clone());
    let verdicts: Vec<Verdict> =
        Accelerator::list().into_iter().map(|info| judge(info, &args.device, chosen.as_ref())).collect();
    let choice = match &chosen {
        Some(info) => format!("{} through {}", info.name, info.api),
        None => "the CPU".to_owned(),
    };
    let tried = opened.as_ref().ok().and_then(Option::as_ref).map(probe);
    if args.json {
        let gpus: Vec<_> = verdicts.iter().map(to_json).collect();
        println!(
            "{}",
            json!({
                "instruction_set": IsaKind::current().name(),
                "threads": pool::default_threads(),
                "memory_bytes": memory(),
                "gpus": gpus,
                "chosen": choice,
                "chosen_works": tried.as_ref().map(Result::is_ok),
                "error": opened.as_ref().err().map(|error| format!("{error:#}")),
            })
        );
    } else {
        print(&verdicts);
        match &opened {
            Ok(_) => println!("computes: {choice}"),
            Err(error) => println!("computes: nothing: {error:#}"),
        }
        match &tried {
            Some(Ok(())) => {
                println!("          kernels were compiled and run there, and gave what they should")
            }
            Some(Err(error)) => println!("          but it does not work: {error:#}"),
            None => {}
        }
        if verdicts.is_empty() {
            println!("{}", advice());
        }
    }
    tried.transpose()?;
    opened.map(|_| ())
}

fn print(verdicts: &[Verdict]) {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    print!("CPU       {}, {} threads", IsaKind::current().name(), pool::default_threads());
    match memory() {
        Some(bytes) => println!(", {:.1} GiB of memory free", gib(bytes)),
        None => println!(),
    }
    for Verdict { info, is_chosen, why } in verdicts {
        println!("{}     {} through {}", if *is_chosen { "GPU *" } else { "GPU  " }, info.name, info.api);
        println!("          driver {}", info.driver);
        match info.memory_bytes {
            Some(bytes) => println!("          memory {:.1} GiB", gib(bytes)),
            None => println!("          memory: the driver does not say"),
        }
        println!(
            "          buffers up to {:.2} GiB, {} bytes of a workgroup's memory, {} threads of a workgroup",
            gib(info.max_buffer_bytes),
            info.workgroup_bytes,
            info.workgroup_threads
        );
        println!("          features: {}; kernels: {}", info.features.join(", "), info.ability.name());
        println!("          {why}");
    }
}

fn to_json(verdict: &Verdict) -> serde_json::Value {
    let Verdict { info, is_chosen, why } = verdict;
    json!({
        "name": info.name,
        "api": info.api,
        "driver": info.driver,
        "software": info.software,
        "memory_bytes": info.memory_bytes,
        "max_buffer_bytes": info.max_buffer_bytes,
        "workgroup_bytes": info.workgroup_bytes,
        "workgroup_threads": info.workgroup_threads,
        "features": info.features,
        "kernels": info.ability.name(),
        "chosen": is_chosen,
        "why": why,
    })
}

/// Why a GPU was chosen or not.
fn judge(mut info: Info, args: &DeviceArgs, chosen: Option<&Info>) -> Verdict {
    let is_chosen = chosen.is_some_and(|c| c.name == info.name && c.api == info.api);
    if let Some(opened) = chosen.filter(|_| is_chosen) {
        info.ability = opened.ability; // what it has proved to do
    }
    let is_named = |name: &String| info.name.to_lowercase().contains(&name.to_lowercase());
    let why = match (args.device, &args.gpu_name) {
        _ if is_chosen => "chosen: the first that is asked for; discrete GPUs come before others".to_owned(),
        (DeviceArg::Cpu, _) => "not chosen: --device cpu".to_owned(),
        (device, _) if device.api().is_some_and(|api| !api.takes(&info)) => {
            format!("not chosen: it is driven through {}", info.api)
        }
        (_, Some(name)) if !is_named(name) => format!("not chosen: its name has no `{name}` in it"),
        (DeviceArg::Auto, None) if info.software => {
            "not chosen: it is the CPU in disguise, and slower; --device vulkan takes it all the same"
                .to_owned()
        }
        _ => "not chosen: another comes first; --gpu-name takes it".to_owned(),
    };
    Verdict { info, is_chosen, why }
}

/// Compiles and runs some kernels, and looks at what they give.
fn probe(gpu: &Accelerator) -> Result<()> {
    if !trial::succeeds(gpu)? {
        anyhow::bail!("{}: kernels gave wrong numbers; try another driver", gpu.info().name)
    }
    Ok(())
}

/// What would make a GPU appear.
fn advice() -> &'static str {
    if !cfg!(feature = "gpu") {
        "no GPU:   this build has no driver; build with `--features gpu`"
    } else if cfg!(target_os = "macos") {
        "no GPU:   Metal found none"
    } else {
        "no GPU:   no Vulkan driver was found. Install the one of your GPU (Debian: nvidia-driver, or mesa-vulkan-drivers \
         for AMD and Intel, and libvulkan1 for all); mesa-vulkan-drivers also has one in software, for trying things out"
    }
}

/// Memory of the machine that is free, in bytes, where the system says.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}
