//! NT's calls, one to one over [`npfs::nt`].

use std::{
    ffi::{c_char, c_void},
    sync::{Arc, atomic::Ordering},
};

use npfs::{
    EndToken, Mask, NtStatus,
    npfs::{Quality, SecurityParts},
    nt::{
        Attributes, Callback, Control, CreatePipe, Elsewhere, Handle, InfoClass, ListPart,
        NtResult, Options, Share, StatusBlock, VolumeClass, cancel_blocking,
    },
    security::SecurityDescriptor,
};

use crate::{
    guard::{done, guard},
    handle::{self, File, Names, Object},
    memory::{self, Iosb, Out, Routine},
    numbers::{
        NPFS_DUPLICATE_CLOSE_SOURCE, NPFS_DUPLICATE_SAME_ACCESS, NPFS_OBJ_APART, NPFS_SQOS_PRESENT,
        NPFS_TOKEN_SIZE,
    },
    pending::{self, Call},
    types::{
        npfs_handle, npfs_identity, npfs_io_callback, npfs_io_status_block, npfs_object_attributes,
        npfs_status,
    },
};

// ---- create, open, close -------------------------------------------------------------------------------------------

/// What an `npfs_object_attributes` says, as values of ours.
struct Named {
    name: Vec<u16>,
    root: Option<Handle>,
    security: Option<SecurityDescriptor>,
    quality: Option<Quality>,
    apart: bool,
}

