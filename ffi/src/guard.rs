//! The boundary: no panic crosses it, and every answer is a status.

use std::panic::{AssertUnwindSafe, catch_unwind};

use npfs::{NtStatus, nt::NtResult};

use crate::types::npfs_status;

/// STATUS_INTERNAL_ERROR.
pub(crate) const INTERNAL_ERROR: NtStatus = NtStatus(0xC000_00E5);

/// The body of every export that answers a status.
pub(crate) fn guard(call: impl FnOnce() -> NtResult<NtStatus>) -> npfs_status {
    guard_or(INTERNAL_ERROR, || match call() {
        Ok(status) | Err(status) => status,
    })
    .0
}

/// The body of those that answer something else; `bug` if it panics.
///
/// Nothing that is left half done by a panic is unsound to use again: locks are taken again whatever they guarded when
/// their holder panicked, and what a C caller handed in is only ever written at a call's end.
pub(crate) fn guard_or<T>(bug: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        // What was thrown may panic when it is dropped, and nothing would catch that.
        std::mem::forget(payload);
        bug
    })
}

/// What succeeded without saying more.
pub(crate) fn done<T>(result: NtResult<T>) -> NtResult<NtStatus> {
    result.map(|_| NtStatus::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn panics() -> npfs_status {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("a payload that panics when it is dropped");
            }
        }
        guard(|| std::panic::panic_any(Bomb))
    }

    #[test]
    fn a_panic_becomes_a_status() {
        let export: extern "C" fn() -> npfs_status = panics;
        assert_eq!(export(), crate::numbers::NPFS_STATUS_INTERNAL_ERROR);
        assert_eq!(guard(|| panic!("text")), INTERNAL_ERROR.0);
        assert_eq!(guard(|| Err(NtStatus::PENDING)), 0x103);
    }
}
