//! What Win32 makes of NT's calls, in this header's own words: names as UTF-8, and calls that wait.

use std::{
    ffi::{c_char, c_void},
    sync::Arc,
    time::Duration,
};

use npfs::{
    Deadline, Mask, Name, NtStatus,
    nt::{
        Attributes, Buffer, Control, Event, Handle, InfoClass, Io, Nt, NtResult, Options,
        StatusBlock, Waitable,
    },
};

use crate::{
    guard::{done, guard},
    handle::{self, File, Names},
    memory::{self, Out},
    numbers::{
        NPFS_DEFAULT_WAIT, NPFS_FILE_PIPE_MESSAGE_MODE, NPFS_FILE_SYNCHRONOUS_IO_NONALERT,
        NPFS_GENERIC_READ, NPFS_GENERIC_WRITE, NPFS_INFINITE, NPFS_SYNCHRONIZE,
    },
    objects::until,
    types::{npfs_handle, npfs_status},
};

/// A name as programs write it: `NAME`, `\\.\pipe\NAME` or a path of NT's.
///
/// # Safety
/// What is not NULL can be read up to its NUL.
unsafe fn name(text: *const c_char) -> NtResult<Name> {
    // SAFETY: the caller's promise is the same.
    let text = unsafe { memory::text(text) }?;
    Name::parse(text).map_err(|_| NtStatus::OBJECT_NAME_INVALID)
}

/// The path that leads to it.
fn path(name: &Name) -> Vec<u16> {
    let mut path = npfs::nt::units(r"\??\pipe\");
    path.extend(name.units());
    path
}

/// Waits for an instance: for so many milliseconds from now, the pipe's own time, or for ever.
fn wait_instance(names: &Names, name: &Name, timeout: Option<Duration>) -> NtResult<()> {
    // The name as it is, and not a text that would be parsed again.
    let text = format!(r"\\.\pipe\{name}");
    let waited = names.namespace.wait(&text, timeout);
    waited.map_err(|error| error.status())
}

/// Opens the client end of a pipe; waits for an instance while all are busy (CreateFile and WaitNamedPipe). Any thread.
///
/// - `names`: a namespace.
/// - `pipe`: its name, UTF-8: `NAME` or `\\.\pipe\NAME`.
/// - `desired_access`: rights; 0: reading, writing and synchronizing.
/// - `open_options`: as of `npfs_open_file`.
/// - `timeout`: how long in all, in milliseconds; `NPFS_INFINITE`; `NPFS_DEFAULT_WAIT`: the pipe's own time for each wait.
/// - `file`: receives the handle; close it with `npfs_close`.
///
/// Errors: OBJECT_NAME_NOT_FOUND (there is no such pipe: this is not waited for), IO_TIMEOUT, ACCESS_DENIED,
/// OBJECT_NAME_INVALID, INVALID_PARAMETER, NO_SUCH_DEVICE.
///
/// # Safety
/// `pipe` can be read up to its NUL; `file` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_connect(
    names: npfs_handle,
    pipe: *const c_char,
    desired_access: u32,
    open_options: u32,
    timeout: u32,
    file: *mut npfs_handle,
) -> npfs_status {
    guard(|| {
        let names: Arc<Names> = handle::get(names)?;
        // SAFETY: as this function asks for.
        let (out, name) = unsafe { (Out::new(file)?, name(pipe)?) };
        let handle = connect(&names, &name, desired_access, open_options, timeout)?;
        let options = Options::from_bits_retain(open_options);
        out.put(File::new(names, handle, options).insert()?);
        Ok(NtStatus::SUCCESS)
    })
}

