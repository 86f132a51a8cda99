//! Which CPU the calling thread runs on, for almost nothing, and what it is like. UNSAFE.
//!
//! glibc registers a restartable-sequence area for every thread, which the kernel keeps up to date; reading it is one
//! load. Without it (another libc, another architecture) sched_getcpu(3) answers through the vDSO.

/// The CPU, plus one; zero: not known.
#[inline]
pub(crate) fn current() -> u32 {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(loom)))]
    {
        let offset = rseq_offset();
        if offset != 0 {
            let cpu: u32;
            // SAFETY:
            // - `offset` is glibc's `__rseq_offset`, so fs:offset is this thread's `struct rseq`, alive as long as
            //   the thread; `cpu_id` is its second 32-bit field.
            // - Only a 4-byte load; the kernel is the only writer, on this thread's own account.
            unsafe {
                std::arch::asm!(
                    "mov {cpu:e}, dword ptr fs:[{offset} + 4]",
                    offset = in(reg) offset,
                    cpu = out(reg) cpu,
                    options(nostack, preserves_flags, readonly),
                );
            }
            // -1 and -2 say that registration is missing or failed.
            if cpu < u32::MAX - 1 {
                return cpu + 1;
            }
        }
    }
    slow()
}

#[cfg(not(any(miri, loom)))]
#[cold]
fn slow() -> u32 {
    // SAFETY: no arguments, no memory.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu).map_or(0, |cpu| cpu + 1)
}

#[cfg(any(miri, loom))]
fn slow() -> u32 {
    0
}

/// glibc's `__rseq_offset` (2.35 and later), looked up once; 0: there is none.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(loom)))]
#[inline]
fn rseq_offset() -> isize {
    use crate::sync::process::{AtomicU32, Ordering};
    // 0: not looked up yet; otherwise the offset's low half, plus 1 so that "none" is not zero. Offsets from the
    // thread pointer are small.
    static OFFSET: AtomicU32 = AtomicU32::new(0);
    let known = OFFSET.load(Ordering::Relaxed);
    if known != 0 {
        return (known.wrapping_sub(1)).cast_signed() as isize;
    }
    let offset = look_up();
    let narrow = i32::try_from(offset).unwrap_or(0);
    OFFSET.store(
        narrow.cast_unsigned().wrapping_add(1).max(1),
        Ordering::Relaxed,
    );
    narrow as isize
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(loom)))]
#[cold]
fn look_up() -> isize {
    // SAFETY: both names are NUL-terminated; the symbols, where glibc has them, are a `ptrdiff_t` and an
    // `unsigned int` that never change after start-up.
    unsafe {
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        // A size of 0: not registered (a tunable, or an old kernel).
        if size.is_null() || offset.is_null() || *size == 0 {
            0
        } else {
            *offset
        }
    }
}

/// CPUs that this process may run on now, at least 1.
pub(crate) fn allowed() -> u32 {
    #[cfg(not(any(miri, loom)))]
    {
        // SAFETY: `cpu_set_t` is plain data for which zero is a valid value, written by the call within its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) == 0 {
                return u32::try_from(libc::CPU_COUNT(&set)).unwrap_or(1).max(1);
            }
        }
    }
    1
}

/// Bytes of the cache that a CPU has for itself (the second level), from [`LEAST_CACHE`], also where nobody says, to
/// [`MOST_CACHE`].
#[inline]
pub(crate) fn own_cache() -> u32 {
    use crate::sync::process::{AtomicU32, Ordering};
    // 0: not looked up yet.
    static BYTES: AtomicU32 = AtomicU32::new(0);
    let known = BYTES.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let bytes = look_up_cache().clamp(LEAST_CACHE, MOST_CACHE);
    BYTES.store(bytes, Ordering::Relaxed);
    bytes
}

#[cold]
fn look_up_cache() -> u32 {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(any(miri, loom))))]
    {
        // SAFETY: a number only. glibc answers from what the CPU says of itself; 0 or -1 where it does not.
        let bytes = unsafe { libc::sysconf(libc::_SC_LEVEL2_CACHE_SIZE) };
        u32::try_from(bytes).unwrap_or(0)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu", not(any(miri, loom)))))]
    0
}

const LEAST_CACHE: u32 = 1 << 20;
/// More is shared by several CPUs.
const MOST_CACHE: u32 = 2 << 20;

/// Lets somebody else on this CPU run.
pub(crate) fn give_way() {
    #[cfg(not(any(miri, loom)))]
    // SAFETY: no arguments, no memory.
    unsafe {
        libc::sched_yield();
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    #[test]
    fn both_ways_name_an_allowed_cpu() {
        // The thread may move between the two calls, so compare only that both are known.
        assert_ne!(super::current(), 0);
        assert_ne!(super::slow(), 0);
        assert!(super::allowed() >= 1);
        assert!((super::LEAST_CACHE..=super::MOST_CACHE).contains(&super::own_cache()));
    }
}