impl Named {
    /// # Safety
    /// As of `npfs_open_file`'s attributes.
    unsafe fn read(names: &Names, at: *const npfs_object_attributes) -> NtResult<Named> {
        // SAFETY: the caller's promise is the same.
        let at = unsafe { memory::read(at) }?;
        if at.length as usize != size_of::<npfs_object_attributes>() {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        if at.attributes & !(NPFS_OBJ_APART | NT_ATTRIBUTES) != 0 || at.reserved != 0 {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let name = if !at.name.is_null() || at.name_length != 0 {
            // SAFETY: `name` has `name_length` bytes by the caller's promise; they are copied at once.
            unsafe { memory::units(at.name, at.name_length) }?.to_vec()
        } else if at.path.is_null() {
            Vec::new()
        } else {
            // SAFETY: `path` ends with a NUL by the caller's promise; it is copied at once.
            npfs::nt::units(unsafe { memory::text(at.path) }?)
        };
        let root = match at.root_directory {
            0 => None,
            root => {
                let file: Arc<File> = handle::get(root)?;
                if !file.names.is(names) {
                    return Err(NtStatus::INVALID_HANDLE);
                }
                Some(file.handle)
            }
        };
        let security = if at.security_descriptor.is_null() {
            None
        } else {
            // SAFETY: it has `security_length` bytes by the caller's promise; they are parsed at once.
            let bytes = unsafe { memory::input(at.security_descriptor, at.security_length) }?;
            Some(parse(bytes)?)
        };
        let said = at.quality & NPFS_SQOS_PRESENT != 0;
        Ok(Named {
            name,
            root,
            security,
            quality: said.then(|| Quality::from_bits_truncate(at.quality & 0xF)),
            apart: at.attributes & NPFS_OBJ_APART != 0,
        })
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes {
            root: self.root,
            name: &self.name,
            security: self.security.clone(),
            quality: self.quality,
            apart: self.apart,
        }
    }
}

/// OBJ_VALID_ATTRIBUTES.
const NT_ATTRIBUTES: u32 = 0x1FF2;

fn parse(descriptor: &[u8]) -> NtResult<SecurityDescriptor> {
    SecurityDescriptor::from_bytes(descriptor).map_err(|_| NtStatus::INVALID_SECURITY_DESCR)
}

/// Creates a pipe, or a further instance of one, and opens its server end (NtCreateNamedPipeFile). Any thread.
///
/// - `names`: a namespace.
/// - `file`: receives the handle; close it with `npfs_close`.
/// - `desired_access`: rights.
/// - `at`: its name (`\??\pipe\NAME`; an empty one relative to the root makes a pipe without a name), and its security descriptor.
/// - `iosb`: receives success and `NPFS_FILE_CREATED` or `NPFS_FILE_OPENED`; may be NULL.
/// - `share_access`: who may write: `NPFS_FILE_SHARE_READ` the server, `NPFS_FILE_SHARE_WRITE` the client, or both.
/// - `create_disposition`: `NPFS_FILE_OPEN`, `NPFS_FILE_CREATE` or `NPFS_FILE_OPEN_IF`.
/// - `create_options`: `NPFS_FILE_SYNCHRONOUS_IO_NONALERT` for calls that wait; it needs `NPFS_SYNCHRONIZE`. 0: overlapped ones.
/// - `named_pipe_type`, `read_mode`, `completion_mode`: `NPFS_FILE_PIPE_...`.
/// - `maximum_instances`: not 0; of the first instance, for the pipe's life.
/// - `inbound_quota`, `outbound_quota`: bytes, client to server and server to client.
/// - `default_timeout`: in units of 100 ns, negative; how long `npfs_wait_pipe` waits unless told. NULL: none, which a first
///   instance may not have.
///
/// Errors: INVALID_PARAMETER, OBJECT_NAME_INVALID, OBJECT_NAME_NOT_FOUND (there is none to open), ACCESS_DENIED,
/// INSTANCE_NOT_AVAILABLE, INSUFFICIENT_RESOURCES, NO_SUCH_DEVICE (no broker).
///
/// # Safety
/// `at` and what it points to can be read; `file`, and `iosb` unless NULL, can be written.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "NT's own")]
pub unsafe extern "C" fn npfs_create_named_pipe(
    names: npfs_handle,
    file: *mut npfs_handle,
    desired_access: u32,
    at: *const npfs_object_attributes,
    iosb: *mut npfs_io_status_block,
    share_access: u32,
    create_disposition: u32,
    create_options: u32,
    named_pipe_type: u32,
    read_mode: u32,
    completion_mode: u32,
    maximum_instances: u32,
    inbound_quota: u32,
    outbound_quota: u32,
    default_timeout: *const i64,
) -> npfs_status {
    guard(|| {
        let names: Arc<Names> = handle::get(names)?;
        // SAFETY: the pointers are what this function asks for.
        let (out, iosb, at, default_timeout) = unsafe {
            (
                Out::new(file)?,
                Iosb::maybe(iosb)?,
                Named::read(&names, at)?,
                memory::maybe(default_timeout)?,
            )
        };
        let options = Options::from_bits_retain(create_options);
        let create = CreatePipe {
            access: Mask::from_bits_retain(desired_access),
            share: Share::from_bits_retain(share_access),
            disposition: create_disposition,
            options,
            pipe_type: named_pipe_type,
            read_mode,
            completion_mode,
            max_instances: maximum_instances,
            in_quota: inbound_quota,
            out_quota: outbound_quota,
            default_timeout,
        };
        let (handle, how) = names.nt.create_named_pipe(&at.attributes(), &create)?;
        out.put(File::new(names.clone(), handle, options).insert()?);
        if let Some(iosb) = iosb {
            iosb.write(NtStatus::SUCCESS, how as usize);
        }
        Ok(NtStatus::SUCCESS)
    })
}

/// Opens the client end of a pipe, the volume (`\Device\NamedPipe`) or the root (`\Device\NamedPipe\`) (NtOpenFile). Any thread.
///
/// - `names`: a namespace.
/// - `file`: receives the handle; close it with `npfs_close`.
/// - `desired_access`: rights.
/// - `at`: the name, and the quality of service.
/// - `iosb`: receives success and `NPFS_FILE_OPENED`; may be NULL.
/// - `share_access`: means nothing here.
/// - `open_options`: `NPFS_FILE_SYNCHRONOUS_IO_NONALERT` for calls that wait; it needs `NPFS_SYNCHRONIZE`. 0: overlapped ones.
///
/// The client end reads bytes and waits until it is told otherwise (`npfs_set_handle_state`).
///
/// Errors: OBJECT_NAME_NOT_FOUND (no such pipe), PIPE_NOT_AVAILABLE (no instance listens: `npfs_wait_pipe`), ACCESS_DENIED,
/// OBJECT_NAME_INVALID, INVALID_PARAMETER, NO_SUCH_DEVICE (no broker).
///
/// # Safety
/// `at` and what it points to can be read; `file`, and `iosb` unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_open_file(
    names: npfs_handle,
    file: *mut npfs_handle,
    desired_access: u32,
    at: *const npfs_object_attributes,
    iosb: *mut npfs_io_status_block,
    _share_access: u32,
    open_options: u32,
) -> npfs_status {
    guard(|| {
        let names: Arc<Names> = handle::get(names)?;
        // SAFETY: the pointers are what this function asks for.
        let (out, iosb, at) = unsafe {
            (
                Out::new(file)?,
                Iosb::maybe(iosb)?,
                Named::read(&names, at)?,
            )
        };
        let access = Mask::from_bits_retain(desired_access);
        let (handle, how) = names
            .nt
            .open_file(&at.attributes(), access, 1, open_options)?;
        let options = Options::from_bits_retain(open_options);
        out.put(File::new(names.clone(), handle, options).insert()?);
        if let Some(iosb) = iosb {
            iosb.write(NtStatus::SUCCESS, how as usize);
        }
        Ok(NtStatus::SUCCESS)
    })
}

/// Closes a handle of any kind (NtClose). Any thread, also while other threads use the handle: their calls end, or answer
/// INVALID_HANDLE.
///
/// The last handle of a file closes it: what pends on it has completed when this returns, unless other processes have
/// the end, too. Closing a namespace or a port leaves open what was opened in it or is associated with it. Closing a broker
/// stops it and waits for its threads; connections that it has made go on.
///
/// Errors: INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_close(handle: npfs_handle) -> npfs_status {
    guard(|| {
        match handle::remove(handle)? {
            Object::File(file) => file.close()?,
            other => drop(other),
        }
        Ok(NtStatus::SUCCESS)
    })
}

