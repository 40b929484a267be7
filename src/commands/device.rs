//! Which device computes: the flags, and moving a model there.

use anyhow::{Result, bail};
use clap::ValueEnum;
use wootz_kernels::device::{Accelerator, Api, Error, Gpu, Info};
use wootz_model::Model;

/// Which device computes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// Who computes; `auto` is a GPU where there is one that has room for the model, and the CPU where not
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceArg,
    /// How many of the model's layers the GPU takes: the last ones [default: all]
    #[arg(long, value_name = "N")]
    pub gpu_layers: Option<u32>,
    /// The GPU whose name contains this, where there are several (or a driver that is the CPU in disguise)
    #[arg(long, value_name = "NAME")]
    pub gpu_name: Option<String>,
    /// Fail where the GPU has no kernel for an operation, rather than let the CPU compute it
    #[arg(long)]
    pub no_fallback: bool,
}

/// A device by its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    /// A GPU where there is one with room for the model
    Auto,
    /// The CPU
    Cpu,
    /// A GPU through Metal
    Metal,
    /// A GPU through Vulkan
    Vulkan,
}

impl DeviceArg {
    /// The GPUs that it means; `None` for the CPU.
    pub fn api(self) -> Option<Api> {
        match self {
            DeviceArg::Auto => Some(Api::Any),
            DeviceArg::Cpu => None,
            DeviceArg::Metal => Some(Api::Metal),
            DeviceArg::Vulkan => Some(Api::Vulkan),
        }
    }
}

impl DeviceArgs {
    /// Whether a GPU is taken only because it is there.
    fn is_auto(&self) -> bool {
        self.device == DeviceArg::Auto
            && self.gpu_name.is_none()
            && self.gpu_layers.is_none_or(|layers| layers == 0)
    }

    /// Says that the CPU is to compute because something does not fit, where that something would have been on a GPU.
    ///
    /// # Errors
    /// The reason, where somebody asked for the GPU, or there is none to leave.
    pub fn leave_to_cpu(&self, on_gpu: bool, why: anyhow::Error) -> Result<()> {
        if !self.is_auto() || !on_gpu {
            return Err(why);
        }
        eprintln!("the CPU computes: {why:#}");
        Ok(())
    }

    /// Holds what is to be done with a model against `check`. Where that fails for a model on a GPU that nobody asked for, the
    /// model is brought back for the CPU to do it, and checked once more.
    ///
    /// # Errors
    /// What `check` says, of the place that is taken in the end.
    pub fn fit(&self, model: &mut Model, check: impl Fn(&Model) -> Result<()>) -> Result<()> {
        let Err(error) = check(model) else { return Ok(()) };
        self.leave_to_cpu(model.gpu().is_some(), error)?;
        model.take_back()?;
        check(model)
    }

