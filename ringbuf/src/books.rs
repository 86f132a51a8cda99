//! The broker's part: which slots and areas of a link are in use, by whom, with which secrets; and taking back what the
//! dead held.
//!
//! Private memory decides; the link only hears of it. The books map headers and records, never the data areas, and
//! wait for nothing: every call works on words that a hostile process may be changing, in bounded loops.
//!
//! A slot is handed out again only when both ends are closed and nobody living holds a role or a record in it: a
//! writer that was stopped in the middle of a copy must never commit into the next connection.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::{
    attention::{Attention, DISCONNECTED, READER_CLOSED, WRITER_CLOSED},
    barrier::KEEP_NEVER,
    doorbell::Bell,
    error::BooksError,
    futex,
    geometry::{Geometry, LEAST_AREA, area_len},
    layout::{
        ABI_VERSION, MAGIC, PROCESSES, QueueHeader, Record, SLOT_SIZE, SLOTS_OFF, TABLES_SIZE,
        layout_hash,
    },
    link::Grant,
    queue,
    record::{Outcome, Phase, Wakes},
    region::{self, Map, Region},
    role::{Owner, Role, SETTLE},
    shared::try_push,
    signal,
    sync::Ordering,
    types::{Access, CompletionMode, End, PipeType, ProcessIndex, ReadMode},
};

/// How a link is made.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Bytes of address space; memory is taken only as it is used. At most 64 MiB where a process of the pair has
    /// 32 bits.
    pub size: u64,
    /// Connections that it can hold, at most 4096.
    pub slots: u32,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        LinkConfig {
            size: 4 << 30,
            slots: 1024,
        }
    }
}

impl LinkConfig {
    /// For one connection, whatever its quotas. `small`: a process of the pair has 32 bits.
    #[must_use]
    pub fn for_one(small: bool) -> LinkConfig {
        LinkConfig {
            // Headers, and two areas of at most 1 MiB or 128 MiB (`geometry.rs`).
            size: if small { 4 << 20 } else { 512 << 20 },
            slots: 1,
        }
    }
}

/// A connection to be made.
#[derive(Clone, Copy, Debug)]
pub struct ConnSpec {
    /// Bytes or messages.
    pub pipe_type: PipeType,
    /// From client to server, bytes.
    pub inbound_quota: u32,
    /// From server to client, bytes.
    pub outbound_quota: u32,
    /// What the server end may do.
    pub server: Access,
    /// What the client end may do.
    pub client: Access,
    /// How the server end begins (NP-OBJ-10: a client always begins in byte mode, and in QUEUE mode). Messages only count on
    /// a message pipe.
    pub server_modes: (ReadMode, CompletionMode),
}

impl ConnSpec {
    /// Duplex, the same quota in both directions.
    #[must_use]
    pub fn new(pipe_type: PipeType, quota: u32) -> ConnSpec {
        ConnSpec {
            pipe_type,
            inbound_quota: quota,
            outbound_quota: quota,
            server: Access::DUPLEX,
            client: Access::DUPLEX,
            server_modes: <(ReadMode, CompletionMode)>::default(),
        }
    }

    fn server_mode_bits(&self) -> u32 {
        let (read, completion) = self.server_modes;
        match self.pipe_type {
            PipeType::Message => queue::mode_bits(read, completion),
            PipeType::Byte => queue::mode_bits(ReadMode::Byte, completion),
        }
    }
}

/// Names a connection in the books that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

/// The books of one link.
#[derive(Debug)]
pub struct LinkBooks {
    fd: OwnedFd,
    region: Region,
    token: [u64; 2],
    slots: Vec<Slot>,
    /// Slots that can be handed out, or could if nobody held anything in them.
    free: Vec<u32>,
    parked: Vec<u32>,
    processes: [Option<Process>; PROCESSES],
    areas: Areas,
    secrets: Secrets,
    /// For one connection alone, which others than the pair may share.
    apart: bool,
}

/// Random numbers that nobody has been given yet: the first `left`.
#[derive(Debug)]
struct Secrets {
    numbers: [u64; 32],
    left: usize,
}

impl Secrets {
    const NONE: Secrets = Secrets {
        numbers: [0; 32],
        left: 0,
    };

    /// From the system, some at a time.
    fn next(&mut self) -> Result<u64, BooksError> {
        if self.left == 0 {
            region::fill_random(&mut self.numbers).map_err(BooksError::Io)?;
            self.left = self.numbers.len();
        }
        self.left -= 1;
        let number = self.numbers.get_mut(self.left).map(std::mem::take);
        Ok(number.unwrap_or_default())
    }
}