fn connect(
    names: &Names,
    name: &Name,
    access: u32,
    options: u32,
    timeout: u32,
) -> NtResult<Handle> {
    let access = match access {
        0 => NPFS_GENERIC_READ | NPFS_GENERIC_WRITE | NPFS_SYNCHRONIZE,
        access => access,
    };
    let path = path(name);
    let deadline = until(timeout);
    loop {
        let opened = names.nt.open_file(
            &Attributes::named(&path),
            Mask::from_bits_retain(access),
            1,
            options,
        );
        match opened {
            Err(NtStatus::PIPE_NOT_AVAILABLE) => {}
            other => return other.map(|(handle, _)| handle),
        }
        let left = match timeout {
            NPFS_DEFAULT_WAIT => None,
            NPFS_INFINITE => Some(Duration::MAX),
            _ => deadline.remaining(),
        };
        // Whoever listens may be taken by somebody else before this opens it: then it waits again.
        wait_instance(names, name, left)?;
    }
}

/// Waits until an instance of a pipe listens (WaitNamedPipe). It is not reserved: another client may be quicker. Any thread.
///
/// - `names`: a namespace.
/// - `pipe`: its name, UTF-8: `NAME` or `\\.\pipe\NAME`.
/// - `timeout`: in milliseconds; `NPFS_DEFAULT_WAIT`: the pipe's own; `NPFS_INFINITE`.
///
/// Errors: OBJECT_NAME_NOT_FOUND, IO_TIMEOUT, OBJECT_NAME_INVALID, NO_SUCH_DEVICE.
///
/// # Safety
/// `pipe` can be read up to its NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_wait_pipe(
    names: npfs_handle,
    pipe: *const c_char,
    timeout: u32,
) -> npfs_status {
    guard(|| {
        let names: Arc<Names> = handle::get(names)?;
        // SAFETY: as this function asks for.
        let name = unsafe { name(pipe) }?;
        let timeout = match timeout {
            NPFS_DEFAULT_WAIT => None,
            NPFS_INFINITE => Some(Duration::MAX),
            milliseconds => Some(Duration::from_millis(milliseconds.into())),
        };
        done(wait_instance(&names, &name, timeout))
    })
}

/// Makes a call and waits for its end, on overlapped files, too: status and information of what succeeded.
fn waited(
    nt: &Nt,
    handle: Handle,
    call: impl FnOnce(&Io) -> NtStatus,
) -> NtResult<(NtStatus, usize)> {
    let event = Event::new();
    let io = Io::with_event(event.clone());
    let status = match call(&io) {
        NtStatus::PENDING => {
            if let Err(status) = npfs::nt::wait(&[Waitable::Event(event)], Deadline::NEVER) {
                // In a completion routine. The call may go on for a moment, in memory that is not the caller's any more.
                let _ = nt.cancel_io_file_ex(handle, Some(&io.status));
                return Err(status);
            }
            io.status.status()
        }
        status => status,
    };
    if status.is_success() || status == NtStatus::BUFFER_OVERFLOW {
        Ok((status, io.status.information()))
    } else {
        Err(status)
    }
}

fn count(information: usize) -> u32 {
    u32::try_from(information).unwrap_or(u32::MAX)
}

/// Waits for a client at a server end (ConnectNamedPipe). Any thread; another one ends it with `npfs_cancel_io_file_ex`.
///
/// Returns SUCCESS, also if a client was there already.
///
/// Errors: PIPE_CLOSING (a client came and went: disconnect first), PIPE_LISTENING (no client, and the end never waits),
/// ILLEGAL_FUNCTION (a client end), CANCELLED, PIPE_BROKEN, INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_listen(server: npfs_handle) -> npfs_status {
    guard(|| match control(server, Control::LISTEN) {
        Err(NtStatus::PIPE_CONNECTED) => Ok(NtStatus::SUCCESS),
        other => other,
    })
}

/// Cuts the client off, with whatever it has not read (DisconnectNamedPipe). The end can listen again. Any thread.
///
/// Errors: PIPE_DISCONNECTED, ILLEGAL_FUNCTION (a client end), INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_disconnect(server: npfs_handle) -> npfs_status {
    guard(|| control(server, Control::DISCONNECT))
}