    /// Opens the GPU that is asked for; `None` where the CPU is to compute.
    ///
    /// # Errors
    /// There is none, or it does not open. With `auto` that is no error.
    pub fn open(&self) -> Result<Option<Accelerator>> {
        let is_asked_for = self.gpu_name.is_some() || self.gpu_layers.is_some_and(|layers| layers > 0);
        let Some(api) = self.device.api() else {
            if is_asked_for {
                bail!("--gpu-layers and --gpu-name are for a GPU, and --device cpu says that none computes");
            }
            return Ok(None);
        };
        if self.gpu_layers == Some(0) {
            return Ok(None);
        }
        let is_auto = self.is_auto();
        // Who names an interface takes what there is behind it: a software driver too, if there is nothing else.
        match Accelerator::open(api, self.gpu_name.as_deref(), !is_auto) {
            Ok(gpu) => {
                if self.no_fallback {
                    gpu.forbid_fallback();
                }
                Ok(Some(gpu))
            }
            Err(Error::NoAdapter { .. }) if is_auto => Ok(None),
            Err(error) if is_auto => {
                eprintln!("the GPU is left alone: {error}");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the GPU that is asked for, if one is, and moves the model's layers there.
    ///
    /// # Errors
    /// As [`DeviceArgs::open`], and a GPU without room. With `auto` the CPU computes then.
    pub fn place(&self, model: &mut Model) -> Result<()> {
        match self.open()? {
            Some(gpu) => self.place_on(&gpu, model),
            None => Ok(()),
        }
    }

    /// Moves the model's layers to a GPU that [`DeviceArgs::open`] has opened.
    ///
    /// # Errors
    /// As [`DeviceArgs::place`].
    pub fn place_on(&self, gpu: &Accelerator, model: &mut Model) -> Result<()> {
        let all = model.config().n_layers();
        let layers = self.gpu_layers.map_or(all, |layers| layers as usize);
        let moved = match shortage(model, gpu.info(), layers.min(all)) {
            Some(shortage) => Err(anyhow::Error::msg(shortage)),
            None => model.place(gpu, layers).map_err(anyhow::Error::from),
        };
        match moved {
            Ok(()) => {
                let Info { name, api, .. } = gpu.info();
                eprintln!("{} of {all} layers on {name} ({api})", model.gpu_layers());
                Ok(())
            }
            Err(error) if self.is_auto() => {
                eprintln!("the CPU computes: {error:#}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Why the weights of so many layers do not fit; `None` where they do, or the driver does not say what memory there is.
fn shortage(model: &Model, info: &Info, layers: usize) -> Option<String> {
    let memory = info.memory_bytes?;
    let all = model.config().n_layers().max(1);
    let needed = (model.weight_bytes() as u64).saturating_mul(layers as u64) / all as u64;
    (needed > memory).then(|| {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        format!(
            "{layers} layers take about {:.1} GiB, and {} has {:.1} GiB; give it fewer with --gpu-layers, or take a \
             smaller type of weights",
            gib(needed),
            info.name,
            gib(memory)
        )
    })
}

/// Says how often the CPU had to compute for the GPU, if it ever had to.
pub fn report_fallbacks(model: &Model) {
    if let Some(gpu) = model.gpu()
        && gpu.fallbacks() > 0
    {
        eprintln!(
            "{} operations were computed on the CPU, because the GPU has no kernel for them (--no-fallback makes that an error)",
            gpu.fallbacks()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_left_where_nobody_asked_for_it() {
        let auto =
            DeviceArgs { device: DeviceArg::Auto, gpu_layers: None, gpu_name: None, no_fallback: false };
        let too_large = || anyhow::anyhow!("too large");
        assert!(auto.leave_to_cpu(true, too_large()).is_ok());
        assert_eq!(auto.leave_to_cpu(false, too_large()).unwrap_err().to_string(), "too large");
        let asked = DeviceArgs { gpu_layers: Some(2), ..auto.clone() };
        let named = DeviceArgs { gpu_name: Some("llvm".into()), ..auto.clone() };
        let vulkan = DeviceArgs { device: DeviceArg::Vulkan, ..auto.clone() };
        for args in [&asked, &named, &vulkan] {
            assert!(args.leave_to_cpu(true, too_large()).is_err(), "{args:?}");
        }

        let Ok(gpu) = Accelerator::open(Api::Any, None, true) else {
            println!("skipped: no GPU, nor a driver that is one in software");
            return;
        };
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/story.gguf");
        let mut model = Model::load(&path, &wootz_model::load::LoadOptions::default()).unwrap();
        let fits_on_cpu = |model: &Model| if model.gpu().is_some() { Err(too_large()) } else { Ok(()) };
        model.place(&gpu, usize::MAX).unwrap();
        assert!(vulkan.fit(&mut model, fits_on_cpu).is_err() && model.gpu().is_some());
        auto.fit(&mut model, |_| Ok(())).unwrap();
        assert!(model.gpu().is_some());
        auto.fit(&mut model, fits_on_cpu).unwrap();
        assert!(model.gpu().is_none() && model.gpu_layers() == 0);
    }
}
