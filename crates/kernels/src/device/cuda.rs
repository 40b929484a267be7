//! The driver for NVIDIA, through the `cudarc` crate: compiles the `.cu` of a kernel with NVRTC and runs it.
//!
//! State of this file: it compiles, and each kernel's machine code is built in the tests; no machine with an
//! NVIDIA GPU has executed it yet.
//!
//! CUDA's library is loaded when a device is opened, so that one binary serves machines with and without it.
//! All work is queued on the default stream, which also orders the copies.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, result};

use super::gpu::{Ability, DeviceBuffer, Error, Gpu, Info, Kernel, Result, Scalar, check_range};
use super::nvrtc::Nvrtc;

/// A device driven through CUDA.
pub struct Cuda {
    info: Info,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// What NVRTC compiles for: `sm_80`, `sm_90a`.
    architecture: String,
    /// The compiler, once a kernel needed it.
    compiler: Mutex<Option<Arc<Nvrtc>>>,
    kernels: Mutex<HashMap<&'static str, CudaFunction>>,
}

/// Memory of a [`Cuda`] device.
pub struct CudaBuffer {
    address: sys::CUdeviceptr,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl DeviceBuffer for CudaBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated in this context and is freed once, here; freeing waits for the
        // work that uses it. A failure means that the context is gone, and its memory with it.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::free_sync(self.address) });
    }
}

impl Cuda {
    /// Opens the device with this number, counted from 0 as `nvidia-smi` does.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] when there is no CUDA driver or no such device.
    pub fn open(ordinal: usize) -> Result<Cuda> {
        let absent = |why: String| Error::NoAdapter {
            api: "CUDA",
            why,
            advice: "install NVIDIA's driver, or take another device".into(),
        };
        // cudarc would panic without the library.
        // SAFETY: loads NVIDIA's driver library by its name, which runs no more than its own set-up.
        if !unsafe { sys::is_culib_present() } {
            return Err(absent("the driver's library (libcuda) is not installed".into()));
        }
        let count = result::init()
            .and_then(|()| CudaContext::device_count())
            .map_err(|e| absent(format!("the driver does not start: {e}")))?;
        if usize::try_from(count).is_ok_and(|count| ordinal >= count) {
            return Err(absent(format!("device {ordinal} was asked for, there are {count}")));
        }
        let context =
            CudaContext::new(ordinal).map_err(|e| absent(format!("device {ordinal} does not open: {e}")))?;
        let name = context.name().unwrap_or_else(|_| format!("CUDA device {ordinal}"));
        let fail = |e: DriverError| driver_error(&name, "open", 0, e);
        let (major, minor) = context.compute_capability().map_err(fail)?;
        let memory = context.total_mem().map_err(fail)? as u64;
        let info = Info {
            name: name.clone(),
            api: "CUDA",
            driver: format!("compute capability {major}.{minor}"),
            software: false,
            max_buffer_bytes: memory,
            memory_bytes: Some(memory),
            workgroup_bytes: 48 << 10,
            workgroup_threads: 1024,
            features: Vec::new(),
            ability: Ability::Plain,
        };
        Ok(Cuda {
            info,
            stream: context.default_stream(),
            context,
            architecture: architecture(major, minor),
            compiler: Mutex::default(),
            kernels: Mutex::default(),
        })
    }

    /// CUDA's calls act on the context that is bound to the calling thread.
    fn bind(&self, doing: &str) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| self.error(doing, 0, e))
    }

    fn error(&self, doing: &str, bytes: usize, error: DriverError) -> Error {
        driver_error(&self.info.name, doing, bytes, error)
    }

    fn compiler(&self) -> Result<Arc<Nvrtc>> {
        let mut compiler = lock(&self.compiler);
        if compiler.is_none() {
            *compiler = Some(Arc::new(Nvrtc::load()?));
        }
        compiler.clone().ok_or_else(|| Error::NoCompiler { why: "it was not loaded".into() })
    }

    fn function(&self, kernel: &'static Kernel) -> Result<CudaFunction> {
        if let Some(function) = lock(&self.kernels).get(kernel.name) {
            return Ok(function.clone());
        }
        let cubin = self.compiler()?.to_cubin(kernel, &self.architecture)?;
        let module = cudarc::nvrtc::Ptx::from_binary(cubin);
        let function = self
            .context
            .load_module(module)
            .and_then(|module| module.load_function(kernel.entry))
            .map_err(|e| self.error(&format!("load kernel {}", kernel.name), 0, e))?;
        lock(&self.kernels).insert(kernel.name, function.clone());
        Ok(function)
    }
}

