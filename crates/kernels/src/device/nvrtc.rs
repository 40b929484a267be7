//! NVIDIA's run-time compiler, loaded when it is first needed: `.cu` text to machine code, with no toolkit
//! and no GPU.
//!
//! The library is looked for in `WOOTZ_NVRTC` (the file `libnvrtc.so.*`, or a folder that holds it somewhere
//! below: the `site-packages` into which `pip install nvidia-cuda-nvrtc` goes, or a toolkit), else where the
//! system's loader looks.

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::path::{Path, PathBuf};

use libloading::Library;

use super::gpu::{Error, Kernel, Result};

/// An opaque program of the compiler.
type Program = *mut std::ffi::c_void;
/// 0 is success.
type Status = c_int;

type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Status;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
type Read = unsafe extern "C" fn(Program, *mut c_char) -> Status;
type Destroy = unsafe extern "C" fn(*mut Program) -> Status;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;

/// The compiler.
pub struct Nvrtc {
    create: Create,
    compile: Compile,
    log_size: Size,
    log: Read,
    cubin_size: Size,
    cubin: Read,
    destroy: Destroy,
    version: (i32, i32),
    path: PathBuf,
    /// Keeps the functions above where they are.
    _library: Library,
}

impl Nvrtc {
    /// Loads the compiler.
    ///
    /// # Errors
    /// [`Error::NoCompiler`] that says where it was looked for and how to install it.
    pub fn load() -> Result<Nvrtc> {
        let places = match std::env::var_os("WOOTZ_NVRTC") {
            Some(place) if !place.is_empty() => {
                let found = find(Path::new(&place), 6);
                vec![found.ok_or_else(|| Error::NoCompiler {
                    why: format!("WOOTZ_NVRTC is `{}`, where no libnvrtc is", place.display()),
                })?]
            }
            _ if cfg!(windows) => ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"].map(PathBuf::from).to_vec(),
            _ => ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"].map(PathBuf::from).to_vec(),
        };
        let mut why = Vec::new();
        for path in places {
            match Self::load_from(&path) {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(error) => {
                    let detail = std::error::Error::source(&error).map(|source| format!(": {source}"));
                    why.push(format!("{}: {error}{}", path.display(), detail.unwrap_or_default()));
                }
            }
        }
        Err(Error::NoCompiler { why: why.join("; ") })
    }

    fn load_from(path: &Path) -> std::result::Result<Nvrtc, libloading::Error> {
        // SAFETY: the library is NVIDIA's compiler, by its name or by the user's word; loading it runs no
        // more than its own set-up. The functions have these signatures since CUDA 11.1 (nvrtc.h), and live
        // as long as the library.
        unsafe {
            let library = Library::new(path)?;
            let version: Version = *library.get(b"nvrtcVersion\0")?;
            let (mut major, mut minor) = (0, 0);
            version(&mut major, &mut minor);
            Ok(Nvrtc {
                create: *library.get(b"nvrtcCreateProgram\0")?,
                compile: *library.get(b"nvrtcCompileProgram\0")?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0")?,
                log: *library.get(b"nvrtcGetProgramLog\0")?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize\0")?,
                cubin: *library.get(b"nvrtcGetCUBIN\0")?,
                destroy: *library.get(b"nvrtcDestroyProgram\0")?,
                version: (major, minor),
                path: path.to_owned(),
                _library: library,
            })
        }
    }