/// As small as it can be: a link has one for each connection that it may ever hold.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    generation: u32,
    /// By `End::index`: who has the end open, a bit each.
    holders: [Holders; 2],
    /// Bit 0: its memory is there; bit 1: messages.
    flags: u8,
    /// By `End::index`.
    access: [Access; 2],
    /// By the index of the end that reads, as everything below: where its area is, in units of the least one, ...
    area_at: [u32; 2],
    /// ... and the logarithm of its length.
    area_bits: [u8; 2],
    quotas: [u32; 2],
    secrets: [u64; 2],
}

const ALLOCATED: u8 = 1;
const MESSAGES: u8 = 2;

/// Those who have an end open: a bit for each process of the link, and one for the broker, which keeps an end open that
/// was given away and not taken yet.
type Holders = u16;

/// The broker's bit among the holders.
const KEPT: Holders = 1 << PROCESSES;
/// The bits of processes.
pub(crate) const ANY_PROCESS: u32 = KEPT as u32 - 1;

fn bit(process: ProcessIndex) -> Holders {
    1 << process.get()
}

impl Slot {
    fn is_allocated(&self) -> bool {
        self.flags & ALLOCATED != 0
    }

    fn is_open(&self) -> bool {
        self.holders.iter().any(|of| *of != 0)
    }

    fn areas(&self) -> [(u64, u64); 2] {
        let [of_client, of_server] = self.area_at.map(|at| u64::from(at) * LEAST_AREA);
        let [client_bits, server_bits] = self.area_bits;
        [(of_client, 1 << client_bits), (of_server, 1 << server_bits)]
    }

    fn set_areas(&mut self, areas: [(u64, u64); 2]) {
        for (reader, (offset, len)) in areas.into_iter().enumerate() {
            // Geometry sees to it: areas begin at multiples of the least one, within a link of 2^48 bytes at most.
            self.area_at[reader] = u32::try_from(offset / LEAST_AREA).unwrap_or(u32::MAX);
            self.area_bits[reader] = u8::try_from(len.trailing_zeros()).unwrap_or(0);
        }
    }
}

#[derive(Debug)]
struct Process {
    pidfd: Option<OwnedFd>,
}

/// Address space of the data areas: powers of two, each size with a list of what came back.
#[derive(Debug)]
struct Areas {
    next: u64,
    end: u64,
    returned: Vec<(u64, u64)>,
}

impl LinkBooks {
    /// Makes a link.
    ///
    /// # Errors
    /// [`BooksError::Config`] for sizes that cannot be, [`BooksError::Io`] if the system refuses.
    pub fn create(config: &LinkConfig) -> Result<LinkBooks, BooksError> {
        let geometry = Geometry::new(config.size, config.slots).ok_or(BooksError::Config(
            "slots must be 1 to 4096, and the size a multiple of 4096 with room for headers and two areas",
        ))?;
        let fd = region::create(geometry.size).map_err(BooksError::Io)?;
        region::allocate(fd.as_fd(), 0, SLOTS_OFF).map_err(no_memory)?;
        let map = Map::new(fd.as_fd(), geometry.data_off).map_err(BooksError::Io)?;
        let region =
            Region::new(map, geometry).ok_or(BooksError::Config("the mapping is short"))?;
        let mut secrets = Secrets::NONE;
        let token = [secrets.next()?, secrets.next()?];
        // What is taken here is all that closing and taking back will need.
        let count = geometry.slots as usize;
        let slots = list(count, (0..geometry.slots).map(|_| Slot::default()))?;
        let free = list(count, (0..geometry.slots).rev())?;
        let parked = list(count, std::iter::empty())?;
        let header = region.header();
        header.abi_version.store(ABI_VERSION, Ordering::Relaxed);
        header.layout_hash.store(layout_hash(), Ordering::Relaxed);
        header.size.store(geometry.size, Ordering::Relaxed);
        header.data_off.store(geometry.data_off, Ordering::Relaxed);
        header.slots.store(geometry.slots, Ordering::Relaxed);
        for (word, half) in header.token.iter().zip(token) {
            word.store(half, Ordering::Relaxed);
        }
        header.magic.store(MAGIC, Ordering::Release);
        Ok(LinkBooks {
            fd,
            token,
            slots,
            free,
            parked,
            processes: [const { None }; PROCESSES],
            areas: Areas {
                next: geometry.data_off,
                end: geometry.size,
                returned: Vec::new(),
            },
            secrets,
            apart: false,
            region,
        })
    }