/// A further handle of the same object (NtDuplicateObject). Any thread.
///
/// - `handle`: of any kind.
/// - `desired_access`: of a file: rights that `handle` has, or fewer of them.
/// - `options`: `NPFS_DUPLICATE_SAME_ACCESS`, `NPFS_DUPLICATE_CLOSE_SOURCE`, or 0.
/// - `duplicate`: receives the new handle; close it with `npfs_close`.
///
/// Errors: INVALID_HANDLE, ACCESS_DENIED.
///
/// # Safety
/// `duplicate` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_duplicate_object(
    handle: npfs_handle,
    desired_access: u32,
    options: u32,
    duplicate: *mut npfs_handle,
) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let out = unsafe { Out::new(duplicate) }?;
        let made = match handle::get(handle)? {
            Object::File(file) => {
                let access = asked(desired_access, options);
                let again = file.nt().duplicate(file.handle, access);
                let file = File::clone(&file);
                again.and_then(|handle| File { handle, ..file }.insert())
            }
            other => handle::insert(other),
        };
        if options & NPFS_DUPLICATE_CLOSE_SOURCE != 0
            // Somebody may close it at the same time: then it is closed.
            && let Ok(Object::File(file)) = handle::remove(handle)
        {
            let _ = file.close();
        }
        out.put(made?);
        Ok(NtStatus::SUCCESS)
    })
}

/// Which rights a duplicate is to have; `None`: the same.
fn asked(desired_access: u32, options: u32) -> Option<Mask> {
    let same = options & NPFS_DUPLICATE_SAME_ACCESS != 0;
    (!same).then(|| Mask::from_bits_retain(desired_access))
}

/// Gives the end of a pipe to another process of this user, its first half: makes a token, by which that process takes
/// the end (`npfs_take`), once and within five seconds. How the token comes there is the caller's business; whoever of the same user
/// has it first can take the end. The end stays open until then, also if this handle is closed. Any thread.
///
/// - `file`: the end.
/// - `desired_access`, `options`: as of `npfs_duplicate_object`; closing the source is not done here.
/// - `token`: receives a text with a NUL at its end; `size`, its room, is at least `NPFS_TOKEN_SIZE`.
///
/// Errors: INVALID_HANDLE, ACCESS_DENIED, BUFFER_TOO_SMALL, NOT_SUPPORTED (the volume, the root), NO_SUCH_DEVICE (no broker).
///
/// # Safety
/// `token` can be written, `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_give(
    file: npfs_handle,
    desired_access: u32,
    options: u32,
    token: *mut c_char,
    size: u32,
) -> npfs_status {
    // SAFETY: as this function asks for.
    guard(|| unsafe { give(file, None, asked(desired_access, options), token, size) })
}

/// As `npfs_give`, to a process of another user's: it has the memory of this connection from then on, and of no other.
///
/// - `uid`: that user's number, of which alone a process can take the end.
///
/// Errors: SHARING_VIOLATION (this process has other connections with that of the other end, in the same memory: only one that is
/// alone there can go to another user, and none joins it then; one that was created or opened with `NPFS_OBJ_APART` always is), and
/// those of `npfs_give`.
///
/// # Safety
/// `token` can be written, `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_give_to_user(
    file: npfs_handle,
    uid: u32,
    desired_access: u32,
    options: u32,
    token: *mut c_char,
    size: u32,
) -> npfs_status {
    let access = asked(desired_access, options);
    // SAFETY: as this function asks for.
    guard(|| unsafe { give(file, Some(uid), access, token, size) })
}

/// # Safety
/// As [`npfs_give`].
unsafe fn give(
    file: npfs_handle,
    to: Option<u32>,
    access: Option<Mask>,
    token: *mut c_char,
    size: u32,
) -> NtResult<NtStatus> {
    let file: Arc<File> = handle::get(file)?;
    // SAFETY: as this function asks for.
    let out = unsafe { memory::output(token.cast(), size) }?;
    let out = out
        .get_mut(..NPFS_TOKEN_SIZE as usize)
        .ok_or(NtStatus::BUFFER_TOO_SMALL)?;
    let token = match to {
        Some(uid) => file.nt().give_to_user(file.handle, access, uid),
        None => file.nt().give(file.handle, access),
    };
    let (end, digits) = out.split_last_mut().ok_or(NtStatus::BUFFER_TOO_SMALL)?;
    digits.copy_from_slice(token?.to_string().as_bytes());
    *end = 0;
    Ok(NtStatus::SUCCESS)
}

