//! The driver for Vulkan and Metal, through the `wgpu` crate: runs the `.wgsl` of a kernel.
//!
//! Launches are collected in one compute pass and sent together: a submission costs as much as a small kernel. They are
//! sent when `BATCH` are waiting, before anything is uploaded or waited for, and with what is downloaded. So a token is one
//! submission, if all uploads come before its first launch.
//!
//! An upload is in memory twice until it is sent, so large ones are sent as they come.
//!
//! What a launch needs of the driver beside its pipeline, a group of bindings, is made once for the same buffers.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use ::wgpu as api;

use super::gpu::{Ability, Access, DeviceBuffer, Error, Gpu, Info, Kernel, Result, Scalar, check_range};
use super::trial;

/// How many launches wait at most before they are sent: more than a token has, and few enough that the device begins
/// with a long pass while it is still being written down.
const BATCH: usize = 512;

/// How many groups of bindings are kept at most.
const GROUPS: usize = 8192;

/// Bytes of uploads that wait at most: until they are sent, each is in memory twice.
const UPLOADS: usize = 64 << 20;
/// Bytes of the buffer for downloads that is kept at most.
const KEPT: usize = 64 << 20;

/// A device driven through Vulkan or Metal.
pub struct Wgpu {
    info: Info,
    device: api::Device,
    queue: api::Queue,
    kernels: Mutex<HashMap<&'static str, Arc<Compiled>>>,
    waiting: Mutex<Waiting>,
    /// The buffer through which downloads go, when none is on its way.
    staging: Mutex<Option<api::Buffer>>,
    /// Counts the buffers that were freed: groups of bindings made before that keep them alive.
    freed: Arc<AtomicU64>,
    /// What the driver reported outside of any call: the device is gone, or a queued launch failed.
    trouble: Arc<Mutex<Option<Trouble>>>,
}

/// Memory of a [`Wgpu`] device.
#[derive(Debug)]
pub struct WgpuBuffer {
    buffer: api::Buffer,
    bytes: usize,
    /// Tells buffers apart.
    id: u64,
    freed: Arc<AtomicU64>,
}

