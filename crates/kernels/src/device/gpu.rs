//! What a GPU does for the ops, and what a kernel is.
//!
//! The trait knows bytes and kernels, no tensors and no ops, so that it stays this small: an op brings its
//! kernels as data ([`Kernel`]) and launches them through [`Gpu::launch`].

/// A GPU, through one of its drivers.
///
/// Work is queued in the order of the calls, and each call sees what those before it wrote. [`Gpu::download`]
/// and [`Gpu::synchronize`] wait for the queue; the others may return before their work is done, in which
/// case an error of theirs is returned by a later call.
///
/// Sizes and offsets are in bytes and multiples of 4.
pub trait Gpu {
    /// Memory on the device; freed when dropped.
    type Buffer: DeviceBuffer;

    /// The device's name and limits.
    fn info(&self) -> &Info;

    /// Takes `bytes` of device memory. What it holds is undefined.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::TooLarge`] when the device has the memory but no kernel could read it
    /// at once.
    fn alloc(&self, bytes: usize) -> Result<Self::Buffer>;

    /// Writes `data` to `buffer`, from byte `offset` on.
    fn upload(&self, buffer: &Self::Buffer, offset: usize, data: &[u8]) -> Result<()>;

    /// Reads `data.len()` bytes of `buffer` from byte `offset` on, after all that was launched before.
    fn download(&self, buffer: &Self::Buffer, offset: usize, data: &mut [u8]) -> Result<()>;

    /// Makes `kernel` ready to launch. [`Gpu::launch`] does so by itself at the first launch; calling this
    /// first moves the time that it takes, and the errors, to where they disturb less.
    ///
    /// # Errors
    /// [`Error::Compile`] with the kernel's name and the line; [`Error::Unsupported`] when the kernel has no
    /// source for this driver.
    fn compile(&self, kernel: &'static Kernel) -> Result<()>;

    /// Runs `kernel` over `groups` workgroups (CUDA: blocks), with `buffers` in the order of
    /// [`Kernel::buffers`] and `scalars` in the order of [`Kernel::scalars`].
    ///
    /// A buffer may be given twice if the kernel only reads it at both places.
    ///
    /// # Safety
    /// With these scalars and this grid, the kernel reads and writes inside `buffers` only. (No driver checks an index, but
    /// for wgpu in builds with debug assertions.)
    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        buffers: &[&Self::Buffer],
        scalars: &[Scalar],
        groups: [u32; 3],
    ) -> Result<()>;

    /// Waits until all work is done, and returns the first error that it met.
    fn synchronize(&self) -> Result<()>;
}

/// Memory on a device.
pub trait DeviceBuffer {
    /// How many bytes were asked for.
    fn bytes(&self) -> usize;
}

/// What a device is and what it allows.
#[derive(Clone, Debug)]
pub struct Info {
    /// As its driver calls it: `NVIDIA H200`, `llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub name: String,
    /// The interface it is driven through: `Vulkan`, `Metal`, `CUDA`.
    pub api: &'static str,
    /// The driver and its version, as far as it says so.
    pub driver: String,
    /// Whether it is a CPU in disguise (lavapipe, SwiftShader): good for tests, slow.
    pub software: bool,
    /// The most bytes that one buffer of a kernel may have.
    pub max_buffer_bytes: u64,
    /// The device's memory in bytes, where the driver tells.
    pub memory_bytes: Option<u64>,
    /// Memory and threads that a workgroup may have.
    pub workgroup_bytes: usize,
    /// As above.
    pub workgroup_threads: usize,
    /// What it can do beyond the portable minimum, by name: `subgroups of 32`, `f16`.
    pub features: Vec<String>,
    /// What the kernels make use of.
    pub ability: Ability,
}

/// A kernel: the same computation in each language, and how it is called.
///
/// Both sources have an entry point `entry`. In WGSL the buffers are `@group(0) @binding(index)` and
/// the scalars one struct in `var<immediate>`; in CUDA the parameters are the buffers in the order of
/// `buffers`, then a struct of the scalars, by value. Both structs hold 32-bit members only, so the bytes are
/// the same.
#[derive(Debug)]
pub struct Kernel {
    /// `<op>_<direction>`, and the type where there are several; unique among all kernels.
    pub name: &'static str,
    /// The entry point of the sources. Kernels for several types share one text, each with another piece before it.
    pub entry: &'static str,
    /// Its texts in WGSL, if the kernel exists in WGSL.
    pub wgsl: Option<Wgsl>,
    /// The text of the `.cu` file, if the kernel exists in CUDA.
    pub cuda: Option<&'static str>,
    /// Threads of a workgroup (CUDA: block) in x, y, z.
    pub workgroup: [u32; 3],
    /// The buffers, at most 8: Metal's and WebGPU's portable limit for storage buffers.
    pub buffers: &'static [Binding],
    /// The scalars, at most 32: Vulkan guarantees 128 bytes.
    pub scalars: &'static [ScalarKind],
}