impl Gpu for Cuda {
    type Buffer = CudaBuffer;

    fn info(&self) -> &Info {
        &self.info
    }

    fn alloc(&self, bytes: usize) -> Result<CudaBuffer> {
        check_range("alloc", bytes, 0, bytes)?;
        self.bind("alloc")?;
        // SAFETY: the memory is owned by the buffer from here on; it is filled before anybody can read it.
        unsafe {
            let address = result::malloc_sync(bytes.max(4)).map_err(|e| self.error("alloc", bytes, e))?;
            let buffer = CudaBuffer { address, bytes, context: self.context.clone() };
            result::memset_d8_async(address, 0, bytes.max(4), self.stream.cu_stream())
                .map_err(|e| self.error("alloc", bytes, e))?;
            Ok(buffer)
        }
    }

    fn upload(&self, buffer: &CudaBuffer, offset: usize, data: &[u8]) -> Result<()> {
        check_range("upload", buffer.bytes, offset, data.len())?;
        self.bind("upload")?;
        // SAFETY: the range lies in the buffer (checked); the call has read `data` when it returns.
        unsafe { result::memcpy_htod_sync(buffer.address + offset as u64, data) }
            .map_err(|e| self.error("upload", data.len(), e))
    }

    fn download(&self, buffer: &CudaBuffer, offset: usize, data: &mut [u8]) -> Result<()> {
        check_range("download", buffer.bytes, offset, data.len())?;
        self.bind("download")?;
        // SAFETY: the range lies in the buffer (checked); the call waits for the stream and has written
        // `data` when it returns.
        unsafe { result::memcpy_dtoh_sync(data, buffer.address + offset as u64) }
            .map_err(|e| self.error("download", data.len(), e))
    }

    fn compile(&self, kernel: &'static Kernel) -> Result<()> {
        self.bind("compile")?;
        self.function(kernel).map(|_| ())
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        buffers: &[&CudaBuffer],
        scalars: &[Scalar],
        groups: [u32; 3],
    ) -> Result<()> {
        kernel.check_arguments(buffers.len(), scalars)?;
        self.bind(kernel.name)?;
        let function = self.function(kernel)?;
        let mut addresses: Vec<sys::CUdeviceptr> = buffers.iter().map(|buffer| buffer.address).collect();
        // The scalars' struct: 32-bit members, so these words are its bytes.
        let mut words: Vec<u32> =
            scalars.iter().map(|scalar| u32::from_ne_bytes(scalar.to_bytes())).collect();
        let mut parameters: Vec<*mut c_void> =
            addresses.iter_mut().map(|a| std::ptr::from_mut(a).cast()).collect();
        if !words.is_empty() {
            parameters.push(words.as_mut_ptr().cast());
        }
        let [x, y, z] = kernel.workgroup;
        // SAFETY: `parameters` points to one value for each parameter of the kernel, which CUDA copies before
        // it returns; that the kernel stays inside the buffers is the caller's promise.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                groups.into(),
                (x, y, z),
                0,
                self.stream.cu_stream(),
                &mut parameters,
            )
        }
        .map_err(|e| self.error(&format!("launch {}", kernel.name), 0, e))
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.error("synchronize", 0, e))
    }
}

/// The target for a compute capability. Hopper and Blackwell have instructions that only their own `a` target
/// offers.
fn architecture(major: i32, minor: i32) -> String {
    let own = if major >= 9 { "a" } else { "" };
    format!("sm_{major}{minor}{own}")
}

fn driver_error(device: &str, doing: &str, bytes: usize, error: DriverError) -> Error {
    let device = device.to_owned();
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { device, bytes },
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED => {
            Error::Lost { device, why: format!("{doing}: {error}") }
        }
        _ => Error::Driver { device, doing: doing.to_owned(), why: error.to_string() },
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
    fn targets_follow_the_compute_capability() {
        assert_eq!(architecture(8, 0), "sm_80");
        assert_eq!(architecture(8, 9), "sm_89");
        assert_eq!(architecture(9, 0), "sm_90a");
        assert_eq!(architecture(12, 0), "sm_120a");
    }

    #[test]
    fn a_machine_without_the_driver_gets_an_error() {
        // SAFETY: as in `open`.
        if unsafe { sys::is_culib_present() } {
            println!("skipped: this machine has a CUDA driver");
            return;
        }
        let error = Cuda::open(0).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(
            error,
            "no CUDA device: the driver's library (libcuda) is not installed; install NVIDIA's driver, or take another device"
        );
    }
}
