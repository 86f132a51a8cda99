//! Namespaces, brokers, events, completion ports, and waiting for them; which version this is.

use std::{
    ffi::{c_char, c_int, c_void},
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd},
    ptr,
    sync::Arc,
    time::Duration,
};

use npfs::{
    Broker, BrokerOptions, Deadline, Error, Namespace, Notice, NtStatus,
    broker::StartError,
    nt::{Event, NtResult, Port, PortPacket, Waitable},
};

use crate::{
    guard::{guard, guard_or},
    handle::{self, File, Names, Object},
    memory::{self, Iosb, Out},
    numbers::{NPFS_BROKER_EVERYONE, NPFS_INFINITE, NPFS_MAXIMUM_WAIT_OBJECTS},
    types::{
        npfs_broker_options, npfs_handle, npfs_io_status_block, npfs_port_packet, npfs_status,
    },
};

// ---- version -------------------------------------------------------------------------------------------------------

/// The version of the library: major in bits 16 to 31, minor in bits 8 to 15, patch below. A program that was built with
/// `NPFS_VERSION` runs with any library of the same major version (while that is 0, of the same minor version, too) that is not
/// older.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_version() -> u32 {
    crate::VERSION
}

/// The layout of shared memory: processes whose two numbers differ cannot talk to each other.
///
/// - `version`: receives its version.
/// - `layout_hash`: receives a hash of sizes and offsets.
///
/// # Safety
/// Both can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_abi(version: *mut u32, layout_hash: *mut u64) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (version, layout_hash) = unsafe { (Out::new(version)?, Out::new(layout_hash)?) };
        version.put(npfs_ringbuf::ABI_VERSION);
        layout_hash.put(npfs_ringbuf::layout_hash());
        Ok(NtStatus::SUCCESS)
    })
}

/// Writes the name of a status ("STATUS_PIPE_BROKEN"), or its number if it has none, as snprintf(3) does: as much as there is
/// room for, with a NUL.
///
/// - `text`, `size`: receive it; NULL and 0: only its length is wanted.
///
/// Returns the length of the whole text without the NUL.
///
/// # Safety
/// `text` can be written, `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_status_name(
    status: npfs_status,
    text: *mut c_char,
    size: u32,
) -> u32 {
    guard_or(0, || {
        let name = NtStatus(status).to_string();
        // SAFETY: as this function asks for.
        let out = unsafe { memory::output(text.cast(), size) };
        if let Ok([out @ .., end]) = out {
            let count = name.len().min(out.len());
            out[..count].copy_from_slice(&name.as_bytes()[..count]);
            *end = 0;
            if let Some(end) = out.get_mut(count) {
                *end = 0;
            }
        }
        u32::try_from(name.len()).unwrap_or(u32::MAX)
    })
}

/// The status in a block that another thread may be writing; what was written before it (`information`, the buffer) can be
/// read then. Anything but the value that the caller has put there means that the call is done. NULL answers
/// ACCESS_VIOLATION.
///
/// # Safety
/// `iosb` can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_io_status(iosb: *const npfs_io_status_block) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for; the block is only loaded from.
        let iosb = unsafe { Iosb::new(iosb.cast_mut()) }?;
        Ok(NtStatus(iosb.status()))
    })
}

// ---- namespaces and brokers ----------------------------------------------------------------------------------------

/// Opens a namespace: the names of pipes as one broker keeps them. A process needs one, whatever it opens in it. Any thread.
///
/// - `socket`: where the broker listens, a path; NULL: this user's own, which is started if it is not there (the program `npfs`,
///   from `NPFS_BROKER`, beside this program, or from `PATH`).
/// - `names`: receives the handle; close it with `npfs_close`.
///
/// A child of fork(2) opens its own; what its parent has opened is not the child's.
///
/// Errors: NO_SUCH_DEVICE (no broker, and none could be started), REVISION_MISMATCH (one of another version).
///
/// # Safety
/// `socket`, unless NULL, can be read up to its NUL; `names` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_namespace_open(
    socket: *const c_char,
    names: *mut npfs_handle,
) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let out = unsafe { Out::new(names) }?;
        let namespace = if socket.is_null() {
            Namespace::open()
        } else {
            // SAFETY: as this function asks for.
            Namespace::connect(unsafe { memory::text(socket) }?)
        };
        give_names(&out, namespace)
    })
}