    /// The descriptor to hand to a process that joins.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What the link is known by to its processes.
    #[must_use]
    pub fn token(&self) -> [u64; 2] {
        self.token
    }

    /// A duplicate of it, to send or for [`crate::Link::attach`] in this process.
    ///
    /// # Errors
    /// [`BooksError::Io`]: no descriptor is left.
    pub fn share(&self) -> Result<OwnedFd, BooksError> {
        let refused = |code| BooksError::Io(io::Error::from_raw_os_error(code));
        region::duplicate(self.fd.as_fd()).map_err(refused)
    }

    /// Gives a process an index. A pidfd watches it, where there are such; `None` is this process, which needs no watching.
    ///
    /// # Errors
    /// [`BooksError::TooManyProcesses`]; [`BooksError::Io`] if there is no such process.
    pub fn add_process(&mut self, pid: Option<u32>) -> Result<ProcessIndex, BooksError> {
        self.add(0, pid)
    }

    /// The same for one that is not of the link's pair and was given an end on it. It never gets an index that one of the
    /// pair has had.
    ///
    /// # Errors
    /// As [`LinkBooks::add_process`].
    pub fn add_further_process(&mut self, pid: Option<u32>) -> Result<ProcessIndex, BooksError> {
        self.add(2, pid)
    }

    fn add(&mut self, from: usize, pid: Option<u32>) -> Result<ProcessIndex, BooksError> {
        let index = ProcessIndex::all()
            .skip(from)
            .find(|index| self.process(*index).is_none())
            .ok_or(BooksError::TooManyProcesses)?;
        let refused = |code| BooksError::Io(io::Error::from_raw_os_error(code));
        let pidfd = match pid.map(region::pidfd).transpose() {
            Ok(Some(pidfd)) if region::has_exited(pidfd.as_fd()) => {
                return Err(refused(libc::ESRCH));
            }
            Ok(pidfd) => pidfd,
            // A number that no process can have, or a thread's.
            Err(libc::EINVAL) => return Err(refused(libc::ESRCH)),
            // Linux before 5.3, or an emulation: whoever keeps these books hears of deaths by other means.
            Err(libc::ENOSYS) => None,
            Err(code) => return Err(refused(code)),
        };
        if let Some(place) = self.processes.get_mut(usize::from(index.get())) {
            *place = Some(Process { pidfd });
        }
        self.region.bell(index).dead.store(0, Ordering::Relaxed);
        Ok(index)
    }

    fn process(&self, index: ProcessIndex) -> Option<&Process> {
        self.processes.get(usize::from(index.get()))?.as_ref()
    }

    /// Makes a connection: its name, the server end's grant and the client end's.
    ///
    /// # Errors
    /// [`BooksError::NoFreeSlot`] and [`BooksError::NoFreeArea`]: take another link for the pair.
    /// [`BooksError::QuotaTooLarge`], [`BooksError::NoSuchProcess`], [`BooksError::NoMemory`].
    pub fn connect(
        &mut self,
        spec: &ConnSpec,
        server: ProcessIndex,
        client: ProcessIndex,
    ) -> Result<(ConnId, Grant, Grant), BooksError> {
        for quota in [spec.inbound_quota, spec.outbound_quota] {
            if i32::try_from(quota).is_err() {
                return Err(BooksError::QuotaTooLarge(quota));
            }
        }
        for process in [server, client] {
            if self.process(process).is_none() {
                return Err(BooksError::NoSuchProcess);
            }
        }
        if self.apart {
            return Err(BooksError::NoFreeSlot);
        }
        let secrets = [self.secrets.next()?, self.secrets.next()?];
        // By reader: the server reads what the client writes.
        let mut quotas = [0; 2];
        quotas[End::Server.index()] = spec.inbound_quota;
        quotas[End::Client.index()] = spec.outbound_quota;

        self.unpark();
        let slot = self.free.pop().ok_or(BooksError::NoFreeSlot)?;
        let prepared = self.prepare(slot, quotas);
        let areas = match prepared {
            Ok(areas) => areas,
            Err(error) => {
                put(&mut self.free, slot);
                return Err(error);
            }
        };
        let Some(book) = self.slots.get_mut(slot as usize) else {
            return Err(BooksError::NoFreeSlot);
        };
        book.generation = book.generation.wrapping_add(1);
        book.set_areas(areas);
        book.quotas = quotas;
        book.secrets = secrets;
        book.flags = ALLOCATED;
        if spec.pipe_type == PipeType::Message {
            book.flags |= MESSAGES;
        }
        book.access[End::Server.index()] = spec.server;
        book.access[End::Client.index()] = spec.client;
        book.holders[End::Server.index()] = bit(server);
        book.holders[End::Client.index()] = bit(client);
        let (generation, holders) = (book.generation, book.holders);

        let header = self.region.slot(slot);
        header.generation.store(generation, Ordering::Relaxed);
        header.closed.store(0, Ordering::Relaxed);
        for end in [End::Client, End::Server] {
            header.holders[end.index()].store(holders[end.index()].into(), Ordering::Relaxed);
            let modes = match end {
                End::Server => spec.server_mode_bits(),
                End::Client => 0,
            };
            header.modes[end.index()].store(modes, Ordering::Relaxed);
            header.signaled[end.index()].store(signal::first(generation), Ordering::Relaxed);
            header.file_lock[end.index()].store(0, Ordering::Relaxed);
        }
        for queue in &header.queues {
            reset(queue, generation);
        }

        let conn = ConnId { slot, generation };
        Ok((
            conn,
            self.grant(conn, End::Server)?,
            self.grant(conn, End::Client)?,
        ))
    }