impl Drop for WgpuBuffer {
    fn drop(&mut self) {
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

impl DeviceBuffer for WgpuBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Compiled {
    pipeline: api::ComputePipeline,
    layout: api::BindGroupLayout,
}

#[derive(Default)]
struct Waiting {
    /// It is ended, by being dropped, before its encoder is finished.
    pass: Option<api::ComputePass<'static>>,
    encoder: Option<api::CommandEncoder>,
    launches: usize,
    /// Bytes of uploads since something was sent last.
    uploads: usize,
    /// The groups of bindings of kernels and buffers, and what [`Wgpu::freed`] was when they were made.
    groups: HashMap<(&'static str, [u64; 8]), api::BindGroup>,
    freed: u64,
    /// Buffers made so far.
    buffers: u64,
}

enum Trouble {
    Lost(String),
    Failed(String),
}

impl Wgpu {
    /// Every device that Vulkan or Metal offers, in the order in which [`Wgpu::open`] would take them.
    pub fn list() -> Vec<Info> {
        adapters().iter().map(describe).collect()
    }

    /// Opens a device: the first of [`Wgpu::list`] (a discrete GPU before an integrated one before a CPU in
    /// disguise), or the first whose name contains `name`, in upper or lower case.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with what to install; [`Error::Driver`] when the device does not open.
    pub fn open(name: Option<&str>) -> Result<Wgpu> {
        Wgpu::open_by(name, Ability::Matrices, |_| true)
    }

    /// As [`Wgpu::open`], of those that `takes` says yes to, to make use of no more than `most`. That the device has it and
    /// that it works there is tried; where it does not, kernels that ask for less are taken.
    ///
    /// # Errors
    /// As [`Wgpu::open`].
    pub fn open_by(name: Option<&str>, most: Ability, takes: impl Fn(&Info) -> bool) -> Result<Wgpu> {
        let all = adapters();
        let wanted = name.unwrap_or_default().to_lowercase();
        let is_wanted = |a: &&api::Adapter| {
            let info = describe(a);
            info.name.to_lowercase().contains(&wanted) && takes(&info)
        };
        let Some(adapter) = all.iter().find(is_wanted) else {
            return Err(no_adapter(&all, &wanted));
        };
        let mut info = describe(adapter);
        info.ability = info.ability.min(most);
        let failed =
            |doing: &str, why: String| Error::Driver { device: info.name.clone(), doing: doing.into(), why };
        if !adapter.features().contains(api::Features::IMMEDIATES) {
            return Err(failed(
                "open",
                "it has no immediates (push constants), in which scalars travel".into(),
            ));
        }
        let mut features = api::Features::IMMEDIATES;
        let mut experimental = api::ExperimentalFeatures::disabled();
        if info.ability >= Ability::Subgroups {
            features |= api::Features::SUBGROUP;
        }
        if info.ability == Ability::Matrices {
            features |= api::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: kernels with matrices are the program's own; they load and store whole matrices inside workgroup memory.
            experimental = unsafe { api::ExperimentalFeatures::enabled() };
        }
        let request = api::DeviceDescriptor {
            label: Some("wootz"),
            required_features: features,
            required_limits: adapter.limits(),
            experimental_features: experimental,
            ..Default::default()
        };
        let (device, queue) =
            wait(adapter.request_device(&request)).map_err(|e| failed("open", e.to_string()))?;

        let trouble = Arc::new(Mutex::new(None));
        let seen = trouble.clone();
        device.set_device_lost_callback(move |reason, why| {
            // A device that we drop ourselves is "lost" as well: nobody is left to ask.
            *lock(&seen) = Some(Trouble::Lost(format!("{reason:?}: {why}")));
        });
        let seen = trouble.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            lock(&seen).get_or_insert(Trouble::Failed(error.to_string()));
        }));
        let mut gpu = Wgpu {
            info,
            device,
            queue,
            kernels: Mutex::default(),
            waiting: Mutex::default(),
            staging: Mutex::default(),
            freed: Arc::default(),
            trouble,
        };
        // A driver may have what it does not do well. This is not the place to report that it does nothing well.
        while !trial::proves(&gpu).is_ok_and(|works| works) {
            gpu.info.ability = gpu.info.ability.less();
            lock(&gpu.kernels).clear();
            let mut waiting = lock(&gpu.waiting);
            *waiting = Waiting { buffers: waiting.buffers, ..Waiting::default() };
            // A device that is lost stays so.
            lock(&gpu.trouble).take_if(|trouble| matches!(trouble, Trouble::Failed(_)));
        }
        Ok(gpu)
    }

    /// Gives the device up: what follows is [`Error::Lost`], as if it had been unplugged. For tests of what then happens.
    pub fn give_up(&self) {
        self.device.destroy();
    }