fn control(file: npfs_handle, code: Control) -> NtResult<NtStatus> {
    let file: Arc<File> = handle::get(file)?;
    let call = |io: &Io| {
        file.nt()
            .fs_control_file(file.handle, io, code, &[], &Buffer::default())
    };
    waited(file.nt(), file.handle, call).map(|(status, _)| status)
}

/// Reads, and waits for it on overlapped files, too (ReadFile). Any thread; another one ends it with `npfs_cancel_io_file_ex`.
///
/// - `file`: a handle with `NPFS_FILE_READ_DATA`.
/// - `buffer`, `length`: receive the data.
/// - `transferred`: receives how many bytes.
///
/// Returns SUCCESS, or BUFFER_OVERFLOW: the message goes on.
///
/// Errors: as of `npfs_read_file`.
///
/// # Safety
/// `buffer` can be written, `length` bytes, and nobody else uses it meanwhile; `transferred` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_read(
    file: npfs_handle,
    buffer: *mut c_void,
    length: u32,
    transferred: *mut u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for; the loan ends when this returns.
        let (loan, out) = unsafe { (memory::loan(buffer, length)?, Out::new(transferred)?) };
        let (status, information) = waited(file.nt(), file.handle, |io| {
            file.nt().read_file(file.handle, io, loan.buffer())
        })?;
        out.put(count(information));
        Ok(status)
    })
}

/// Writes, and waits for it on overlapped files, too (WriteFile). Any thread; another one ends it with
/// `npfs_cancel_io_file_ex`.
///
/// - `file`: a handle with `NPFS_FILE_WRITE_DATA`.
/// - `buffer`, `length`: the data.
/// - `transferred`: receives how many bytes; fewer than `length` only from an end that never waits. May be NULL.
///
/// Errors: as of `npfs_write_file`.
///
/// # Safety
/// `buffer` can be read, `length` bytes; `transferred`, unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_write(
    file: npfs_handle,
    buffer: *const c_void,
    length: u32,
    transferred: *mut u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (data, out) = unsafe { (memory::input(buffer, length)?, Out::maybe(transferred)?) };
        let (status, information) = waited(file.nt(), file.handle, |io| {
            file.nt().write_file(file.handle, io, data)
        })?;
        if let Some(out) = out {
            out.put(count(information));
        }
        Ok(status)
    })
}

/// Writes a message and reads the reply (TransactNamedPipe); waits for it. The end's read mode must be messages, and it must have
/// nothing to read. Any thread; another one ends it with `npfs_cancel_io_file_ex`.
///
/// - `file`: a handle with `NPFS_FILE_READ_DATA` and `NPFS_FILE_WRITE_DATA`.
/// - `request`, `request_length`: the message.
/// - `reply`, `reply_length`: receive the reply.
/// - `transferred`: receives how many bytes.
///
/// Returns SUCCESS, or BUFFER_OVERFLOW: the reply goes on, the rest can be read.
///
/// Errors: INVALID_PIPE_STATE (not connected, or not in message mode), PIPE_BUSY (there is something to read), PIPE_BROKEN,
/// PIPE_DISCONNECTED, CANCELLED, ACCESS_DENIED, INVALID_HANDLE.
///
/// # Safety
/// `request` can be read, `request_length` bytes; `reply` can be written, `reply_length` bytes, and nobody else uses it meanwhile;
/// `transferred` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_transact(
    file: npfs_handle,
    request: *const c_void,
    request_length: u32,
    reply: *mut c_void,
    reply_length: u32,
    transferred: *mut u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for; the loan ends when this returns.
        let (request, reply, out) = unsafe {
            (
                memory::input(request, request_length)?,
                memory::loan(reply, reply_length)?,
                Out::new(transferred)?,
            )
        };
        let (status, information) = transact(file.nt(), file.handle, request, reply.buffer())?;
        out.put(count(information));
        Ok(status)
    })
}