/// A kernel in WGSL: a text that every device runs, and others for devices that can do more.
///
/// They have the same entry point, buffers, scalars and workgroups, so that a launcher need not know them apart: the
/// driver takes the last one that its device runs. A text is in pieces, which others share.
#[derive(Clone, Copy, Debug)]
pub struct Wgsl {
    /// For every device.
    pub plain: &'static [&'static str],
    /// With subgroup operations, of whatever size a subgroup has. What it computes has the bits of the plain text.
    pub subgroups: Option<&'static [&'static str]>,
    /// With cooperative matrices 8x8 of f32, by subgroups of 32. Its bits are its own: the device chooses the order of the
    /// sums. So it is for kernels whose results are compared with no other kernel's.
    pub matrices: Option<&'static [&'static str]>,
}

impl Ability {
    /// What it is called, for messages and `WOOTZ_GPU_KERNELS`.
    pub fn name(self) -> &'static str {
        match self {
            Ability::Plain => "plain",
            Ability::Subgroups => "subgroups",
            Ability::Matrices => "matrices",
        }
    }

    /// The ability of this name.
    pub fn from_name(name: &str) -> Option<Ability> {
        [Ability::Plain, Ability::Subgroups, Ability::Matrices].into_iter().find(|one| one.name() == name)
    }

    /// What is left of it where that which it is named after does not work.
    pub fn less(self) -> Ability {
        match self {
            Ability::Plain | Ability::Subgroups => Ability::Plain,
            Ability::Matrices => Ability::Subgroups,
        }
    }
}

impl Wgsl {
    /// One text for all devices.
    pub const fn plain(pieces: &'static [&'static str]) -> Option<Wgsl> {
        Some(Wgsl { plain: pieces, subgroups: None, matrices: None })
    }

    /// The texts that there are, each with what it asks for, the best last.
    pub fn texts(&self) -> impl Iterator<Item = (Ability, String)> {
        let others = [(Ability::Subgroups, self.subgroups), (Ability::Matrices, self.matrices)];
        let others = others.into_iter().filter_map(|(ability, pieces)| Some((ability, pieces?)));
        std::iter::once((Ability::Plain, self.plain))
            .chain(others)
            .map(|(ability, pieces)| (ability, pieces.concat()))
    }

    /// The text for a device that has `ability`, and what it asks for.
    pub fn text_for(&self, ability: Ability) -> (Ability, String) {
        let fitting = self.texts().filter(|(asks, _)| *asks <= ability);
        fitting.last().unwrap_or_else(|| (Ability::Plain, self.plain.concat()))
    }
}

/// What a text of a kernel asks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ability {
    /// Nothing.
    Plain,
    /// Subgroup operations.
    Subgroups,
    /// Subgroup operations, and cooperative matrices 8x8 of f32 by subgroups of 32.
    Matrices,
}

/// A buffer of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its name in the sources, for messages.
    pub name: &'static str,
    /// Its `@binding` number in the `.wgsl` file. A file gives each buffer one number; a kernel uses some of
    /// them.
    pub index: u32,
    /// What the kernel does with it.
    pub access: Access,
}

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes it, and may read it.
    Write,
}

/// A buffer that a kernel reads.
pub const fn read(index: u32, name: &'static str) -> Binding {
    Binding { name, index, access: Access::Read }
}

/// A buffer that a kernel writes.
pub const fn write(index: u32, name: &'static str) -> Binding {
    Binding { name, index, access: Access::Write }
}

/// The type of a scalar parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarKind {
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, floating.
    F32,
}

/// A scalar parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// 32 bits, unsigned.
    U32(u32),
    /// 32 bits, floating.
    F32(f32),
}

impl Scalar {
    /// Its type.
    pub fn kind(self) -> ScalarKind {
        match self {
            Scalar::U32(_) => ScalarKind::U32,
            Scalar::F32(_) => ScalarKind::F32,
        }
    }

    /// Its bytes, as both languages lay them out.
    pub fn to_bytes(self) -> [u8; 4] {
        match self {
            Scalar::U32(value) => value.to_ne_bytes(),
            Scalar::F32(value) => value.to_ne_bytes(),
        }
    }
}

impl Kernel {
    /// Checks that `buffers` buffers and these `scalars` are what the kernel takes; for drivers.
    ///
    /// # Errors
    /// [`Error::Argument`] that names the kernel and what differs.
    pub fn check_arguments(&self, buffers: usize, scalars: &[Scalar]) -> Result<()> {
        if buffers != self.buffers.len() {
            return Err(Error::Argument {
                place: self.name,
                what: "number of buffers".into(),
                expected: self.buffers.len().to_string(),
                found: buffers.to_string(),
            });
        }
        let found: Vec<ScalarKind> = scalars.iter().map(|scalar| scalar.kind()).collect();
        if found != self.scalars {
            return Err(Error::Argument {
                place: self.name,
                what: "scalars".into(),
                expected: format!("{:?}", self.scalars),
                found: format!("{found:?}"),
            });
        }
        Ok(())
    }
}