/// Its second half: opens the end that another process has given. Both have the same end from then on, and it closes with the
/// last handle of either. Any thread.
///
/// - `names`: a namespace of the same broker.
/// - `token`: what `npfs_give` made, with a NUL at its end.
/// - `file`: receives the handle; close it with `npfs_close`.
///
/// Errors: INVALID_HANDLE (not a token, used already, too late, or another user's), INSUFFICIENT_RESOURCES, NO_SUCH_DEVICE.
///
/// # Safety
/// `token` can be read up to its NUL; `file` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_take(
    names: npfs_handle,
    token: *const c_char,
    file: *mut npfs_handle,
) -> npfs_status {
    guard(|| {
        let names: Arc<Names> = handle::get(names)?;
        // SAFETY: as this function asks for.
        let (out, token) = unsafe { (Out::new(file)?, memory::text(token)?) };
        let token: EndToken = token.parse().map_err(|_| NtStatus::INVALID_HANDLE)?;
        let handle = names.nt.take(token)?;
        out.put(File::taken(names, handle).insert()?);
        Ok(NtStatus::SUCCESS)
    })
}

// ---- read, write, control, flush -----------------------------------------------------------------------------------

/// What the calls share that may pend.
///
/// # Safety
/// As of `npfs_read_file`: the status block, and the completion routine.
#[inline(always)]
unsafe fn call(
    file: &File,
    event: npfs_handle,
    callback: npfs_io_callback,
    context: *mut c_void,
    iosb: *mut npfs_io_status_block,
) -> NtResult<Call> {
    // SAFETY: the caller's promise is the same.
    let iosb = unsafe { Iosb::new(iosb) }?;
    let event = match event {
        0 => None,
        event => Some(handle::get(event)?),
    };
    // SAFETY: the caller's promise is the same.
    let routine = callback.map(|routine| unsafe { Routine::new(routine, context, iosb) });
    let callback = routine.map(|routine| {
        let tell = move |_, _| routine.call();
        if file.callbacks_may_wait.load(Ordering::Relaxed) {
            Callback::that_may_wait(tell)
        } else {
            Callback::new(tell)
        }
    });
    Ok(Call::new(iosb, event, callback, context.addr()))
}

/// Whether the completion routines of a file's calls may wait. If not, which is how a file begins, they run on the library's one
/// event loop, one after the other, and calls that would have to wait answer POSSIBLE_DEADLOCK there. If so, they run on up to 64
/// threads of the library's, in no order. Any thread; counts for calls through this handle and duplicates of it.
///
/// - `may_wait`: not 0: they may.
///
/// Errors: INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_set_callbacks_may_wait(file: npfs_handle, may_wait: u8) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        file.callbacks_may_wait
            .store(may_wait != 0, Ordering::Relaxed);
        Ok(NtStatus::SUCCESS)
    })
}

/// Reads from a pipe (NtReadFile). Any thread; what pends ends as cancelled with the thread that has issued it.
///
/// - `file`: a handle with `NPFS_FILE_READ_DATA`.
/// - `event`: reset now, and set when the call completes; 0: the file object is, instead.
/// - `callback`: is called when the call has completed, also if that is at once, on a thread of the library's
///   (`npfs_set_callbacks_may_wait`); `iosb` stays until it returns. Not for a file with a completion port. NULL: none.
/// - `context`: what the packet to the file's completion port says of this call; NULL: no packet.
/// - `iosb`: receives status and count when the call completes; not NULL.
/// - `buffer`, `length`: receive the data.
///
/// Returns SUCCESS; BUFFER_OVERFLOW: the message goes on; PENDING (overlapped files only): `iosb` will tell. PENDING lends
/// `iosb` and `buffer` to the library: both must stay where they are, and nobody may use `buffer`, until `iosb` is
/// written.
///
/// Errors: PIPE_EMPTY, PIPE_LISTENING, PIPE_DISCONNECTED, PIPE_BROKEN, CANCELLED, ACCESS_DENIED, INVALID_HANDLE,
/// INVALID_PARAMETER (the volume, the root, or more than 2^31-1 bytes), INSUFFICIENT_RESOURCES; POSSIBLE_DEADLOCK (a call
/// that waits, in a completion routine). `iosb` is not touched by errors that this function returns, and nothing tells of them.
///
/// # Safety
/// `iosb`, and `buffer` with `length` bytes, can be written until the call has completed. `callback` can be called from any
/// thread, with `context`, and does not throw.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_read_file(
    file: npfs_handle,
    event: npfs_handle,
    callback: npfs_io_callback,
    context: *mut c_void,
    iosb: *mut npfs_io_status_block,
    buffer: *mut c_void,
    length: u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let call = unsafe { call(&file, event, callback, context, iosb) }?;
        // SAFETY: likewise.
        let buffer = unsafe { memory::lent(buffer, length) }?;
        Ok(call.run(file.synchronous, |io| {
            file.nt().read_file(file.handle, io, &buffer)
        }))
    })
}