fn give_names(out: &Out<npfs_handle>, namespace: npfs::Result<Namespace>) -> NtResult<NtStatus> {
    let namespace = namespace.map_err(|error: Error| error.status())?;
    out.put(handle::insert(Object::Names(Arc::new(Names::new(
        namespace,
    ))))?);
    Ok(NtStatus::SUCCESS)
}

/// Starts a broker in this process, with threads of its own; they end when its last handle is closed. Any thread.
///
/// - `options`: NULL: one that `npfs_broker_connect` alone reaches.
/// - `broker`: receives the handle; close it with `npfs_close`.
///
/// Errors: OBJECT_NAME_COLLISION (somebody serves that socket), ACCESS_DENIED (its folder is not safe, or the system
/// refuses), INSUFFICIENT_RESOURCES (no descriptors, memory or threads), INVALID_PARAMETER.
///
/// # Safety
/// `options`, unless NULL, and what it points to can be read; `broker` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_broker_start(
    options: *const npfs_broker_options,
    broker: *mut npfs_handle,
) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (out, options) = unsafe { (Out::new(broker)?, memory::maybe(options)?) };
        let mut start = BrokerOptions::new();
        if let Some(options) = options {
            let known = options.flags & !NPFS_BROKER_EVERYONE == 0;
            let whole = options.length as usize == size_of::<npfs_broker_options>();
            if !known || !whole || options.workers > MOST_WORKERS {
                return Err(NtStatus::INVALID_PARAMETER);
            }
            if !options.socket.is_null() {
                // SAFETY: as this function asks for.
                start.socket(unsafe { memory::text(options.socket) }?);
            }
            let after = Duration::from_millis(options.idle_exit.into());
            start
                .everyone(options.flags & NPFS_BROKER_EVERYONE != 0)
                .workers(options.workers as usize)
                .idle_exit((!after.is_zero()).then_some(after));
        }
        let started = start.start().map_err(|error| match error {
            StartError::AlreadyServed { .. } => OBJECT_NAME_COLLISION,
            StartError::Unsafe(..) => NtStatus::ACCESS_DENIED,
            StartError::Io(_, error) => match error.kind() {
                std::io::ErrorKind::OutOfMemory | std::io::ErrorKind::WouldBlock => {
                    NtStatus::INSUFFICIENT_RESOURCES
                }
                _ => NtStatus::ACCESS_DENIED,
            },
            _ => NtStatus::INSUFFICIENT_RESOURCES,
        })?;
        out.put(handle::insert(Object::Broker(Arc::new(started)))?);
        Ok(NtStatus::SUCCESS)
    })
}

/// More would be a number by mistake.
const MOST_WORKERS: u32 = 64;
/// STATUS_OBJECT_NAME_COLLISION.
const OBJECT_NAME_COLLISION: NtStatus = NtStatus(0xC000_0035);

/// Opens a namespace of a broker of this process, without a socket file. Any thread.
///
/// - `broker`: of `npfs_broker_start`.
/// - `names`: receives the handle; close it with `npfs_close`.
///
/// Errors: INVALID_HANDLE, INSUFFICIENT_RESOURCES, NO_SUCH_DEVICE (it has ended).
///
/// # Safety
/// `names` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_broker_connect(
    broker: npfs_handle,
    names: *mut npfs_handle,
) -> npfs_status {
    guard(|| {
        let broker: Arc<Broker> = handle::get(broker)?;
        // SAFETY: as this function asks for.
        let out = unsafe { Out::new(names) }?;
        give_names(&out, broker.connect())
    })
}

// ---- events --------------------------------------------------------------------------------------------------------

/// Creates an event: set until it is reset (a notification event), by hand or by a call that begins with it. Any thread.
///
/// - `event`: receives the handle; close it with `npfs_close`. Calls under way keep it.
///
/// # Safety
/// `event` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_event_create(event: *mut npfs_handle) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let out = unsafe { Out::new(event) }?;
        out.put(handle::insert(Object::Event(Event::new()))?);
        Ok(NtStatus::SUCCESS)
    })
}

/// Sets an event (NtSetEvent); whoever waits for it goes on. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_event_set(event: npfs_handle) -> npfs_status {
    guard(|| {
        handle::get::<Event>(event)?.set();
        Ok(NtStatus::SUCCESS)
    })
}

