//! The memory of a link: how it is made, checked and mapped, and the casts to what stands in it. UNSAFE.

#![allow(
    clippy::cast_possible_truncation,
    reason = "offsets and lengths were checked to be inside a mapping, hence inside the address space"
)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
};

use crate::{
    Link, ProcessIndex, Shared,
    area::Memory,
    error::AttachError,
    futex::errno,
    geometry::Geometry,
    layout::{
        BELLS_OFF, BellPage, LinkHeader, PAGE, RecordTables, SLOT_SIZE, SLOTS_OFF, SlotHeader,
        TABLES_SIZE,
    },
    role::Keeper,
};

/// A mapping of a link, whole or up to its data areas.
#[derive(Debug)]
pub(crate) struct Region {
    map: Map,
    geometry: Geometry,
}

/// Pages of a link, one at least.
#[derive(Debug)]
pub(crate) struct Map {
    at: NonNull<u8>,
    len: usize,
    /// The process that has them mapped: a child of fork(2) has something else there, or nothing (MADV_DONTFORK).
    process: libc::pid_t,
}

// SAFETY: an address and a length; what is behind them is shared between processes, and its users see to that.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes of a checked descriptor, of which the first page is known to be there. (Not by a crate's hand: none does
    /// so without a division that could panic, for offsets that are not used here.)
    pub(crate) fn new(fd: BorrowedFd<'_>, len: u64) -> io::Result<Map> {
        let out_of_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = usize::try_from(len).map_err(|_| out_of_memory())?;
        if len < PAGE as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a new mapping at a place of the kernel's choice takes nothing from anybody.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made; both advices only change what fork and core dumps do with it.
        unsafe {
            libc::madvise(at, len, libc::MADV_DONTFORK);
            libc::madvise(at, len, libc::MADV_DONTDUMP);
        }
        Ok(Map {
            at: NonNull::new(at.cast()).ok_or_else(out_of_memory)?,
            len,
            process: own_process(),
        })
    }

    /// The header of the link.
    pub(crate) fn header(&self) -> &LinkHeader {
        // SAFETY:
        // - Mappings are page-aligned, hence aligned for `LinkHeader`, and have a page at least.
        // - `check` found F_SEAL_SHRINK and the length, so no access can fault for want of file.
        // - Every field is an atomic integer: any bit pattern is valid, and a store by a peer at any moment yields
        //   some value, never an invalid one.
        // - The mapping lives as long as the reference.
        unsafe { self.at.cast::<LinkHeader>().as_ref() }
    }
}

impl Drop for Map {
    // Inline, as other drops and wakes: so the optimizer sees in each crate that it does not unwind.
    #[inline]
    fn drop(&mut self) {
        if self.process == own_process() {
            // SAFETY: the mapping of `new`, which nobody uses after this.
            unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
        }
    }
}

/// (Of std's nobody knows that it does not unwind, and each mapping would be ready for that.)
#[inline]
fn own_process() -> libc::pid_t {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::getpid() }
}