/// Writes to a pipe (NtWriteFile): one message, or bytes. Any thread; what pends ends as cancelled with the thread that has issued
/// it.
///
/// - `file`: a handle with `NPFS_FILE_WRITE_DATA`.
/// - `event`, `callback`, `context`, `iosb`: as of `npfs_read_file`.
/// - `buffer`, `length`: the data, which has been copied when this function returns, also with PENDING.
///
/// Returns SUCCESS, or PENDING (overlapped files only) while the data exceeds the quota.
///
/// Errors: PIPE_LISTENING, PIPE_DISCONNECTED, PIPE_CLOSING (nobody would read it), CANCELLED, ACCESS_DENIED, INVALID_HANDLE,
/// INVALID_PARAMETER (the volume, the root, or more than 2^31-1 bytes), INSUFFICIENT_RESOURCES.
///
/// # Safety
/// `buffer` can be read, `length` bytes; `iosb` and `callback` as of `npfs_read_file`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_write_file(
    file: npfs_handle,
    event: npfs_handle,
    callback: npfs_io_callback,
    context: *mut c_void,
    iosb: *mut npfs_io_status_block,
    buffer: *const c_void,
    length: u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let call = unsafe { call(&file, event, callback, context, iosb) }?;
        // SAFETY: likewise.
        let data = unsafe { memory::input(buffer, length) }?;
        Ok(call.run(file.synchronous, |io| {
            file.nt().write_file(file.handle, io, data)
        }))
    })
}

/// Controls a pipe (NtFsControlFile): listen, disconnect, peek, transceive, wait, impersonate, ask who is there. Any thread.
///
/// - `file`: a handle with the rights that the code's bits 14 and 15 ask for.
/// - `event`, `callback`, `context`, `iosb`: as of `npfs_read_file`.
/// - `control`: `NPFS_FSCTL_PIPE_...`.
/// - `input`, `input_length`: copied when this function returns.
/// - `output`, `output_length`: as `buffer` of `npfs_read_file`.
///
/// Returns SUCCESS, BUFFER_OVERFLOW, or PENDING (overlapped files only): a listen without a client, a transceive, a wait
/// for an instance, a flush.
///
/// Errors: as the code says, by the end and its state; NOT_SUPPORTED: no such code.
///
/// # Safety
/// `input` can be read, `input_length` bytes; `iosb`, and `output` with `output_length` bytes, can be written until the call has
/// completed.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "NT's own")]
pub unsafe extern "C" fn npfs_fs_control_file(
    file: npfs_handle,
    event: npfs_handle,
    callback: npfs_io_callback,
    context: *mut c_void,
    iosb: *mut npfs_io_status_block,
    control: u32,
    input: *const c_void,
    input_length: u32,
    output: *mut c_void,
    output_length: u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let call = unsafe { call(&file, event, callback, context, iosb) }?;
        // SAFETY: likewise.
        let (input, output) = unsafe {
            (
                memory::input(input, input_length)?,
                memory::lent(output, output_length)?,
            )
        };
        Ok(call.run(file.synchronous, |io| {
            file.nt()
                .fs_control_file(file.handle, io, Control(control), input, &output)
        }))
    })
}

/// Waits until everything that was written before has been read (NtFlushBuffersFile), also on overlapped files. Any thread.
///
/// - `iosb`: receives the status; not NULL.
///
/// Errors: PIPE_DISCONNECTED, PIPE_BROKEN, CANCELLED, INVALID_HANDLE.
///
/// # Safety
/// `iosb` can be written until this function returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_flush_buffers_file(
    file: npfs_handle,
    iosb: *mut npfs_io_status_block,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let call = unsafe { call(&file, 0, None, std::ptr::null_mut(), iosb) }?;
        Ok(call.run(true, |io| {
            file.nt().flush_buffers_file(file.handle, &io.status)
        }))
    })
}

// ---- cancel --------------------------------------------------------------------------------------------------------

/// Tells how a cancel went, where the caller wants to know.
fn cancelled(result: Option<Iosb>, cancel: NtResult<()>) -> NtResult<NtStatus> {
    let status = cancel.map_or_else(|status| status, |()| NtStatus::SUCCESS);
    if let Some(result) = result
        && matches!(status, NtStatus::SUCCESS | NtStatus::NOT_FOUND)
    {
        result.write(status, 0);
    }
    Ok(status)
}

