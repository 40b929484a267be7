//! A GPU as the rest of the program sees it: one of the drivers, with memory that is used again.
//!
//! Buffers come from an arena: what is dropped is kept and handed out again, so that after the first tokens nothing is
//! allocated. It also counts what had to leave the device because an operation has no kernel for it ([`Accelerator::fall_back`]).

#[cfg(feature = "wgpu")]
use super::gpu::Ability;
use super::gpu::{DeviceBuffer, Error, Gpu, Info, Kernel, Result, Scalar, check_range};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The interface through which a GPU is to be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Whichever is there.
    Any,
    /// Vulkan.
    Vulkan,
    /// Metal.
    Metal,
}

impl Api {
    /// As [`Info::api`] has it; `None` where any will do.
    fn name(self) -> Option<&'static str> {
        match self {
            Api::Any => None,
            Api::Vulkan => Some("Vulkan"),
            Api::Metal => Some("Metal"),
        }
    }

    /// Whether a device is driven through it.
    pub fn takes(self, info: &Info) -> bool {
        self.name().is_none_or(|name| name == info.api)
    }
}

/// A GPU, shared by all that has values on it.
#[derive(Clone)]
pub struct Accelerator(Arc<Shared>);

struct Shared {
    driver: Driver,
    info: Info,
    /// Buffers that nobody uses, by their size in bytes.
    free: Mutex<BTreeMap<usize, Vec<Raw>>>,
    /// Bytes that are allocated, those of free buffers included; and of buffers in use, now and at most.
    held: AtomicUsize,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// Bytes that may be allocated.
    limit: AtomicUsize,
    /// How often an operation was computed on the CPU for want of a kernel, and whether that is an error.
    fallbacks: AtomicUsize,
    is_strict: AtomicBool,
}

/// The drivers of this build.
enum Driver {
    #[cfg(feature = "wgpu")]
    Wgpu(super::wgpu::Wgpu),
}

/// A buffer of one of them.
enum Raw {
    #[cfg(feature = "wgpu")]
    Wgpu(super::wgpu::WgpuBuffer),
}

/// Memory of an [`Accelerator`], which returns there when it is dropped. What it holds at first is undefined.
pub struct Memory {
    raw: Option<Raw>,
    bytes: usize,
    owner: Accelerator,
}

impl DeviceBuffer for Memory {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Memory {
    /// The device that it belongs to.
    pub fn owner(&self) -> &Accelerator {
        &self.owner
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(raw) = self.raw.take() else { return };
        let shared = &self.owner.0;
        shared.used.fetch_sub(raw.bytes(), Ordering::Relaxed);
        lock(&shared.free).entry(raw.bytes()).or_default().push(raw);
    }
}

impl Raw {
    fn bytes(&self) -> usize {
        match *self {
            #[cfg(feature = "wgpu")]
            Raw::Wgpu(ref buffer) => buffer.bytes(),
        }
    }
}

impl Driver {
    fn alloc(&self, bytes: usize) -> Result<Raw> {
        let _ = bytes;
        match *self {
            #[cfg(feature = "wgpu")]
            Driver::Wgpu(ref gpu) => gpu.alloc(bytes).map(Raw::Wgpu),
        }
    }
}

/// Small buffers come in powers of two from this size on, so that they fit again.
const SMALLEST: usize = 256;
/// Larger ones in steps of this size.
const STEP: usize = 1 << 12;

/// The bytes that are allocated for a buffer of `bytes`.
fn rounded(bytes: usize) -> usize {
    match bytes {
        0..STEP => bytes.next_power_of_two().max(SMALLEST),
        _ => bytes.next_multiple_of(STEP),
    }
}

/// What kernels may make use of at most, by the environment.
#[cfg(feature = "wgpu")]
fn most_ability() -> Result<Ability> {
    let Ok(name) = std::env::var("WOOTZ_GPU_KERNELS") else { return Ok(Ability::Matrices) };
    Ability::from_name(&name).ok_or_else(|| Error::Argument {
        place: "WOOTZ_GPU_KERNELS",
        what: "kernels".into(),
        expected: "plain, subgroups or matrices".into(),
        found: format!("`{name}`"),
    })
}

impl Accelerator {
    /// Opens a device: the first of [`Accelerator::list`] that `api` takes and whose name contains `name`, in upper or lower
    /// case. A CPU in disguise is taken only where it is named or `software` allows it.
    ///
    /// Its kernels make use of what it can do, but of no more than the environment variable `WOOTZ_GPU_KERNELS` says, by a
    /// name of [`Ability`].
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with what to install; [`Error::Driver`] when the device does not open.
    pub fn open(api: Api, name: Option<&str>, software: bool) -> Result<Accelerator> {
        #[cfg(feature = "wgpu")]
        {
            let takes = |info: &Info| api.takes(info) && (software || name.is_some() || !info.software);
            let gpu = super::wgpu::Wgpu::open_by(name, most_ability()?, takes).map_err(|error| {
                match (error, api.name()) {
                    (Error::NoAdapter { why, advice, .. }, Some(api)) => {
                        Error::NoAdapter { api, why, advice }
                    }
                    (error, _) => error,
                }
            })?;
            let info = gpu.info().clone();
            Ok(Accelerator(Arc::new(Shared {
                driver: Driver::Wgpu(gpu),
                info,
                free: Mutex::default(),
                held: AtomicUsize::new(0),
                used: AtomicUsize::new(0),
                peak: AtomicUsize::new(0),
                limit: AtomicUsize::new(usize::MAX),
                fallbacks: AtomicUsize::new(0),
                is_strict: AtomicBool::new(false),
            })))
        }
        #[cfg(not(feature = "wgpu"))]
        {
            let _ = (name, software);
            Err(Error::NoAdapter {
                api: api.name().unwrap_or("GPU"),
                why: "this build has no driver for it".into(),
                advice: "build with `--features gpu`".into(),
            })
        }
    }