fn transact(
    nt: &Nt,
    handle: Handle,
    request: &[u8],
    reply: &Buffer,
) -> NtResult<(NtStatus, usize)> {
    waited(nt, handle, |io| {
        nt.fs_control_file(handle, io, Control::TRANSCEIVE, request, reply)
    })
}

/// Opens a message pipe, writes a message, reads the reply and closes (CallNamedPipe). Any thread.
///
/// - `names`, `pipe`, `timeout`: as of `npfs_connect`; the timeout is for the opening.
/// - `request`, `request_length`, `reply`, `reply_length`, `transferred`: as of `npfs_transact`.
///
/// Returns SUCCESS, or BUFFER_OVERFLOW: the reply was longer, and the rest is lost.
///
/// Errors: as of both; INVALID_PARAMETER: a pipe of bytes.
///
/// # Safety
/// As of both.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "Win32's own")]
pub unsafe extern "C" fn npfs_call(
    names: npfs_handle,
    pipe: *const c_char,
    request: *const c_void,
    request_length: u32,
    reply: *mut c_void,
    reply_length: u32,
    transferred: *mut u32,
    timeout: u32,
) -> npfs_status {
    guard(|| {
        let names: Arc<Names> = handle::get(names)?;
        // SAFETY: as this function asks for; the loan ends when this returns.
        let (name, request, reply, out) = unsafe {
            (
                name(pipe)?,
                memory::input(request, request_length)?,
                memory::loan(reply, reply_length)?,
                Out::new(transferred)?,
            )
        };
        let options = NPFS_FILE_SYNCHRONOUS_IO_NONALERT;
        let handle = connect(&names, &name, 0, options, timeout)?;
        let called = set_modes(&names.nt, handle, NPFS_FILE_PIPE_MESSAGE_MODE, 0)
            .and_then(|()| transact(&names.nt, handle, request, reply.buffer()));
        let _ = names.nt.close(handle);
        let (status, information) = called?;
        out.put(count(information));
        Ok(status)
    })
}

/// Looks at what could be read, and takes nothing (PeekNamedPipe). Any thread; waits for nothing.
///
/// - `file`: a handle with `NPFS_FILE_READ_DATA`.
/// - `buffer`, `length`: receive data; of the first message only, where messages are read. NULL and 0: none.
/// - `copied`, `available`, `left`: receive how many bytes were copied, how many there are, and how many the first message has beyond
///   those that were copied; each may be NULL.
///
/// Returns SUCCESS, also if the buffer was too small.
///
/// Errors: PIPE_BROKEN, INVALID_PIPE_STATE, PIPE_DISCONNECTED, ACCESS_DENIED, INVALID_HANDLE.
///
/// # Safety
/// `buffer` can be written, `length` bytes, and nobody else uses it meanwhile; the others, unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_peek(
    file: npfs_handle,
    buffer: *mut c_void,
    length: u32,
    copied: *mut u32,
    available: *mut u32,
    left: *mut u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (room, copied, available, left) = unsafe {
            (
                memory::output(buffer, length)?,
                Out::maybe(copied)?,
                Out::maybe(available)?,
                Out::maybe(left)?,
            )
        };
        // NP-PEEK: a header before the data. More than all that can be there need not be asked for.
        let found = Buffer::new(HEADER + room.len().min(MOST_PEEKED));
        let call = |io: &Io| {
            file.nt()
                .fs_control_file(file.handle, io, Control::PEEK, &[], &found)
        };
        let (_, information) = waited(file.nt(), file.handle, call)?;
        let bytes = found.bytes();
        let data = bytes.get(HEADER..information).unwrap_or_default();
        room[..data.len()].copy_from_slice(data);
        let word = |at: usize| {
            let bytes: Option<&[u8; 4]> = bytes.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let taken = count(data.len());
        for (out, value) in [
            (copied, taken),
            (available, word(4)),
            (left, word(12).saturating_sub(taken)),
        ] {
            if let Some(out) = out {
                out.put(value);
            }
        }
        Ok(NtStatus::SUCCESS)
    })
}