/// Cancels what the calling thread has pending on a file, through whatever handle of it (NtCancelIoFile). Each call
/// completes once, as CANCELLED unless it was done before, and has completed when this returns.
///
/// - `result`: receives the status; may be NULL.
///
/// Errors: INVALID_HANDLE.
///
/// # Safety
/// `result`, unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_cancel_io_file(
    file: npfs_handle,
    result: *mut npfs_io_status_block,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let result = unsafe { Iosb::maybe(result) }?;
        cancelled(result, file.nt().cancel_io_file(file.handle))
    })
}

/// Cancels the calls on a file that report to one status block, or all of them, whichever thread has issued them
/// (NtCancelIoFileEx). Calls that block are among them.
///
/// - `which`: names the calls by their status block, which is not read or written for that; NULL: all calls.
/// - `result`: receives the status; may be NULL.
///
/// Errors: NOT_FOUND (nothing pends there), INVALID_HANDLE.
///
/// # Safety
/// `result`, unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_cancel_io_file_ex(
    file: npfs_handle,
    which: *mut npfs_io_status_block,
    result: *mut npfs_io_status_block,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for; `which` is taken as an address only.
        let (which, result) = unsafe { (Iosb::maybe(which)?, Iosb::maybe(result)?) };
        let cancel = || -> NtResult<()> {
            let Some(which) = which else {
                return file.nt().cancel_io_file_ex(file.handle, None);
            };
            // A closed handle is one whether anything pends or not.
            file.nt().granted(file.handle)?;
            let mut answer = Err(NtStatus::NOT_FOUND);
            for block in pending::blocks_at(which) {
                match file.nt().cancel_io_file_ex(file.handle, Some(&block)) {
                    Err(NtStatus::NOT_FOUND) => {}
                    other => answer = other,
                }
            }
            answer
        };
        cancelled(result, cancel())
    })
}

/// Cancels the call that blocks in a thread (NtCancelSynchronousIoFile): it returns CANCELLED, and does not touch its status
/// block.
///
/// - `thread`: a handle of the thread (`npfs_open_current_thread`).
/// - `which`: only if the call reports there; NULL: in any case.
/// - `result`: receives the status; may be NULL.
///
/// Errors: NOT_FOUND (no call blocks there), INVALID_HANDLE.
///
/// # Safety
/// `result`, unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_cancel_synchronous_io_file(
    thread: npfs_handle,
    which: *mut npfs_io_status_block,
    result: *mut npfs_io_status_block,
) -> npfs_status {
    guard(|| {
        let thread = handle::get(thread)?;
        // SAFETY: as this function asks for; `which` is taken as an address only.
        let (which, result) = unsafe { (Iosb::maybe(which)?, Iosb::maybe(result)?) };
        let cancel = if which.is_none_or(|which| pending::is_of(which, thread)) {
            cancel_blocking(thread)
                .then_some(())
                .ok_or(NtStatus::NOT_FOUND)
        } else {
            Err(NtStatus::NOT_FOUND)
        };
        cancelled(result, cancel)
    })
}

/// A handle of the calling thread, for `npfs_cancel_synchronous_io_file`. It may outlive the thread.
///
/// - `thread`: receives the handle; close it with `npfs_close`.
///
/// # Safety
/// `thread` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_open_current_thread(thread: *mut npfs_handle) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let out = unsafe { Out::new(thread) }?;
        out.put(handle::insert(Object::Thread(npfs::nt::calling_thread()))?);
        Ok(NtStatus::SUCCESS)
    })
}

// ---- information ---------------------------------------------------------------------------------------------------

/// Asks about a file (NtQueryInformationFile). Any thread.
///
/// - `iosb`: receives the status and how many bytes were written; not NULL.
/// - `information`, `length`: receive the structure of the class.
/// - `information_class`: `NPFS_FILE_..._INFORMATION_CLASS`.
///
/// Returns SUCCESS, or BUFFER_OVERFLOW: a name was cut off.
///
/// Errors: INFO_LENGTH_MISMATCH, ACCESS_DENIED, PIPE_DISCONNECTED, INVALID_PARAMETER (no such class), INVALID_HANDLE.
///
/// # Safety
/// `iosb` can be written; so can `information`, `length` bytes, and nobody else uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_query_information_file(
    file: npfs_handle,
    iosb: *mut npfs_io_status_block,
    information: *mut c_void,
    length: u32,
    information_class: u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (iosb, out) = unsafe { (Iosb::new(iosb)?, memory::output(information, length)?) };
        let class = InfoClass(information_class);
        Ok(told(iosb, |status| {
            file.nt()
                .query_information_file(file.handle, status, class, out)
        }))
    })
}