/// Seals without which a peer could take the memory from under us.
const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Makes the memory of a link: sparse, named for /proc, sealed.
pub(crate) fn create(size: u64) -> io::Result<OwnedFd> {
    // SAFETY: a NUL-terminated name; the descriptor that comes back is ours alone.
    let fd = unsafe {
        let fd = libc::memfd_create(
            c"npfs-link".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let len =
        libc::off_t::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: both take a descriptor and numbers.
    let sealed = unsafe {
        libc::ftruncate(fd.as_raw_fd(), len) == 0
            && libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) == 0
    };
    if sealed {
        Ok(fd)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Checks that a descriptor is memory that cannot shrink, in ordinary pages; its length in bytes.
pub(crate) fn check(fd: BorrowedFd<'_>) -> Result<u64, AttachError> {
    let fd = fd.as_raw_fd();
    // SAFETY: a descriptor and a command; only memfds (and a few tmpfs files) answer at all.
    let seals = unsafe { libc::fcntl(fd, libc::F_GET_SEALS) };
    if seals < 0 {
        return Err(AttachError::NotMemory);
    }
    // SAFETY: both structures are plain data for which zero is valid, written by the calls within their sizes.
    let (file_system, status) = unsafe {
        let mut file_system: libc::statfs = std::mem::zeroed();
        let mut status: libc::stat64 = std::mem::zeroed();
        if libc::fstatfs(fd, &raw mut file_system) != 0 || libc::fstat64(fd, &raw mut status) != 0 {
            return Err(AttachError::Io(io::Error::last_os_error()));
        }
        (file_system, status)
    };
    // A memfd of huge pages has seals too, and dies by SIGBUS where ordinary memory waits or fails.
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the type of f_type differs between targets; magic numbers have 32 bits"
    )]
    if file_system.f_type as u32 != libc::TMPFS_MAGIC as u32 {
        return Err(AttachError::NotMemory);
    }
    if seals & SEALS != SEALS {
        return Err(AttachError::NotSealed {
            missing: SEALS & !seals,
        });
    }
    u64::try_from(status.st_size).map_err(|_| AttachError::TooSmall { len: 0 })
}

impl Region {
    /// A mapping whose header was checked against its length; `None`: it is shorter than its geometry.
    pub(crate) fn new(map: Map, geometry: Geometry) -> Option<Region> {
        (map.len as u64 >= geometry.data_off).then_some(Region { map, geometry })
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn header(&self) -> &LinkHeader {
        self.map.header()
    }

    #[inline]
    fn at(&self, offset: u64) -> NonNull<u8> {
        // SAFETY: callers stay below `data_off`, or within a data area, both inside the mapping.
        unsafe { self.map.at.add(offset as usize) }
    }

    #[inline]
    pub(crate) fn bell(&self, process: ProcessIndex) -> &BellPage {
        // SAFETY: as for the header; bell pages are page-aligned and before `data_off` by the layout's assertions, one for each
        // index that there can be.
        unsafe {
            self.at(BELLS_OFF + u64::from(process.get()) * PAGE)
                .cast::<BellPage>()
                .as_ref()
        }
    }

    pub(crate) fn slot(&self, slot: u32) -> &SlotHeader {
        // SAFETY: as for the header; slot headers are aligned to 1 KiB and before `data_off` by `Geometry`.
        unsafe { self.at(self.slot_off(slot)).cast::<SlotHeader>().as_ref() }
    }

    pub(crate) fn tables(&self, slot: u32) -> &RecordTables {
        // SAFETY: as for slot headers; record tables are aligned to 2 KiB.
        unsafe {
            self.at(self.tables_off(slot))
                .cast::<RecordTables>()
                .as_ref()
        }
    }

    fn slot_off(&self, slot: u32) -> u64 {
        SLOTS_OFF + u64::from(self.within(slot)) * SLOT_SIZE
    }

    fn tables_off(&self, slot: u32) -> u64 {
        self.geometry.tables_off + u64::from(self.within(slot)) * TABLES_SIZE
    }

    /// Callers have checked the number. If one has not, that is a bug, and it gets another slot of the link: memory that its peer
    /// may write to anyway.
    fn within(&self, slot: u32) -> u32 {
        debug_assert!(slot < self.geometry.slots);
        slot.min(self.geometry.slots - 1)
    }

    /// Where a data area of a whole mapping begins; `None`: it does not stand there ([`Geometry::area`]).
    fn area_at(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let stands = self.geometry.area(offset, len) && offset + len <= self.map.len as u64;
        stands.then(|| self.at(offset))
    }
}

/// Pointers into a mapping, found once per connection so that calls need next to no arithmetic.
#[derive(Debug)]
pub(crate) struct SlotRefs {
    slot: NonNull<SlotHeader>,
    /// Keeps the mapping.
    link: Shared<Link>,
    /// From the slot's header to its record tables, bytes: both are before `data_off`, within 16 MiB.
    tables: u32,
    /// As which this process keeps roles there.
    keeper: Keeper,
}

// SAFETY: the pointer leads to atomics in a mapping that `link` keeps; all of it may be used from any thread.
unsafe impl Send for SlotRefs {}
// SAFETY: as for `Send`.
unsafe impl Sync for SlotRefs {}

impl SlotRefs {
    pub(crate) fn new(link: Shared<Link>, slot: u32) -> SlotRefs {
        let region = link.region();
        let (header, tables) = (region.slot_off(slot), region.tables_off(slot));
        SlotRefs {
            slot: region.at(header).cast(),
            tables: (tables - header) as u32,
            keeper: Keeper::of(link.process(), link.keep_after()),
            link,
        }
    }

    /// Data areas of its link, given as (offset, length). `None`: one of them does not stand there, or they overlap.
    ///
    /// # Safety
    /// They are used no longer than this lives, which keeps the mapping.
    pub(crate) unsafe fn areas(&self, areas: [(u64, u64); 2]) -> Option<[Memory; 2]> {
        let region = self.link.region();
        let [(first, first_len), (second, second_len)] = areas;
        let bases = [
            region.area_at(first, first_len)?,
            region.area_at(second, second_len)?,
        ];
        if first < second + second_len && second < first + first_len {
            return None;
        }
        // SAFETY:
        // - Checked by `Region::area_at`: inside the mapping, aligned to pages, a power of two long.
        // - Nobody makes references to payload bytes; how long the mapping lives, the caller vouches for.
        let memory = |base, len| unsafe { Memory::new(base, len as u32, 0) };
        Some([memory(bases[0], first_len), memory(bases[1], second_len)])
    }

    /// The slot's. Nobody stores it: with each one, the tables are further away by what they are larger than a header.
    pub(crate) fn number(&self) -> u32 {
        let region = self.link.region();
        let of_the_first = region.tables_off(0) - region.slot_off(0);
        ((u64::from(self.tables) - of_the_first) / (TABLES_SIZE - SLOT_SIZE)) as u32
    }

    pub(crate) fn link(&self) -> &Shared<Link> {
        &self.link
    }

    #[inline(always)]
    pub(crate) fn keeper(&self) -> Keeper {
        self.keeper
    }

    #[inline(always)]
    pub(crate) fn slot(&self) -> &SlotHeader {
        // SAFETY: as in `Region::slot`, whose offset this is, in the mapping that `link` keeps.
        unsafe { self.slot.as_ref() }
    }

    #[inline(always)]
    pub(crate) fn tables(&self) -> &RecordTables {
        // SAFETY:
        // - As in `Region::tables`: `tables` is the distance between the two offsets, in the same mapping.
        // - `slot` was made from the mapping's own pointer and not from a reference to the header, so it reaches all of it.
        unsafe {
            self.slot
                .byte_add(self.tables as usize)
                .cast::<RecordTables>()
                .as_ref()
        }
    }
}

/// Memory behind headers and records, so that no store to them can end in SIGBUS.
pub(crate) fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    fallocate(fd, 0, offset, len).map_err(io::Error::from_raw_os_error)
}

/// Takes memory back, if the system can; the range reads as zero afterwards.
pub(crate) fn punch(fd: BorrowedFd<'_>, offset: u64, len: u64) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let _ = fallocate(fd, mode, offset, len);
}

/// `Err`: the number of the system's error.
fn fallocate(fd: BorrowedFd<'_>, mode: i32, offset: u64, len: u64) -> Result<(), i32> {
    let invalid = |_| libc::EINVAL;
    let offset = libc::off64_t::try_from(offset).map_err(invalid)?;
    let len = libc::off64_t::try_from(len).map_err(invalid)?;
    // SAFETY: a descriptor and numbers.
    if unsafe { libc::fallocate64(fd.as_raw_fd(), mode, offset, len) } == 0 {
        Ok(())
    } else {
        Err(errno())
    }
}

/// Random bytes from the system, as a number.
pub(crate) fn fill_random(numbers: &mut [u64; 32]) -> io::Result<()> {
    // SAFETY: writes at most the bytes of `numbers`, for which every value is valid. Up to 256 bytes come whole (getrandom(2)).
    let got = unsafe { libc::getrandom(numbers.as_mut_ptr().cast(), size_of_val(numbers), 0) };
    if got == size_of_val(numbers) as isize {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A descriptor that becomes readable when the process exits (pidfd_open(2)). `Err`: the number of the system's error.
pub(crate) fn pidfd(pid: u32) -> Result<OwnedFd, i32> {
    // SAFETY: numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: a descriptor that the call has just made, and ours alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(errno()),
    }
}

/// One more descriptor of the same. `Err`: the number of the system's error.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, i32> {
    // SAFETY: a descriptor and numbers.
    let fd = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: a descriptor that the call has just made, and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the process behind a pidfd has exited.
pub(crate) fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid `pollfd`; a timeout of 0 does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLIN != 0 }
}