/// What can go wrong on a device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No device of this kind, or no driver for it.
    #[error("no {api} device: {why}; {advice}")]
    NoAdapter {
        /// `CUDA`, `Vulkan or Metal`.
        api: &'static str,
        /// What was looked for and not found.
        why: String,
        /// What to install or to ask for instead.
        advice: String,
    },
    /// The kernel compiler of this driver is not installed.
    #[error(
        "no CUDA compiler: {why}; install it with `pip install nvidia-cuda-nvrtc` and set WOOTZ_NVRTC to the folder"
    )]
    NoCompiler {
        /// Where it was looked for.
        why: String,
    },
    /// The device went away: reset, unplugged, taken by another process, or hung by a kernel.
    #[error("{device} was lost: {why}; its memory is gone, open the device again")]
    Lost {
        /// The device's name.
        device: String,
        /// What the driver says.
        why: String,
    },
    /// The device has no such amount of memory left.
    #[error(
        "{device} is out of memory: {bytes} bytes more were asked for; use fewer layers on it, a shorter context or a smaller batch"
    )]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// What was asked for.
        bytes: usize,
    },
    /// One buffer is larger than the device lets a kernel read.
    #[error(
        "a buffer of {bytes} bytes is more than the {limit} that {device} lets a kernel read at once; split it, or use another device"
    )]
    TooLarge {
        /// The device's name.
        device: String,
        /// What was asked for.
        bytes: usize,
        /// The device's limit.
        limit: u64,
    },
    /// A kernel's source does not compile.
    #[error("kernel {kernel}{}: {message}", match line { Some(line) => format!(", line {line}"), None => String::new() })]
    Compile {
        /// Its name.
        kernel: &'static str,
        /// The line of its source, if the compiler tells.
        line: Option<u32>,
        /// What the compiler says.
        message: String,
    },
    /// A kernel does not exist for this device.
    #[error("kernel {kernel} cannot run on {device}: {why}")]
    Unsupported {
        /// Its name.
        kernel: &'static str,
        /// The device's name.
        device: String,
        /// What is missing.
        why: String,
    },
    /// A call with something that does not fit: a buffer too small, the wrong number of scalars.
    #[error("{place}: {what}: expected {expected}, found {found}")]
    Argument {
        /// The kernel or the call.
        place: &'static str,
        /// The argument.
        what: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The driver refused something for a reason of its own.
    #[error("{device}: {doing}: {why}")]
    Driver {
        /// The device's name.
        device: String,
        /// What was being done.
        doing: String,
        /// What the driver says.
        why: String,
    },
}

/// The result of a device's work.
pub type Result<T> = std::result::Result<T, Error>;

/// Checks the range of an upload or download; for drivers.
///
/// # Errors
/// [`Error::Argument`] when the range is outside the buffer, or not in multiples of 4 bytes.
pub fn check_range(place: &'static str, buffer_bytes: usize, offset: usize, bytes: usize) -> Result<()> {
    let end = offset.checked_add(bytes);
    if end.is_none_or(|end| end > buffer_bytes) || !offset.is_multiple_of(4) || !bytes.is_multiple_of(4) {
        return Err(Error::Argument {
            place,
            what: "range".into(),
            expected: format!("multiples of 4 within {buffer_bytes} bytes"),
            found: format!("{bytes} bytes from byte {offset}"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::kernels;

    #[test]
    fn kernels_are_well_formed() {
        for (i, kernel) in kernels().enumerate() {
            let name = kernel.name;
            assert!(kernels().take(i).all(|other| other.name != name), "{name} is there twice");
            assert!(kernel.wgsl.is_some() || kernel.cuda.is_some(), "{name} has no source");
            assert!(kernel.buffers.len() <= 8, "{name} has more than 8 buffers");
            assert!(kernel.scalars.len() <= 32, "{name} has more than 128 bytes of scalars");
            for (j, binding) in kernel.buffers.iter().enumerate() {
                let taken = kernel.buffers[..j].iter().any(|other| other.index == binding.index);
                assert!(!taken, "{name}: two buffers at binding {}", binding.index);
            }
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let kernel = kernels().next().unwrap();
        let few = kernel.check_arguments(1, &[]).unwrap_err().to_string();
        assert_eq!(few, "rmsnorm_forward: number of buffers: expected 3, found 1");
        let scalars = [Scalar::U32(1), Scalar::U32(1), Scalar::U32(1), Scalar::F32(1.0)];
        let wrong = kernel.check_arguments(3, &scalars).unwrap_err().to_string();
        assert!(wrong.contains("expected [U32, U32, F32, F32], found [U32, U32, U32, F32]"), "{wrong}");
        assert!(
            kernel
                .check_arguments(3, &[Scalar::U32(1), Scalar::U32(1), Scalar::F32(0.0), Scalar::F32(1.0)])
                .is_ok()
        );
    }

    #[test]
    fn ranges_are_checked() {
        assert!(check_range("upload", 16, 4, 12).is_ok());
        for (offset, bytes) in [(4, 16), (usize::MAX - 3, 8), (2, 4), (0, 3)] {
            assert!(check_range("upload", 16, offset, bytes).is_err(), "{offset} {bytes}");
        }
    }
}