/// Resets an event (NtResetEvent). Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_event_reset(event: npfs_handle) -> npfs_status {
    guard(|| {
        handle::get::<Event>(event)?.reset();
        Ok(NtStatus::SUCCESS)
    })
}

/// Whether an event is set. Any thread; waits for nothing.
///
/// - `is_set`: receives 1 or 0.
///
/// # Safety
/// `is_set` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_event_is_set(event: npfs_handle, is_set: *mut u8) -> npfs_status {
    guard(|| {
        let event: Event = handle::get(event)?;
        // SAFETY: as this function asks for.
        unsafe { Out::new(is_set) }?.put(event.is_set().into());
        Ok(NtStatus::SUCCESS)
    })
}

// ---- completion ports ----------------------------------------------------------------------------------------------

/// Creates a completion port: a queue of the completions of any number of files. Any thread.
///
/// - `concurrency`: how many of the threads that wait there are at work at a time: `npfs_port_wait` gives packets to no more than
///   that, until one of them waits again or ends. 0: any number.
/// - `port`: receives the handle; close it with `npfs_close`. Files that are associated with it keep it.
///
/// # Safety
/// `port` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_port_create(concurrency: u32, port: *mut npfs_handle) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let out = unsafe { Out::new(port) }?;
        let limit = NonZeroUsize::new(concurrency as usize);
        let port = limit.map_or_else(Port::new, Port::with_concurrency);
        out.put(handle::insert(Object::Port(port))?);
        Ok(NtStatus::SUCCESS)
    })
}

/// Completions of a file's calls go to a port from now on, if the call has a context (FileCompletionInformation). Any thread.
///
/// - `port`: the port.
/// - `file`: an overlapped file that has none yet.
/// - `key`: what its packets say of it.
///
/// Errors: INVALID_PARAMETER (it has one, or is synchronous), INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_port_associate(
    port: npfs_handle,
    file: npfs_handle,
    key: usize,
) -> npfs_status {
    guard(|| {
        let port: Port = handle::get(port)?;
        let file: Arc<File> = handle::get(file)?;
        file.nt().set_completion_port(file.handle, &port, key)?;
        Ok(NtStatus::SUCCESS)
    })
}

/// Takes packets from a port, the oldest first; waits until there is one (NtRemoveIoCompletionEx). Any thread; each packet goes
/// to one.
///
/// - `packets`, `most`: receive as many as there are, at most so many; not 0.
/// - `count`: receives how many.
/// - `timeout`: in milliseconds; 0: only what is there; `NPFS_INFINITE`.
///
/// Errors: TIMEOUT (a success by its number: nothing was written), INVALID_HANDLE, INVALID_PARAMETER, POSSIBLE_DEADLOCK (in a
/// completion routine).
///
/// # Safety
/// `packets` can be written, `most` of them, and nobody else uses them meanwhile; `count` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_port_wait(
    port: npfs_handle,
    packets: *mut npfs_port_packet,
    most: u32,
    count: *mut u32,
    timeout: u32,
) -> npfs_status {
    guard(|| {
        let port: Port = handle::get(port)?;
        // SAFETY: as this function asks for.
        let (out, count) = unsafe { (memory::array_mut(packets, most)?, Out::new(count)?) };
        if out.is_empty() {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let mut taken = Vec::new();
        let most = out.len().min(MOST_AT_ONCE);
        let number = port.wait(&mut taken, most, until(timeout))?;
        for (place, packet) in out.iter_mut().zip(taken) {
            *place = told(packet);
        }
        count.put(u32::try_from(number).unwrap_or(0));
        Ok(NtStatus::SUCCESS)
    })
}

/// Nobody has a use for more.
const MOST_AT_ONCE: usize = 4096;

/// Puts a packet of the caller's own into a port (NtSetIoCompletion). Any thread.
///
/// - `key`, `context`, `status`, `information`: what the packet says.
///
/// Errors: INVALID_HANDLE.
///
/// # Safety
/// None of these is looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_port_post(
    port: npfs_handle,
    key: usize,
    context: *mut c_void,
    status: npfs_status,
    information: usize,
) -> npfs_status {
    guard(|| {
        let port: Port = handle::get(port)?;
        port.post(PortPacket {
            key,
            context: context.addr(),
            status: NtStatus(status),
            information,
        });
        Ok(NtStatus::SUCCESS)
    })
}