/// A call that never pends: what it writes is the caller's when it returns.
fn told(iosb: Iosb, call: impl FnOnce(&StatusBlock) -> NtStatus) -> NtStatus {
    let block = StatusBlock::elsewhere(iosb);
    call(&block)
}

/// Sets what can be set of a file (NtSetInformationFile): its modes, and what completions do besides. Any thread.
///
/// - `iosb`: receives the status; not NULL.
/// - `information`, `length`: the structure of the class.
/// - `information_class`: `NPFS_FILE_PIPE_INFORMATION_CLASS` or `NPFS_FILE_IO_COMPLETION_NOTIFICATION_INFORMATION_CLASS`.
///
/// Errors: INFO_LENGTH_MISMATCH, ACCESS_DENIED, PIPE_BUSY, PIPE_DISCONNECTED, INVALID_PARAMETER, INVALID_HANDLE.
///
/// # Safety
/// `information` can be read, `length` bytes; `iosb` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_set_information_file(
    file: npfs_handle,
    iosb: *mut npfs_io_status_block,
    information: *const c_void,
    length: u32,
    information_class: u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (iosb, data) = unsafe { (Iosb::new(iosb)?, memory::input(information, length)?) };
        let class = InfoClass(information_class);
        Ok(told(iosb, |status| {
            file.nt()
                .set_information_file(file.handle, status, class, data)
        }))
    })
}

/// Asks about the volume that a file is on (NtQueryVolumeInformationFile). Any thread.
///
/// - `iosb`: receives the status and how many bytes were written; not NULL.
/// - `information`, `length`: receive the structure of the class.
/// - `information_class`: `NPFS_FILE_FS_..._INFORMATION_CLASS`.
///
/// Returns SUCCESS, or BUFFER_OVERFLOW: a label was cut off.
///
/// Errors: INFO_LENGTH_MISMATCH, NOT_SUPPORTED (no such class), INVALID_HANDLE.
///
/// # Safety
/// `iosb` can be written; so can `information`, `length` bytes, and nobody else uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_query_volume_information_file(
    file: npfs_handle,
    iosb: *mut npfs_io_status_block,
    information: *mut c_void,
    length: u32,
    information_class: u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (iosb, out) = unsafe { (Iosb::new(iosb)?, memory::output(information, length)?) };
        let class = VolumeClass(information_class);
        Ok(told(iosb, |status| {
            file.nt()
                .query_volume_information_file(file.handle, status, class, out)
        }))
    })
}

/// Lists the pipes (NtQueryDirectoryFile): as many as there is room for; the next call goes on. Any thread.
///
/// - `file`: a handle of the root (`\Device\NamedPipe\`) with `NPFS_FILE_READ_DATA`.
/// - `iosb`: receives the status and how many bytes were written; not NULL.
/// - `information`, `length`: receive entries, each aligned to 8 from the beginning.
/// - `information_class`: `NPFS_FILE_DIRECTORY_INFORMATION_CLASS` or one of the other three.
/// - `return_single_entry`: not 0: one entry at most.
/// - `pattern`, `pattern_length`: UTF-16 with wildcards, and its bytes; counts at the first call on a handle. NULL: all pipes.
/// - `restart_scan`: not 0: from the beginning.
///
/// Errors: NO_SUCH_FILE (nothing matches), NO_MORE_FILES (the end), BUFFER_OVERFLOW (no room for one entry),
/// INVALID_INFO_CLASS, INVALID_PARAMETER (not the root), ACCESS_DENIED, INVALID_HANDLE, NO_SUCH_DEVICE.
///
/// # Safety
/// `pattern` can be read, `pattern_length` bytes; `iosb` can be written; so can `information`, `length` bytes, and nobody else
/// uses it meanwhile.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "NT's own")]
pub unsafe extern "C" fn npfs_query_directory_file(
    file: npfs_handle,
    iosb: *mut npfs_io_status_block,
    information: *mut c_void,
    length: u32,
    information_class: u32,
    return_single_entry: u8,
    pattern: *const u16,
    pattern_length: u32,
    restart_scan: u8,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (iosb, out, units) = unsafe {
            (
                Iosb::new(iosb)?,
                memory::output(information, length)?,
                memory::units(pattern, pattern_length)?,
            )
        };
        let part = ListPart {
            class: information_class,
            pattern: (!units.is_empty()).then_some(units),
            restart: restart_scan != 0,
            single: return_single_entry != 0,
        };
        Ok(told(iosb, |status| {
            file.nt()
                .query_directory_file(file.handle, status, &part, out)
        }))
    })
}

