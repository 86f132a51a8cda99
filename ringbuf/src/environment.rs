//! The program's environment, read without a copy. UNSAFE.

use std::ffi::CStr;

/// What an environment variable is set to, if that is text in ASCII. `std::env::var` copies it, and ends the process where there is no
/// memory for that.
pub fn var<T>(name: &CStr, look: impl FnOnce(Option<&str>) -> T) -> T {
    // SAFETY: a NUL-terminated name; what comes back is null or NUL-terminated, and stays as it is while nobody sets variables.
    // As ever, a program must not set any while other threads may read them (setenv(3)); it is looked at and not kept.
    let value = unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    };
    let text = value.map(CStr::to_bytes).filter(|value| value.is_ascii());
    // SAFETY: ASCII is UTF-8. (Of std's check no compiler knows, while it looks at this crate alone, that it does not unwind.)
    look(text.map(|text| unsafe { str::from_utf8_unchecked(text) }))
}