fn told(packet: PortPacket) -> npfs_port_packet {
    npfs_port_packet {
        key: packet.key,
        // It came as a pointer, and is one to its owner only.
        context: ptr::without_provenance_mut(packet.context),
        status: packet.status.0,
        information: packet.information,
    }
}

/// When a time in milliseconds is over that begins now.
pub(crate) fn until(timeout: u32) -> Deadline {
    match timeout {
        NPFS_INFINITE => Deadline::NEVER,
        milliseconds => Deadline::after(Duration::from_millis(milliseconds.into())),
    }
}

// ---- waiting -------------------------------------------------------------------------------------------------------

/// Waits until one of several objects is signalled (NtWaitForMultipleObjects, any): an event that is set, a file whose last call has
/// completed, a port with packets. Nothing is reset by it. Any thread; one that waits moves on whatever pends in the process.
///
/// - `handles`, `count`: 1 to `NPFS_MAXIMUM_WAIT_OBJECTS` events, files and ports.
/// - `timeout`: in milliseconds; 0: only looks; `NPFS_INFINITE`.
/// - `signalled`: receives the index of the first one that is; may be NULL.
///
/// Errors: TIMEOUT (a success by its number), INVALID_HANDLE, OBJECT_TYPE_MISMATCH, ACCESS_DENIED (a file without
/// `NPFS_SYNCHRONIZE`), INVALID_PARAMETER, POSSIBLE_DEADLOCK (in a completion routine).
///
/// # Safety
/// `handles` can be read, `count` of them; `signalled`, unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_wait(
    handles: *const npfs_handle,
    count: u32,
    timeout: u32,
    signalled: *mut u32,
) -> npfs_status {
    guard(|| {
        if !(1..=NPFS_MAXIMUM_WAIT_OBJECTS).contains(&count) {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        // SAFETY: as this function asks for.
        let (handles, out) = unsafe { (memory::array(handles, count)?, Out::maybe(signalled)?) };
        let waitable = |handle: &npfs_handle| match handle::get(*handle)? {
            Object::Event(event) => Ok(Waitable::Event(event)),
            Object::Port(port) => Ok(Waitable::Port(port)),
            Object::File(file) => Ok(Waitable::FileOf(file.nt().clone(), file.handle)),
            Object::Names(_) | Object::Broker(_) | Object::Thread(_) => {
                Err(NtStatus::OBJECT_TYPE_MISMATCH)
            }
        };
        let objects: Vec<Waitable> = handles.iter().map(waitable).collect::<NtResult<_>>()?;
        let index = npfs::nt::wait(&objects, until(timeout))?;
        if let Some(out) = out {
            out.put(u32::try_from(index).unwrap_or(0));
        }
        Ok(NtStatus::SUCCESS)
    })
}

// ---- the descriptor ------------------------------------------------------------------------------------------------

/// A descriptor for programs with an event loop of their own (epoll(7), poll(2)): readable once something has completed (a packet in a
/// port, an event that was set), until `npfs_notice_take`. One for the process; it exists from the first call of this on,
/// and is the library's: not to be closed or read from. Any thread.
///
/// - `descriptor`: receives it.
///
/// Errors: INSUFFICIENT_RESOURCES.
///
/// # Safety
/// `descriptor` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_notice_descriptor(descriptor: *mut c_int) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let out = unsafe { Out::new(descriptor) }?;
        let notice = Notice::of_this_process();
        let notice = notice.map_err(|_| NtStatus::INSUFFICIENT_RESOURCES)?;
        out.put(notice.as_fd().as_raw_fd());
        Ok(NtStatus::SUCCESS)
    })
}

/// The descriptor is not readable any more, until something completes. To be called when it is readable, and before the ports and
/// events are looked at: what completes meanwhile makes it readable again. Any thread.
///
/// Errors: INSUFFICIENT_RESOURCES.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_notice_take() -> npfs_status {
    guard(|| {
        let notice = Notice::of_this_process();
        notice.map_err(|_| NtStatus::INSUFFICIENT_RESOURCES)?.take();
        Ok(NtStatus::SUCCESS)
    })
}
