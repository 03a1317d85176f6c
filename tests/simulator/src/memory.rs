//! Structs of C, read and written by offset.
//!
//! The offsets are written down here and not shared with the exporter, so that a slip in one shows in the other.
//! SAFETY of all: the caller passes a struct whose version word was checked, or that has none, so the offset lies within.

use std::ffi::c_void;

pub unsafe fn put<T>(base: *mut c_void, offset: usize, value: T) {
    unsafe { base.cast::<u8>().add(offset).cast::<T>().write_unaligned(value) }
}

pub unsafe fn get<T>(base: *const c_void, offset: usize) -> T {
    unsafe { base.cast::<u8>().add(offset).cast::<T>().read_unaligned() }
}

pub unsafe fn put_text(base: *mut c_void, offset: usize, size: usize, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(size - 1)];
    unsafe {
        let to = base.cast::<u8>().add(offset);
        to.write_bytes(0, size);
        to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
}

/// Whether a struct is there and starts with one of these version words.
pub unsafe fn has_version(base: *const c_void, words: &[u32]) -> bool {
    !base.is_null() && words.contains(&unsafe { get::<u32>(base, 0) })
}
