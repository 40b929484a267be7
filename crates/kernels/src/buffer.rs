//! Memory that vector loads like: zeroed, and aligned to a cache line.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Two cache lines: what AVX-512 loads for 32 lanes of f32 never crosses a third.
const ALIGN: usize = 128;

/// Numbers for which all bits zero is a value and every bit pattern is one.
///
/// # Safety
/// Any sequence of bytes must be a valid value of the type.
pub unsafe trait Plain: Copy {}
// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for i8 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for i32 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}

/// A fixed-size array on the heap, zeroed and aligned to 128 bytes.
///
/// The system hands out zero pages without touching them, so a large buffer costs memory only where it is written.
pub struct Buffer<T: Plain> {
    start: NonNull<T>,
    len: usize,
    /// What the allocator returned, up to `ALIGN` bytes before `start`.
    allocation: NonNull<u8>,
    owns: PhantomData<T>,
}

// SAFETY: it owns its plain numbers, as a `Box<[T]>` does.
unsafe impl<T: Plain + Send> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Plain + Sync> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` zeros. Aborts, as `Vec` does, when there is no memory.
    pub fn zeroed(len: usize) -> Buffer<T> {
        let layout = Self::layout(len);
        if layout.size() == 0 {
            return Buffer {
                start: NonNull::dangling(),
                len: 0,
                allocation: NonNull::dangling(),
                owns: PhantomData,
            };
        }
        // SAFETY: the layout's size is not 0.
        let Some(allocation) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        let skip = allocation.as_ptr().align_offset(ALIGN);
        // SAFETY: `skip` is below `ALIGN`, and the layout has that many bytes more than the elements take.
        let start = unsafe { allocation.add(skip).cast() };
        ask_for_large_pages(allocation, layout.size());
        Buffer { start, len, allocation, owns: PhantomData }
    }

    /// Room for the elements and for moving them to an aligned address. The allocator is not asked to align:
    /// for more than 16 bytes it would write zeros itself, and so touch every page.
    fn layout(len: usize) -> Layout {
        if len == 0 {
            return Layout::new::<()>();
        }
        let bytes = len.checked_mul(size_of::<T>()).and_then(|n| n.checked_add(ALIGN));
        let layout = bytes.and_then(|bytes| Layout::from_size_align(bytes, 16).ok());
        layout.unwrap_or_else(|| panic!("a buffer of {len} elements does not fit the address space"))
    }
}

/// Asks the system for pages of 2 MiB: to touch a gigabyte for the first time takes a tenth of the time then, and its
/// addresses fit into the processor's table of pages. A hint, which may be ignored.
fn ask_for_large_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        const LARGE: usize = 2 << 20;
        let skip = start.as_ptr().align_offset(PAGE);
        if bytes >= skip + 4 * LARGE {
            let len = (bytes - skip) / PAGE * PAGE;
            // SAFETY: whole pages inside the allocation, of which only the size in memory may change.
            unsafe { libc::madvise(start.as_ptr().add(skip).cast(), len, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { dealloc(self.allocation.as_ptr(), Self::layout(self.len)) }
        }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements that we own.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `len` initialised elements that we own.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Buffer::zeroed(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Plain> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {} elements", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zeroed_and_aligned() {
        for len in [0, 1, 33, 1000] {
            let mut buffer = Buffer::<f32>::zeroed(len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            assert_eq!(buffer.len(), len);
            if len > 0 {
                assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
                buffer[len - 1] = 3.0;
                assert_eq!(buffer.clone()[len - 1], 3.0);
            }
        }
    }
}