    /// What a process has to know of an end that it has.
    ///
    /// # Errors
    /// [`BooksError::NoSuchConnection`].
    pub fn grant(&mut self, conn: ConnId, end: End) -> Result<Grant, BooksError> {
        let token = self.token;
        let book = self.book(conn)?;
        Ok(Grant {
            token,
            slot: conn.slot,
            generation: conn.generation,
            end,
            pipe_type: if book.flags & MESSAGES != 0 {
                PipeType::Message
            } else {
                PipeType::Byte
            },
            access: book.access,
            quotas: book.quotas,
            secrets: book.secrets,
            areas: book.areas(),
        })
    }

    /// A further process has an open end too (NP-CLOSE-01).
    ///
    /// # Errors
    /// [`BooksError::NoSuchConnection`]: it is closed; [`BooksError::NoSuchProcess`].
    pub fn hold(
        &mut self,
        conn: ConnId,
        end: End,
        process: ProcessIndex,
    ) -> Result<(), BooksError> {
        if self.process(process).is_none() {
            return Err(BooksError::NoSuchProcess);
        }
        self.change_holders(conn, end, |of| of | bit(process))
    }

    /// A process has an end no more; whoever else has it goes on. The last one closes it.
    ///
    /// # Errors
    /// [`BooksError::NoSuchConnection`]: it is closed.
    pub fn release(
        &mut self,
        conn: ConnId,
        end: End,
        process: ProcessIndex,
    ) -> Result<(), BooksError> {
        self.change_holders(conn, end, |of| of & !bit(process))
    }

    /// The broker itself keeps an end open for whoever will take it, or does so no longer.
    ///
    /// # Errors
    /// [`BooksError::NoSuchConnection`]: it is closed.
    pub fn keep(&mut self, conn: ConnId, end: End, keep: bool) -> Result<(), BooksError> {
        let kept = if keep { KEPT } else { 0 };
        self.change_holders(conn, end, |of| of & !KEPT | kept)
    }

    /// From now on the link is this connection's alone, for good: who gets its memory, whoever that is, finds what the holders of
    /// this connection may know anyway. What connections of the past have left in their areas goes.
    ///
    /// # Errors
    /// [`BooksError::NotAlone`], [`BooksError::NoSuchConnection`].
    pub fn set_apart(&mut self, conn: ConnId) -> Result<(), BooksError> {
        let [one, other] = self.book(conn)?.areas();
        if self.apart {
            return Ok(());
        }
        self.unpark();
        if self.connections() != 1 || !self.parked.is_empty() {
            return Err(BooksError::NotAlone);
        }
        let (mut from, end) = (self.region.geometry().data_off, (self.areas.next, 0));
        for (offset, len) in [one.min(other), one.max(other), end] {
            if from < offset {
                region::punch(self.fd.as_fd(), from, offset - from);
            }
            from = offset + len;
        }
        self.apart = true;
        Ok(())
    }