/// Of `npfs_file_pipe_peek_buffer`.
const HEADER: usize = 16;
/// 16 MiB.
const MOST_PEEKED: usize = 1 << 24;

/// The modes of an end, and how many instances its pipe has (GetNamedPipeHandleState). Any thread.
///
/// - `file`: a handle with `NPFS_FILE_READ_ATTRIBUTES`.
/// - `read_mode`, `completion_mode`, `instances`: receive them; each may be NULL.
///
/// Errors: ACCESS_DENIED, PIPE_DISCONNECTED (a client), INVALID_PARAMETER (the volume, the root), INVALID_HANDLE.
///
/// # Safety
/// Each, unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_get_handle_state(
    file: npfs_handle,
    read_mode: *mut u32,
    completion_mode: *mut u32,
    instances: *mut u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (read_mode, completion_mode, instances) = unsafe {
            (
                Out::maybe(read_mode)?,
                Out::maybe(completion_mode)?,
                Out::maybe(instances)?,
            )
        };
        let [read, completion] = words(file.nt(), file.handle, InfoClass::PIPE)?;
        // Only who wants to know asks the broker.
        if let Some(out) = instances {
            let local: [u32; 10] = words(file.nt(), file.handle, InfoClass::PIPE_LOCAL)?;
            out.put(local[3]);
        }
        if let Some(out) = read_mode {
            out.put(read);
        }
        if let Some(out) = completion_mode {
            out.put(completion);
        }
        Ok(NtStatus::SUCCESS)
    })
}

/// Sets modes of an end (SetNamedPipeHandleState). Any thread.
///
/// - `file`: a handle with `NPFS_FILE_READ_ATTRIBUTES` and `NPFS_FILE_WRITE_ATTRIBUTES`.
/// - `read_mode`: `NPFS_FILE_PIPE_BYTE_STREAM_MODE` or `NPFS_FILE_PIPE_MESSAGE_MODE`; NULL: as it is.
/// - `completion_mode`: `NPFS_FILE_PIPE_QUEUE_OPERATION` or `NPFS_FILE_PIPE_COMPLETE_OPERATION`; NULL: as it is.
///
/// Errors: INVALID_PARAMETER (no such mode; messages from a pipe of bytes), PIPE_BUSY (calls are pending), ACCESS_DENIED,
/// PIPE_DISCONNECTED (a client), INVALID_HANDLE.
///
/// # Safety
/// Each, unless NULL, can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_set_handle_state(
    file: npfs_handle,
    read_mode: *const u32,
    completion_mode: *const u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (read_mode, completion_mode) =
            unsafe { (memory::maybe(read_mode)?, memory::maybe(completion_mode)?) };
        let [read, completion] = words(file.nt(), file.handle, InfoClass::PIPE)?;
        let read = read_mode.unwrap_or(read);
        let completion = completion_mode.unwrap_or(completion);
        done(set_modes(file.nt(), file.handle, read, completion))
    })
}

fn set_modes(nt: &Nt, handle: Handle, read: u32, completion: u32) -> NtResult<()> {
    let modes = [read.to_le_bytes(), completion.to_le_bytes()];
    let io = StatusBlock::default();
    match nt.set_information_file(handle, &io, InfoClass::PIPE, modes.as_flattened()) {
        NtStatus::SUCCESS => Ok(()),
        status => Err(status),
    }
}

/// A class that is a row of words.
fn words<const N: usize>(nt: &Nt, handle: Handle, class: InfoClass) -> NtResult<[u32; N]> {
    let mut words = [[0; 4]; N];
    let io = StatusBlock::default();
    match nt.query_information_file(handle, &io, class, words.as_flattened_mut()) {
        NtStatus::SUCCESS => Ok(words.map(u32::from_le_bytes)),
        status => Err(status),
    }
}