/// The whole path of a file (NtQueryObject): UTF-16, not ended by anything. Any thread.
///
/// - `name`, `length`: receive it; `length` in bytes.
/// - `needed`: receives the bytes of the whole path, also with BUFFER_TOO_SMALL.
///
/// Errors: BUFFER_TOO_SMALL, OBJECT_PATH_INVALID (a pipe without a name), INVALID_HANDLE.
///
/// # Safety
/// `needed` can be written; so can `name`, `length` bytes, and nobody else uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_query_object_name(
    file: npfs_handle,
    name: *mut u16,
    length: u32,
    needed: *mut u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (out, needed) = unsafe { (memory::array_mut(name, length / 2)?, Out::new(needed)?) };
        let path = file.nt().query_object_name(file.handle)?;
        put_all(out, &path, &needed)
    })
}

/// All of it, or how much room it needs.
fn put_all<T: Copy>(out: &mut [T], all: &[T], needed: &Out<u32>) -> NtResult<NtStatus> {
    needed.put(u32::try_from(size_of_val(all)).unwrap_or(u32::MAX));
    let room = out.get_mut(..all.len()).ok_or(NtStatus::BUFFER_TOO_SMALL)?;
    room.copy_from_slice(all);
    Ok(NtStatus::SUCCESS)
}

/// Parts of the security descriptor of a pipe (NtQuerySecurityObject), self-relative. Any thread.
///
/// - `file`: a handle with `NPFS_READ_CONTROL`.
/// - `security_information`: `NPFS_..._SECURITY_INFORMATION`, which parts.
/// - `descriptor`, `length`: receive it.
/// - `needed`: receives its bytes, also with BUFFER_TOO_SMALL.
///
/// Errors: BUFFER_TOO_SMALL, ACCESS_DENIED, PIPE_DISCONNECTED, INVALID_PARAMETER (the volume, the root), INVALID_HANDLE,
/// NO_SUCH_DEVICE.
///
/// # Safety
/// `needed` can be written; so can `descriptor`, `length` bytes, and nobody else uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_query_security_object(
    file: npfs_handle,
    security_information: u32,
    descriptor: *mut c_void,
    length: u32,
    needed: *mut u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let (out, needed) = unsafe { (memory::output(descriptor, length)?, Out::new(needed)?) };
        let parts = SecurityParts::from_bits_retain(security_information);
        let security = file.nt().query_security_object(file.handle, parts)?;
        let bytes = security.to_bytes();
        let bytes = bytes.map_err(|_| NtStatus::INVALID_SECURITY_DESCR)?;
        put_all(out, &bytes, &needed)
    })
}

/// Replaces parts of the security descriptor of a pipe (NtSetSecurityObject). Any thread.
///
/// - `file`: a handle with `NPFS_WRITE_DAC` for the DACL, `NPFS_WRITE_OWNER` for owner and group.
/// - `security_information`: `NPFS_..._SECURITY_INFORMATION`, which parts.
/// - `descriptor`, `length`: a self-relative descriptor that has them.
///
/// Errors: INVALID_SECURITY_DESCR, INVALID_OWNER, ACCESS_DENIED, PIPE_DISCONNECTED, INVALID_PARAMETER (the volume, the
/// root), INVALID_HANDLE, NO_SUCH_DEVICE.
///
/// # Safety
/// `descriptor` can be read, `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_set_security_object(
    file: npfs_handle,
    security_information: u32,
    descriptor: *const c_void,
    length: u32,
) -> npfs_status {
    guard(|| {
        let file: Arc<File> = handle::get(file)?;
        // SAFETY: as this function asks for.
        let security = parse(unsafe { memory::input(descriptor, length) }?)?;
        let parts = SecurityParts::from_bits_retain(security_information);
        done(file.nt().set_security_object(file.handle, parts, &security))
    })
}

// ---- impersonation -------------------------------------------------------------------------------------------------

/// In whose name the calling thread acts, since `NPFS_FSCTL_PIPE_IMPERSONATE`. What follows from it is the caller's business:
/// the thread's own credentials are as they were.
///
/// # Safety
/// `identity` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_query_impersonation(identity: *mut npfs_identity) -> npfs_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let out = unsafe { Out::new(identity) }?;
        let impersonated = npfs::nt::impersonated();
        let client = impersonated.and_then(|identity| identity.client);
        let client = client.unwrap_or_default();
        out.put(npfs_identity {
            impersonates: impersonated.is_some().into(),
            level: impersonated.map_or(0, |identity| identity.level as u32),
            effective_only: impersonated
                .is_some_and(|identity| identity.effective_only)
                .into(),
            process: client.pid,
            user: client.uid,
            group: client.gid,
            session: client.session,
        });
        Ok(NtStatus::SUCCESS)
    })
}

/// The calling thread acts in its process's own name again (RevertToSelf).
#[unsafe(no_mangle)]
pub extern "C" fn npfs_revert_to_self() -> npfs_status {
    guard(|| {
        npfs::nt::revert_to_self();
        Ok(NtStatus::SUCCESS)
    })
}