    /// Whether it is one connection's alone.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.apart
    }

    fn change_holders(
        &mut self,
        conn: ConnId,
        end: End,
        change: impl FnOnce(Holders) -> Holders,
    ) -> Result<(), BooksError> {
        let of = &mut self.book(conn)?.holders[end.index()];
        if *of == 0 {
            return Err(BooksError::NoSuchConnection);
        }
        let after = change(*of);
        if after == 0 {
            return self.close(conn, end);
        }
        *of = after;
        let header = self.region.slot(conn.slot);
        header.holders[end.index()].store(after.into(), Ordering::SeqCst);
        Ok(())
    }

    /// Memory and address space for a connection.
    fn prepare(&mut self, slot: u32, quotas: [u32; 2]) -> Result<[(u64, u64); 2], BooksError> {
        let geometry = *self.region.geometry();
        let book = self.slots.get_mut(slot as usize);
        let book = book.ok_or(BooksError::NoFreeSlot)?;
        if !book.is_allocated() {
            for (offset, len) in [
                (SLOTS_OFF + u64::from(slot) * SLOT_SIZE, SLOT_SIZE),
                (
                    geometry.tables_off + u64::from(slot) * TABLES_SIZE,
                    TABLES_SIZE,
                ),
            ] {
                region::allocate(self.fd.as_fd(), offset, len).map_err(no_memory)?;
            }
            book.flags = ALLOCATED;
        }
        let most = geometry.most_area();
        let lens = quotas.map(|quota| area_len(quota).min(most));
        let first = self.areas.take(lens[0])?;
        match self.areas.take(lens[1]) {
            Ok(second) => Ok([(first, lens[0]), (second, lens[1])]),
            Err(error) => {
                put(&mut self.areas.returned, (first, lens[0]));
                Err(error)
            }
        }
    }

    /// The last handle of an end has gone: as [`crate::Conn::close`], for whoever cannot (NP-CLOSE-02).
    ///
    /// # Errors
    /// [`BooksError::NoSuchConnection`] if that end is closed already.
    pub fn close(&mut self, conn: ConnId, end: End) -> Result<(), BooksError> {
        let book = self.book(conn)?;
        if std::mem::take(&mut book.holders[end.index()]) == 0 {
            return Err(BooksError::NoSuchConnection);
        }
        let both = !book.is_open();
        close_end(&self.region, conn.slot, end);
        if both {
            put(&mut self.parked, conn.slot);
        }
        Ok(())
    }

    /// FSCTL_PIPE_DISCONNECT on behalf of the server end (NP-DISC-01, 07, 08). Both ends stay open until they are
    /// closed; a new connection takes a new slot.
    ///
    /// # Errors
    /// [`BooksError::NoSuchConnection`].
    pub fn disconnect(&mut self, conn: ConnId) -> Result<(), BooksError> {
        self.book(conn)?;
        let header = self.region.slot(conn.slot);
        let tables = self.region.tables(conn.slot);
        let mut wakes = Wakes::certain();
        for (queue, records) in header.queues.iter().zip(&tables.queues) {
            queue::close(queue, records, DISCONNECTED, &mut wakes);
        }
        deliver(&self.region, conn.slot, &mut wakes);
        Ok(())
    }

    /// Something was changed that calls look at when they begin (modes): whoever waits on the connection looks again.
    ///
    /// # Errors
    /// [`BooksError::NoSuchConnection`].
    pub fn nudge(&mut self, conn: ConnId) -> Result<(), BooksError> {
        self.book(conn)?;
        ring_slot(&self.region, conn.slot);
        Ok(())
    }

    /// Looks at the pidfds; what processes that have exited held is taken back and their ends are closed. Their
    /// indices are free again. Never blocks.
    pub fn reap(&mut self) -> Vec<ProcessIndex> {
        std::iter::from_fn(|| self.reap_one()).collect()
    }

    /// The same for the first of them that has not been buried.
    pub fn reap_one(&mut self) -> Option<ProcessIndex> {
        let dead = ProcessIndex::all().find(|process| self.has_exited(*process))?;
        self.bury(dead);
        Some(dead)
    }

    /// Whether a process is seen to have exited, and has not been buried: its pid may be another's by now. Never blocks.
    #[must_use]
    pub fn has_exited(&self, process: ProcessIndex) -> bool {
        self.process(process)
            .and_then(|process| process.pidfd.as_ref())
            .is_some_and(|pidfd| region::has_exited(pidfd.as_fd()))
    }

    /// A process is known to have exited: the same, without a pidfd.
    pub fn bury(&mut self, process: ProcessIndex) {
        self.region.bell(process).dead.store(1, Ordering::SeqCst);
        // Its operations first: a write that it left pending is cancelled (NP-CANCEL-08), not left behind as by a
        // close.
        self.sweep(process, None);
        let mut next = 0;
        while let Some(slot) = self.slots.get(next as usize) {
            let conn = ConnId {
                slot: next,
                generation: slot.generation,
            };
            let holds = slot.holders.map(|of| of & bit(process) != 0);
            for (end, holds) in [End::Client, End::Server].into_iter().zip(holds) {
                if holds && let Err(error) = self.release(conn, end, process) {
                    // It owns nothing, which a compiler does not know of an error of the system's.
                    std::mem::forget(error);
                }
            }
            next += 1;
        }
        if let Some(place) = self.processes.get_mut(usize::from(process.get())) {
            *place = None;
        }
    }

    /// Takes back what a dead process, or one dead thread of it ([`crate::thread_serial`]), held: roles, records. Who
    /// waits for that is woken, as is who waits for something that was committed and not rung.
    pub fn sweep(&mut self, process: ProcessIndex, thread: Option<u32>) {
        for (index, slot) in self.slots.iter().enumerate() {
            if !slot.is_allocated() {
                continue;
            }
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let has_end = slot.holders.iter().any(|of| of & bit(process) != 0);
            sweep_slot(&self.region, index, process, thread, has_end);
        }
        // It may have disarmed a bell on a slot that it has no end of any more, and died before it woke anybody.
        for other in ProcessIndex::all() {
            if self.process(other).is_some() {
                Bell::new(self.region.bell(other)).wake();
            }
        }
    }

    /// Connections with at least one open end.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_open()).count()
    }

    fn book(&mut self, conn: ConnId) -> Result<&mut Slot, BooksError> {
        self.slots
            .get_mut(conn.slot as usize)
            .filter(|slot| slot.generation == conn.generation && slot.is_open())
            .ok_or(BooksError::NoSuchConnection)
    }

    /// Slots that nobody holds anything in any more can be handed out again.
    fn unpark(&mut self) {
        let mut parked = std::mem::take(&mut self.parked);
        parked.retain(|&slot| {
            // Both its areas come back; without memory to note them the slot waits.
            if self.areas.returned.try_reserve(2).is_err() {
                return true;
            }
            let header = self.region.slot(slot);
            let tables = self.region.tables(slot);
            let held = header
                .queues
                .iter()
                .zip(&tables.queues)
                .any(|(queue, records)| {
                    roles(queue).iter().any(|role| !role.is_nobodys())
                        || was_used(queue)
                            && records.iter().any(|record| {
                                matches!(
                                    record.phase(),
                                    Phase::Pending | Phase::Stream | Phase::Done | Phase::Withdrawn
                                )
                            })
                });
            if held {
                return true;
            }
            // A hole, so that no memory is held, unless nothing was ever written: what the words say is the pair's to
            // say, since the memory is the pair's, and stale bytes pass for nothing under the next secrets.
            let areas = self.slots.get(slot as usize).map(Slot::areas);
            for ((offset, len), queue) in areas.into_iter().flatten().zip(&header.queues) {
                let mut tails = queue.back.0.tail.iter();
                // A writer that died in its first frame has not said so there.
                if tails.any(|word| word.load(Ordering::Relaxed) != 0)
                    || queue.producer(KEEP_NEVER).is_dirty()
                {
                    region::punch(self.fd.as_fd(), offset, len);
                }
                put(&mut self.areas.returned, (offset, len));
            }
            for (queue, records) in header.queues.iter().zip(&tables.queues) {
                if was_used(queue) {
                    records.iter().for_each(Record::end_life);
                }
            }
            put(&mut self.free, slot);
            false
        });
        self.parked = parked;
    }
}