    /// Major and minor version of the compiler.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Machine code (a cubin: an ELF file) of `kernel` for `architecture`: `sm_80`, `sm_90a`.
    ///
    /// # Errors
    /// [`Error::Compile`] with the kernel's name and the first line that the compiler complains about.
    pub fn to_cubin(&self, kernel: &Kernel, architecture: &str) -> Result<Vec<u8>> {
        let name = kernel.name;
        let fail = |message: String| Error::Compile { kernel: name, line: error_line(&message), message };
        let source = kernel.cuda.ok_or_else(|| Error::Unsupported {
            kernel: name,
            device: architecture.into(),
            why: "it is not written in CUDA".into(),
        })?;
        let zero_byte = |_| fail("the source or an option holds a zero byte".into());
        let text = CString::new(source).map_err(zero_byte)?;
        let file = CString::new(format!("{name}.cu")).map_err(zero_byte)?;
        let option = CString::new(format!("--gpu-architecture={architecture}")).map_err(zero_byte)?;
        let options = [option.as_ptr(), c"--std=c++17".as_ptr()];

        let mut program: Program = std::ptr::null_mut();
        // SAFETY: `text` and `file` are C strings that outlive the program, which `Drop` of `guard` destroys
        // before them; `options` holds as many C strings as it says; the two buffers are as large as the
        // compiler asks for.
        unsafe {
            let none = std::ptr::null();
            let status = (self.create)(&mut program, text.as_ptr(), file.as_ptr(), 0, none, none);
            if status != 0 {
                return Err(fail(format!("the compiler returned {status} for the source")));
            }
            let guard = Destroyer { nvrtc: self, program };
            let status = (self.compile)(guard.program, options.len() as c_int, options.as_ptr());
            if status != 0 {
                let log = read(guard.program, self.log_size, self.log).unwrap_or_default();
                let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
                return Err(fail(format!("{} (status {status}, {architecture})", log.trim())));
            }
            read(guard.program, self.cubin_size, self.cubin)
                .filter(|cubin| !cubin.is_empty())
                .ok_or_else(|| fail(format!("the compiler made no code for {architecture}")))
        }
    }
}

struct Destroyer<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Drop for Destroyer<'_> {
    fn drop(&mut self) {
        // SAFETY: the program was created and is destroyed once, here.
        unsafe { (self.nvrtc.destroy)(&mut self.program) };
    }
}

/// What `read` writes, after `size` said how much that is.
///
/// # Safety
/// The two functions belong together, and `program` is one of their compiler's.
unsafe fn read(program: Program, size: Size, read: Read) -> Option<Vec<u8>> {
    let mut bytes = 0;
    // SAFETY: the caller's promise.
    if unsafe { size(program, &mut bytes) } != 0 {
        return None;
    }
    let mut data = vec![0u8; bytes];
    // SAFETY: the caller's promise; `data` has the size that the compiler asked for.
    (unsafe { read(program, data.as_mut_ptr().cast()) } == 0).then_some(data)
}

/// The line in `rmsnorm_forward.cu(12): error: ...`.
fn error_line(log: &str) -> Option<u32> {
    let line = log.lines().find(|line| line.contains("): error"))?;
    let (_, rest) = line.split_once(".cu(")?;
    rest.split(')').next()?.parse().ok()
}

/// `place` itself if it is a file, else the first `libnvrtc.so*` or `nvrtc64*.dll` in it or `depth` folders
/// below.
fn find(place: &Path, depth: usize) -> Option<PathBuf> {
    if place.is_file() {
        return Some(place.to_owned());
    }
    let mut entries: Vec<PathBuf> =
        place.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    let is_compiler = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
        path.is_file()
            && (name.starts_with("libnvrtc.so") || name.starts_with("nvrtc64") && name.ends_with(".dll"))
    };
    if let Some(path) = entries.iter().find(is_compiler) {
        return Some(path.clone());
    }
    // Links are not followed: they may lead round in circles.
    let folders = entries.iter().filter(|path| path.symlink_metadata().is_ok_and(|m| m.is_dir()));
    if depth == 0 { None } else { folders.filter_map(|folder| find(folder, depth - 1)).next() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_an_error_is_found() {
        assert_eq!(error_line("a.cu(3): warning: x\nmatmul.cu(12): error: expected a \";\"\n"), Some(12));
        assert_eq!(error_line("nvrtc: error: invalid value for --gpu-architecture"), None);
    }
}