    /// Every device that the drivers of this build find, in the order in which they would be taken.
    pub fn list() -> Vec<Info> {
        #[cfg(feature = "wgpu")]
        return super::wgpu::Wgpu::list();
        #[cfg(not(feature = "wgpu"))]
        Vec::new()
    }

    /// Bytes of buffers in use.
    pub fn used_bytes(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The most bytes of buffers that were in use at once.
    pub fn peak_bytes(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Bytes that are allocated, those that are kept for later included.
    pub fn held_bytes(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// From now on [`Accelerator::fall_back`] is an error.
    pub fn forbid_fallback(&self) {
        self.0.is_strict.store(true, Ordering::Relaxed);
    }

    /// How often an operation was computed on the CPU for want of a kernel.
    pub fn fallbacks(&self) -> usize {
        self.0.fallbacks.load(Ordering::Relaxed)
    }

    /// To be called before an operation's values are brought to the CPU because no kernel takes it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] after [`Accelerator::forbid_fallback`].
    pub fn fall_back(&self, operation: &'static str, why: &str) -> Result<()> {
        if self.0.is_strict.load(Ordering::Relaxed) {
            return Err(Error::Unsupported {
                kernel: operation,
                device: self.0.info.name.clone(),
                why: format!("{why}; without --no-fallback the CPU would compute it"),
            });
        }
        self.0.fallbacks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// From now on no more than so many bytes are allocated, as if the device had no more. For tests of what then happens.
    pub fn limit(&self, bytes: usize) {
        self.0.limit.store(bytes, Ordering::Relaxed);
    }

    /// Gives the device up: what follows is [`Error::Lost`], as if it had been unplugged. For tests of what then happens.
    pub fn give_up(&self) {
        match self.0.driver {
            #[cfg(feature = "wgpu")]
            Driver::Wgpu(ref gpu) => gpu.give_up(),
        }
    }

    /// Gives buffers that nobody uses back to the driver.
    pub fn trim(&self) {
        let free = std::mem::take(&mut *lock(&self.0.free));
        let bytes: usize = free.iter().map(|(bytes, buffers)| bytes * buffers.len()).sum();
        self.0.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A buffer of so many bytes, from the driver.
    fn fresh(&self, bytes: usize) -> Result<Raw> {
        if self.held_bytes().saturating_add(bytes) > self.0.limit.load(Ordering::Relaxed) {
            return Err(Error::OutOfMemory { device: self.0.info.name.clone(), bytes });
        }
        self.0.driver.alloc(bytes)
    }

    /// A free buffer of at least so many bytes, and not much more.
    fn reuse(&self, bytes: usize) -> Option<Raw> {
        let mut free = lock(&self.0.free);
        let most = bytes + bytes / 4;
        let fits = *free.range(bytes..=most).find(|(_, buffers)| !buffers.is_empty())?.0;
        let buffers = free.get_mut(&fits)?;
        let raw = buffers.pop();
        if buffers.is_empty() {
            free.remove(&fits);
        }
        raw
    }
}

impl Gpu for Accelerator {
    type Buffer = Memory;

    fn info(&self) -> &Info {
        &self.0.info
    }

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        check_range("alloc", bytes, 0, bytes)?;
        let limit = usize::try_from(self.0.info.max_buffer_bytes).unwrap_or(usize::MAX);
        // What does not fit is the driver's to refuse.
        let wanted = if bytes <= limit { rounded(bytes).min(limit) } else { bytes };
        let raw = match self.reuse(wanted) {
            Some(raw) => raw,
            None => {
                let fresh = match self.fresh(wanted) {
                    Err(Error::OutOfMemory { .. }) => {
                        self.synchronize()?;
                        self.trim();
                        self.fresh(wanted)?
                    }
                    other => other?,
                };
                self.0.held.fetch_add(fresh.bytes(), Ordering::Relaxed);
                fresh
            }
        };
        let used = self.0.used.fetch_add(raw.bytes(), Ordering::Relaxed) + raw.bytes();
        self.0.peak.fetch_max(used, Ordering::Relaxed);
        Ok(Memory { raw: Some(raw), bytes, owner: self.clone() })
    }

    fn upload(&self, buffer: &Memory, offset: usize, data: &[u8]) -> Result<()> {
        check_range("upload", buffer.bytes, offset, data.len())?;
        match (&self.0.driver, &buffer.raw) {
            #[cfg(feature = "wgpu")]
            (Driver::Wgpu(gpu), Some(Raw::Wgpu(buffer))) => gpu.upload(buffer, offset, data),
            _ => Ok(()), // only what is being dropped has no buffer
        }
    }

    fn download(&self, buffer: &Memory, offset: usize, data: &mut [u8]) -> Result<()> {
        check_range("download", buffer.bytes, offset, data.len())?;
        match (&self.0.driver, &buffer.raw) {
            #[cfg(feature = "wgpu")]
            (Driver::Wgpu(gpu), Some(Raw::Wgpu(buffer))) => gpu.download(buffer, offset, data),
            _ => Ok(()),
        }
    }

    fn compile(&self, kernel: &'static Kernel) -> Result<()> {
        let _ = kernel;
        match self.0.driver {
            #[cfg(feature = "wgpu")]
            Driver::Wgpu(ref gpu) => gpu.compile(kernel),
        }
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        buffers: &[&Memory],
        scalars: &[Scalar],
        groups: [u32; 3],
    ) -> Result<()> {
        let _ = (kernel, buffers, scalars, groups);
        match self.0.driver {
            #[cfg(feature = "wgpu")]
            Driver::Wgpu(ref gpu) => {
                // A launch has 8 buffers at the most: no list is allocated.
                let mut list = [None; 8];
                for (to, from) in list.iter_mut().zip(buffers) {
                    *to = from.raw.as_ref().map(|Raw::Wgpu(buffer)| buffer);
                }
                let Some(first) = list[0] else { return Ok(()) };
                let list = list.map(|buffer| buffer.unwrap_or(first));
                // SAFETY: the caller's promise.
                unsafe { gpu.launch(kernel, &list[..buffers.len().min(8)], scalars, groups) }
            }
        }
    }

    fn synchronize(&self) -> Result<()> {
        match self.0.driver {
            #[cfg(feature = "wgpu")]
            Driver::Wgpu(ref gpu) => gpu.synchronize(),
        }
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.bytes)
    }
}

/// A panic of another thread leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_so_that_buffers_fit_again() {
        for (bytes, expected) in
            [(0, 256), (4, 256), (260, 512), (4092, 4096), (4100, 8192), (65_540, 69_632)]
        {
            assert_eq!(rounded(bytes), expected, "{bytes}");
        }
    }
}