impl Areas {
    /// An area of that length. There is room to note one more that comes back, whatever else is taken meanwhile.
    fn take(&mut self, len: u64) -> Result<u64, BooksError> {
        if let Some(at) = self.returned.iter().position(|(_, other)| *other == len) {
            let (offset, _) = self.remove(at).ok_or(BooksError::NoFreeArea)?;
            return Ok(offset);
        }
        let offset = self.next.next_multiple_of(LEAST_AREA);
        if offset.checked_add(len).is_some_and(|end| end <= self.end) {
            room_for(&mut self.returned, 1)?;
            self.next = offset + len;
            return Ok(offset);
        }
        // Split a larger one that came back: the rest goes back to the list.
        let larger = self.returned.iter().enumerate();
        let larger = larger.filter(|(_, (_, other))| *other > len);
        let (at, (_, all)) = larger
            .min_by_key(|(_, (_, other))| *other)
            .ok_or(BooksError::NoFreeArea)?;
        let pieces = len.leading_zeros().saturating_sub(all.leading_zeros());
        room_for(&mut self.returned, pieces as usize + 1)?;
        let (offset, mut rest) = self.remove(at).ok_or(BooksError::NoFreeArea)?;
        while rest > len {
            rest /= 2;
            put(&mut self.returned, (offset + rest, rest));
        }
        Ok(offset)
    }

