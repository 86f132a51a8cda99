//! The only module that names atomics: those of `std`, or loom's under `--cfg loom`.
//!
//! Everything that two threads or processes share goes through these names, so that the models run the code that
//! ships.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is the module that the rule points to"
)]

pub(crate) use std::sync::atomic::Ordering;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, fence};
#[cfg(not(loom))]
pub(crate) use native::*;

/// Aliases and a function, not re-exports: clippy follows a re-export to `std` and would refuse every use.
#[cfg(not(loom))]
mod native {
    pub(crate) type AtomicPtr<T> = std::sync::atomic::AtomicPtr<T>;
    pub(crate) type AtomicU8 = std::sync::atomic::AtomicU8;
    pub(crate) type AtomicU32 = std::sync::atomic::AtomicU32;
    pub(crate) type AtomicU64 = std::sync::atomic::AtomicU64;

    #[inline(always)]
    pub(crate) fn fence(order: super::Ordering) {
        std::sync::atomic::fence(order);
    }
}

/// Process-wide counters live in statics, where loom's atomics cannot: these are always `std`'s.
pub(crate) mod process {
    pub(crate) use super::Ordering;
    pub(crate) type AtomicU32 = std::sync::atomic::AtomicU32;
    #[cfg(not(loom))]
    pub(crate) type AtomicBool = std::sync::atomic::AtomicBool;
    pub(crate) type AtomicU64 = std::sync::atomic::AtomicU64;
}

/// A full fence for a thread whose last access to memory was a read-modify-write with `SeqCst`.
///
/// On x86 a locked instruction already drains the store buffer (Intel SDM volume 3, 8.2.3.9), so a second fence
/// would only cost its 10 ns; the compiler alone has to be held back. Elsewhere, and in the models, it is a fence.
#[inline(always)]
pub(crate) fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    fence(Ordering::SeqCst);
}

/// One turn of a bounded spin.
#[inline(always)]
pub(crate) fn spin_hint() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