    /// Runs `work` and returns the error that the device raised in it, if any. `bytes` is what `work` asks
    /// for, for the message when memory runs out.
    fn guarded<T>(&self, doing: &str, bytes: usize, work: impl FnOnce() -> T) -> Result<T> {
        let memory = self.device.push_error_scope(api::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(api::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(api::ErrorFilter::Validation);
        let value = work();
        // Scopes are a stack: popped in reverse.
        let refused = wait(validation.pop());
        let broken = wait(internal.pop());
        let exhausted = wait(memory.pop());
        if refused.is_some() || broken.is_some() {
            // Nothing is right on a device that is gone, and the driver says so only to who asks.
            let _ = self.device.poll(api::PollType::Poll);
        }
        self.check_trouble(doing)?;
        if exhausted.is_some() {
            return Err(Error::OutOfMemory { device: self.info.name.clone(), bytes });
        }
        match refused.or(broken) {
            Some(error) => Err(self.failed(doing, error.to_string())),
            None => Ok(value),
        }
    }

    fn failed(&self, doing: &str, why: String) -> Error {
        Error::Driver { device: self.info.name.clone(), doing: doing.into(), why }
    }

    fn check_trouble(&self, doing: &str) -> Result<()> {
        let mut trouble = lock(&self.trouble);
        match trouble.take() {
            None => Ok(()),
            Some(Trouble::Failed(why)) => Err(self.failed(doing, why)),
            Some(Trouble::Lost(why)) => {
                *trouble = Some(Trouble::Lost(why.clone())); // it stays lost
                Err(Error::Lost { device: self.info.name.clone(), why })
            }
        }
    }

    /// The launches that wait, written down, and how many they are; and the bytes of uploads.
    fn take_waiting(&self) -> (Option<api::CommandEncoder>, usize, usize) {
        let mut waiting = lock(&self.waiting);
        drop(waiting.pass.take());
        let launches = std::mem::take(&mut waiting.launches);
        (waiting.encoder.take(), launches, std::mem::take(&mut waiting.uploads))
    }

    /// Sends what is waiting.
    fn flush(&self) -> Result<()> {
        let (encoder, launches, uploads) = self.take_waiting();
        if encoder.is_none() && uploads == 0 {
            return Ok(());
        }
        self.guarded(&format!("send {launches} launches"), 0, || {
            // Without launches, the uploads alone.
            self.queue.submit(encoder.map(api::CommandEncoder::finish));
        })
    }

    /// Waits until the queue is empty.
    fn drain(&self, doing: &str) -> Result<()> {
        match self.device.poll(api::PollType::wait_indefinitely()) {
            Ok(_) => self.check_trouble(doing),
            Err(error) => {
                self.check_trouble(doing)?;
                Err(Error::Lost { device: self.info.name.clone(), why: error.to_string() })
            }
        }
    }

    fn compiled(&self, kernel: &'static Kernel) -> Result<Arc<Compiled>> {
        if let Some(compiled) = lock(&self.kernels).get(kernel.name) {
            return Ok(compiled.clone());
        }
        let compiled = Arc::new(self.build(kernel)?);
        lock(&self.kernels).insert(kernel.name, compiled.clone());
        Ok(compiled)
    }

    fn build(&self, kernel: &'static Kernel) -> Result<Compiled> {
        let Some(texts) = kernel.wgsl else {
            return Err(Error::Unsupported {
                kernel: kernel.name,
                device: self.info.name.clone(),
                why: "it is not written in WGSL".into(),
            });
        };
        let (_, text) = texts.text_for(self.info.ability);
        let compile_error = |line, message| Error::Compile { kernel: kernel.name, line, message };

        let mut messages = Vec::new();
        let module = self.guarded("compile", 0, || {
            let source = api::ShaderModuleDescriptor {
                label: Some(kernel.name),
                source: api::ShaderSource::Wgsl(text.into()),
            };
            // In a build for tests every index is checked by the kernel, and every loop has an end.
            let checks = match cfg!(debug_assertions) {
                true => api::ShaderRuntimeChecks::checked(),
                false => api::ShaderRuntimeChecks::unchecked(),
            };
            // SAFETY: a launcher has checked that buffers are as large as the scalars say, which is what each launch
            // promises ([`Gpu::launch`]); the kernels are the program's own, and the tests run them with all checks.
            let module = unsafe { self.device.create_shader_module_trusted(source, checks) };
            messages = wait(module.get_compilation_info()).messages;
            module
        });
        let first = messages.iter().find(|m| m.message_type == api::CompilationMessageType::Error);
        if let Some(message) = first {
            return Err(compile_error(message.location.map(|at| at.line_number), message.message.clone()));
        }
        let module = module.map_err(|error| as_compile_error(error, kernel))?;

        let entries: Vec<api::BindGroupLayoutEntry> = kernel
            .buffers
            .iter()
            .map(|binding| api::BindGroupLayoutEntry {
                binding: binding.index,
                visibility: api::ShaderStages::COMPUTE,
                ty: api::BindingType::Buffer {
                    ty: api::BufferBindingType::Storage { read_only: binding.access == Access::Read },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        self.guarded("compile", 0, || {
            let layout = self.device.create_bind_group_layout(&api::BindGroupLayoutDescriptor {
                label: Some(kernel.name),
                entries: &entries,
            });
            let all = self.device.create_pipeline_layout(&api::PipelineLayoutDescriptor {
                label: Some(kernel.name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 4 * kernel.scalars.len() as u32,
            });
            let pipeline = self.device.create_compute_pipeline(&api::ComputePipelineDescriptor {
                label: Some(kernel.name),
                layout: Some(&all),
                module: &module,
                entry_point: Some(kernel.entry),
                // The kernels write workgroup memory before they read it.
                compilation_options: api::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            Compiled { pipeline, layout }
        })
        .map_err(|error| as_compile_error(error, kernel))
    }
}

impl Gpu for Wgpu {
    type Buffer = WgpuBuffer;

    fn info(&self) -> &Info {
        &self.info
    }

    fn alloc(&self, bytes: usize) -> Result<WgpuBuffer> {
        check_range("alloc", bytes, 0, bytes)?;
        if bytes as u64 > self.info.max_buffer_bytes {
            let limit = self.info.max_buffer_bytes;
            return Err(Error::TooLarge { device: self.info.name.clone(), bytes, limit });
        }
        let buffer = self.guarded("alloc", bytes, || {
            self.device.create_buffer(&api::BufferDescriptor {
                label: None,
                size: bytes.max(4) as u64, // nothing cannot be bound
                usage: api::BufferUsages::STORAGE | api::BufferUsages::COPY_SRC | api::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let id = {
            let mut waiting = lock(&self.waiting);
            waiting.buffers += 1;
            waiting.buffers
        };
        Ok(WgpuBuffer { buffer, bytes, id, freed: self.freed.clone() })
    }

    fn upload(&self, buffer: &WgpuBuffer, offset: usize, data: &[u8]) -> Result<()> {
        check_range("upload", buffer.bytes, offset, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        if lock(&self.waiting).launches > 0 {
            self.flush()?; // a write goes ahead of launches that are not yet sent
        }
        self.guarded("upload", data.len(), || self.queue.write_buffer(&buffer.buffer, offset as u64, data))?;
        let mut waiting = lock(&self.waiting);
        waiting.uploads += data.len();
        let is_much = waiting.uploads >= UPLOADS;
        drop(waiting);
        if is_much { self.synchronize() } else { Ok(()) }
    }

    fn download(&self, buffer: &WgpuBuffer, offset: usize, data: &mut [u8]) -> Result<()> {
        check_range("download", buffer.bytes, offset, data.len())?;
        if data.is_empty() {
            return self.synchronize();
        }
        let bytes = data.len() as u64;
        let (encoder, launches, _) = self.take_waiting();
        let kept = lock(&self.staging).take().filter(|staging| staging.size() >= bytes);
        // One submission: what waits, and the copy.
        let staging = self.guarded(&format!("send {launches} launches, and download"), data.len(), || {
            let staging = kept.unwrap_or_else(|| {
                self.device.create_buffer(&api::BufferDescriptor {
                    label: Some("download"),
                    size: if data.len() <= KEPT { bytes.next_power_of_two() } else { bytes },
                    usage: api::BufferUsages::MAP_READ | api::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            });
            let new = || self.device.create_command_encoder(&Default::default());
            let mut encoder = encoder.unwrap_or_else(new);
            encoder.copy_buffer_to_buffer(&buffer.buffer, offset as u64, &staging, 0, bytes);
            self.queue.submit([encoder.finish()]);
            staging
        })?;
        // The outcome of the mapping is seen below: an unmapped buffer has no mapped range.
        staging.map_async(api::MapMode::Read, ..bytes, |_| {});
        self.drain("download")?;
        let view = staging.get_mapped_range(..bytes).map_err(|e| self.failed("download", e.to_string()))?;
        data.copy_from_slice(&view);
        drop(view);
        staging.unmap();
        if data.len() <= KEPT {
            *lock(&self.staging) = Some(staging);
        }
        Ok(())
    }

    fn compile(&self, kernel: &'static Kernel) -> Result<()> {
        self.compiled(kernel).map(|_| ())
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        buffers: &[&WgpuBuffer],
        scalars: &[Scalar],
        groups: [u32; 3],
    ) -> Result<()> {
        kernel.check_arguments(buffers.len(), scalars)?;
        let compiled = self.compiled(kernel)?;
        let mut bytes = [0; 128];
        for (bytes, scalar) in bytes.chunks_exact_mut(4).zip(scalars) {
            bytes.copy_from_slice(&scalar.to_bytes());
        }
        let mut key = [0; 8];
        key.iter_mut().zip(buffers).for_each(|(id, buffer)| *id = buffer.id);
        let [x, y, z] = groups;

        let mut waiting = lock(&self.waiting);
        let Waiting { pass, encoder, launches, groups, freed, .. } = &mut *waiting;
        let now = self.freed.load(Ordering::Relaxed);
        if *freed != now || groups.len() >= GROUPS {
            groups.clear();
            *freed = now;
        }
        let group = groups.entry((kernel.name, key)).or_insert_with(|| {
            let entries: Vec<api::BindGroupEntry<'_>> = (kernel.buffers.iter().zip(buffers))
                .map(|(binding, buffer)| api::BindGroupEntry {
                    binding: binding.index,
                    resource: buffer.buffer.as_entire_binding(),
                })
                .collect();
            self.device.create_bind_group(&api::BindGroupDescriptor {
                label: Some(kernel.name),
                layout: &compiled.layout,
                entries: &entries,
            })
        });
        let pass = pass.get_or_insert_with(|| {
            let encoder =
                encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
            encoder.begin_compute_pass(&Default::default()).forget_lifetime()
        });
        pass.set_pipeline(&compiled.pipeline);
        pass.set_bind_group(0, &*group, &[]);
        pass.set_immediates(0, &bytes[..4 * scalars.len()]);
        pass.dispatch_workgroups(x, y, z);
        *launches += 1;
        let is_full = *launches >= BATCH;
        drop(waiting);
        // What the device refuses is told when the launches are sent, with the kernel's name.
        if is_full { self.flush() } else { Ok(()) }
    }

    fn synchronize(&self) -> Result<()> {
        self.flush()?;
        self.drain("synchronize")
    }
}

/// What the device offers, fastest kind first.
fn adapters() -> Vec<api::Adapter> {
    let mut request = api::InstanceDescriptor::new_without_display_handle();
    request.backends = api::Backends::VULKAN | api::Backends::METAL;
    request.flags = api::InstanceFlags::empty().with_env(); // no validation layers unless WGPU_VALIDATION asks
    let instance = api::Instance::new(request);
    let mut all = wait(instance.enumerate_adapters(api::Backends::all()));
    all.sort_by_key(|adapter| match adapter.get_info().device_type {
        api::DeviceType::DiscreteGpu => 0,
        api::DeviceType::IntegratedGpu => 1,
        api::DeviceType::VirtualGpu => 2,
        api::DeviceType::Other => 3,
        api::DeviceType::Cpu => 4,
    });
    all
}

fn describe(adapter: &api::Adapter) -> Info {
    let info = adapter.get_info();
    let limits = adapter.limits();
    Info {
        name: info.name,
        api: match info.backend {
            api::Backend::Vulkan => "Vulkan",
            api::Backend::Metal => "Metal",
            _ => "wgpu", // the others are not asked for
        },
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        software: info.device_type == api::DeviceType::Cpu,
        max_buffer_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        memory_bytes: memory(adapter),
        workgroup_bytes: limits.max_compute_workgroup_storage_size as usize,
        workgroup_threads: limits.max_compute_invocations_per_workgroup as usize,
        features: features(adapter),
        ability: ability(adapter),
    }
}

/// What kernels may make use of, as far as the driver says.
fn ability(adapter: &api::Adapter) -> Ability {
    let (has, info) = (adapter.features(), adapter.get_info());
    if !has.contains(api::Features::SUBGROUP) {
        return Ability::Plain;
    }
    let fits = |matrix: &api::CooperativeMatrixProperties| {
        [matrix.m_size, matrix.n_size, matrix.k_size] == [8; 3]
            && [matrix.ab_type, matrix.cr_type] == [api::CooperativeScalarType::F32; 2]
    };
    // Subgroups of 32: Metal does not say, but those of Apple's own GPUs are.
    let is_32 = match info.backend {
        api::Backend::Metal => info.name.starts_with("Apple"),
        _ => [info.subgroup_min_size, info.subgroup_max_size] == [32; 2],
    };
    let has_matrices = has.contains(api::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
        && adapter.cooperative_matrix_properties().iter().any(fits);
    if is_32 && has_matrices { Ability::Matrices } else { Ability::Subgroups }
}

/// What the adapter can do beyond the portable minimum, by names that a user may look up.
fn features(adapter: &api::Adapter) -> Vec<String> {
    let (has, info) = (adapter.features(), adapter.get_info());
    let mut names = Vec::new();
    if has.contains(api::Features::SUBGROUP) {
        let (least, most) = (info.subgroup_min_size, info.subgroup_max_size);
        names.push(match least == most {
            true => format!("subgroups of {most}"),
            false => format!("subgroups of {least} to {most}"),
        });
    }
    if has.contains(api::Features::SHADER_F16) {
        names.push("f16".to_owned());
    }
    if has.contains(api::Features::TIMESTAMP_QUERY) {
        names.push("timestamps".to_owned());
    }
    for matrix in adapter.cooperative_matrix_properties() {
        let [m, n, k] = [matrix.m_size, matrix.n_size, matrix.k_size];
        names.push(format!(
            "cooperative matrices {m}x{n}x{k} of {:?} in {:?}",
            matrix.ab_type, matrix.cr_type
        ));
    }
    names
}

/// The memory of a Vulkan device that is its own, or that it shares where it has none.
#[cfg(not(target_vendor = "apple"))]
fn memory(adapter: &api::Adapter) -> Option<u64> {
    // SAFETY: nothing is destroyed or changed; the device is asked what memory it has.
    let adapter = unsafe { adapter.as_hal::<api::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the device is one of this instance, and both live as long as `adapter`.
    let found = unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    let heaps = &found.memory_heaps[..found.memory_heap_count as usize];
    // The first flag of a heap: it is the device's own.
    let own = heaps.iter().filter(|heap| heap.flags.as_raw() & 1 == 1);
    own.map(|heap| heap.size).max().or_else(|| heaps.iter().map(|heap| heap.size).max())
}

/// Metal's devices share the machine's memory, and say no more of it.
#[cfg(target_vendor = "apple")]
fn memory(_: &api::Adapter) -> Option<u64> {
    None
}

fn no_adapter(all: &[api::Adapter], wanted: &str) -> Error {
    let advice = match all.is_empty() {
        true if cfg!(target_os = "macos") => "this needs macOS on a machine with Metal".to_owned(),
        true => "install your GPU's Vulkan driver, or the software one: `apt-get install libvulkan1 \
                 mesa-vulkan-drivers`"
            .to_owned(),
        false => {
            let names: Vec<String> = all.iter().map(|a| a.get_info().name).collect();
            format!("there is {}", names.join(", "))
        }
    };
    let why = match wanted {
        "" => "none was found".to_owned(),
        _ => format!("none has `{wanted}` in its name"),
    };
    Error::NoAdapter { api: "Vulkan or Metal", why, advice }
}

fn as_compile_error(error: Error, kernel: &'static Kernel) -> Error {
    match error {
        Error::Driver { why, .. } => Error::Compile { kernel: kernel.name, line: None, message: why },
        other => other,
    }
}

/// The value of a future. On Vulkan and Metal wgpu's futures are done when they are returned.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// A panic of another thread leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