    fn remove(&mut self, at: usize) -> Option<(u64, u64)> {
        let last = self.returned.pop()?;
        match self.returned.get_mut(at) {
            Some(place) => Some(std::mem::replace(place, last)),
            None => Some(last),
        }
    }
}

/// So many, for which there is to be memory.
fn list<T: Copy>(count: usize, of: impl Iterator<Item = T>) -> Result<Vec<T>, BooksError> {
    let mut list = Vec::new();
    room_for(&mut list, count)?;
    of.for_each(|one| put(&mut list, one));
    Ok(list)
}

fn room_for<T>(list: &mut Vec<T>, more: usize) -> Result<(), BooksError> {
    let no_memory = |_| BooksError::NoMemory(io::ErrorKind::OutOfMemory.into());
    list.try_reserve(more).map_err(no_memory)
}

/// Into a list that has room for it.
fn put<T: Copy>(list: &mut Vec<T>, one: T) {
    let is_there = try_push(list, one);
    debug_assert!(is_there.is_ok());
}

/// Closes an end on behalf of a process that does not do it itself.
pub(crate) fn close_end(region: &Region, slot: u32, end: End) {
    let header = region.slot(slot);
    let tables = region.tables(slot);
    header.closed.fetch_or(1 << end.index(), Ordering::SeqCst);
    header.holders[end.index()].store(0, Ordering::SeqCst);
    let mut wakes = Wakes::certain();
    for (reader, bit) in [(end, READER_CLOSED), (end.other(), WRITER_CLOSED)] {
        let queue = &header.queues[reader.index()];
        if !Attention::load(&queue.common.0.attention).has(bit) {
            queue::close(queue, &tables.queues[reader.index()], bit, &mut wakes);
        }
    }
    deliver(region, slot, &mut wakes);
}

/// Wakes sleepers of a slot, and rings bells for it: those, too, that somebody has disarmed and died before he woke anybody.
fn deliver(region: &Region, slot: u32, wakes: &mut Wakes<'_>) {
    wakes.deliver(|process| {
        let bell = Bell::new(region.bell(process));
        let _ = bell.mark(slot);
        bell.wake();
    });
}

/// Takes back what a dead process held in one connection; `ring_anyway`: it may have died between a change and the wake
/// that goes with it.
pub(crate) fn sweep_slot(
    region: &Region,
    slot: u32,
    process: ProcessIndex,
    thread: Option<u32>,
    ring_anyway: bool,
) {
    let header = region.slot(slot);
    let tables = region.tables(slot);
    let mut touched = ring_anyway;
    for (queue, records) in header.queues.iter().zip(&tables.queues) {
        touched |= sweep_queue(queue, records, process, thread);
    }
    if touched {
        for role in header.queues.iter().flat_map(roles) {
            // It may have been given back, and its sleepers not been woken.
            futex::wake(role.word);
        }
        ring_slot(region, slot);
    }
}

/// Everybody who waits on a connection looks again.
fn ring_slot(region: &Region, slot: u32) {
    let mut wakes = Wakes::certain();
    let (header, tables) = (region.slot(slot), region.tables(slot));
    for (queue, records) in header.queues.iter().zip(&tables.queues) {
        ring(queue, records, &mut wakes);
    }
    deliver(region, slot, &mut wakes);
}

/// A queue for a new connection.
fn reset(queue: &QueueHeader, generation: u32) {
    let zero = |words: &[crate::sync::AtomicU64]| {
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
    };
    let zero_short = |words: &[crate::sync::AtomicU32]| {
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
    };
    let (back, front) = (&queue.back.0, &queue.front.0);
    let (notes, taken, table) = (&queue.notes.0, &queue.taken.0, &queue.table.0);
    zero(&back.tail);
    zero(&back.bytes);
    zero_short(&back.messages);
    zero(&front.pos);
    zero(&front.bytes);
    zero_short(&front.messages);
    zero_short(&front.left);
    zero_short(&front.meta);
    for word in [
        &notes.taken,
        &notes.head,
        &notes.high_water,
        &notes.checked,
        &notes.straight,
        &notes.padded,
        &taken.bytes,
        &taken.head,
        &table.cancelled,
    ] {
        word.store(0, Ordering::Relaxed);
    }
    // No restart yet: a position that no head has.
    notes.restart.store(u64::MAX, Ordering::Relaxed);
    for keep in [&back.keep, &table.keep] {
        for word in [&keep.inside, &keep.last, &keep.turns, &keep.keeper] {
            word.store(0, Ordering::Relaxed);
        }
    }
    for word in [
        &back.sel,
        &front.sel,
        &notes.small_since,
        &notes.lap,
        &table.cancelled_messages,
        &table.order,
        &queue.common.0.producer_cpu,
        &queue.common.0.consumer_cpu,
        &back.role,
        &front.role,
    ] {
        word.store(0, Ordering::Relaxed);
    }
    queue
        .common
        .0
        .attention
        .store(Attention::calm(generation), Ordering::SeqCst);
}

/// Roles and records of a dead owner; `true` if there were any.
fn sweep_queue(
    queue: &QueueHeader,
    records: &[Record],
    process: ProcessIndex,
    thread: Option<u32>,
) -> bool {
    let mut touched = false;
    for (index, record) in records.iter().enumerate() {
        if record.phase() == Phase::Free
            || !Owner::names(record.owner.load(Ordering::Relaxed), process, thread)
        {
            continue;
        }
        touched = true;
        for (from, to) in [
            (Phase::Pending, Phase::Abandoned),
            (Phase::Stream, Phase::Abandoned),
            (Phase::Done, Phase::Copied),
            (Phase::Withdrawn, Phase::Copied),
        ] {
            let _ = record.change(from, to, Outcome::Whole);
        }
        // It may have died before the record was known to anybody: now it is, to be reaped.
        queue
            .common
            .0
            .attention
            .fetch_or(1 << index, Ordering::SeqCst);
    }
    for role in roles(queue) {
        if role.sweep(process, thread) {
            touched = true;
            futex::wake(role.word);
        }
    }
    touched
}

/// Whether a record was ever taken in it: if not, its table is still zero, and looking at it would only take memory. A
/// process that lies about it leaves its own records to its own next connection.
fn was_used(queue: &QueueHeader) -> bool {
    queue.table.0.order.load(Ordering::Relaxed) != 0
}

/// Both roles of a queue, for the broker, who keeps none.
fn roles(queue: &QueueHeader) -> [Role<'_>; 2] {
    [queue.producer(KEEP_NEVER), queue.consumer(KEEP_NEVER)]
}

/// Something may have been committed, freed or left undone: everybody who waits looks again.
fn ring<'a>(queue: &'a QueueHeader, records: &'a [Record], wakes: &mut Wakes<'a>) {
    let _ = queue.consumer(KEEP_NEVER).leave(SETTLE);
    for record in records {
        if record.phase() != Phase::Free {
            // Whatever the word says: who died may have changed it and not come to the wake.
            record.kick();
            wakes.add_owner(record);
        }
    }
    let room = &queue.table.0.room;
    room.fetch_add(2, Ordering::SeqCst);
    if room.load(Ordering::Relaxed) & 1 != 0 {
        futex::wake(room);
    }
}

fn no_memory(error: io::Error) -> BooksError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::ENOMEM) => BooksError::NoMemory(error),
        _ => BooksError::Io(error),
    }
}

// Miri would take minutes.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn areas_are_handed_out_once_and_none_is_lost() {
        let mut seed = 5_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let start = 3 * LEAST_AREA;
        let mut areas = Areas {
            next: start,
            end: 64 << 20,
            returned: Vec::new(),
        };
        let mut used: Vec<(u64, u64)> = Vec::new();
        let mut refused = 0;
        for _ in 0..4000 {
            if random(5) < 3 {
                let len = LEAST_AREA << random(6);
                match areas.take(len) {
                    Ok(offset) => {
                        used.push((offset, len));
                        let room = areas.returned.capacity() - areas.returned.len();
                        assert!(room > 0, "for one that comes back");
                    }
                    Err(error) => {
                        assert!(matches!(error, BooksError::NoFreeArea));
                        refused += 1;
                    }
                }
            } else if !used.is_empty() {
                let area = used.swap_remove(random(used.len()));
                room_for(&mut areas.returned, 1).expect("memory");
                put(&mut areas.returned, area);
            }
            // All that was ever handed out is in use or has come back, without a gap.
            let mut all: Vec<_> = used.iter().chain(&areas.returned).copied().collect();
            all.sort_unstable();
            let mut at = start;
            for (offset, len) in all {
                assert_eq!(offset, at);
                at += len;
            }
            assert!(at == areas.next && at <= areas.end);
        }
        assert!(refused > 10, "it was full now and then");
    }
}
