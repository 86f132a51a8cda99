//! NtReadFile, NtWriteFile, NtFlushBuffersFile and the three kinds of cancel: sections 11 to 16 of the specification.

use std::sync::Arc;

use npfs_ringbuf::{Answer, Deadline, Read, Started};

use super::{
    Entry, Handle, Nt, NtResult,
    file::{File, OnConn, status},
    io::{Buffer, Io, Operation, StatusBlock, begin, of_read, report},
    thread::{CallingThread, blocking, calling_thread, cancel_blocking, cancel_blocking_on},
};
use crate::{
    Error, Mask, NtStatus,
    reactor::{PATIENCE, REACTOR},
};

impl Nt {
    /// NtReadFile. PENDING: it completes later, into `buffer`.
    pub fn read_file(&self, handle: Handle, io: &Io, buffer: &Buffer) -> NtStatus {
        match self.try_read_file(handle, io, buffer) {
            Ok(status) | Err(status) => status,
        }
    }

    fn try_read_file(&self, handle: Handle, io: &Io, buffer: &Buffer) -> NtResult<NtStatus> {
        let file = self.entry_with(handle, Mask::FILE_READ_DATA)?.file;
        let turn = file.takes_its_turn()?;
        begin(&file, io)?;
        let conn = file.on_conn(NtStatus::INVALID_PARAMETER)?; // NP-READ-22
        if file.is_synchronous() {
            // Not into the buffer itself: whoever else has it must not wait for this.
            let mut bytes = vec![0; buffer.len()];
            let read = blocking(&file, &io.status, |cancel| {
                conn.read_with(&mut bytes, &cancel.wait, Deadline::NEVER)
            });
            REACTOR.settle(&conn);
            let answer = read.map_err(|error| file.why(error, false)).map(|read| {
                let count = read.count();
                buffer.fill(&bytes[..count]);
                file.has_consumed(conn.id(), read);
                of_read(read)
            });
            return Ok(report(&file, io, answer));
        }
        let read = with_room(buffer.len(), |room| {
            read_overlapped(&file, &conn, io, buffer, room)
        });
        drop((conn, turn));
        Ok(match read? {
            Ok(status) => status,
            Err(pends) => {
                Operation::ring(file, io, pends, Some(buffer.clone()));
                NtStatus::PENDING
            }
        })
    }

    /// NtWriteFile. The data has been captured when this returns (NP-WRITE-17).
    pub fn write_file(&self, handle: Handle, io: &Io, data: &[u8]) -> NtStatus {
        match self.try_write_file(handle, io, data) {
            Ok(status) | Err(status) => status,
        }
    }

    fn try_write_file(&self, handle: Handle, io: &Io, data: &[u8]) -> NtResult<NtStatus> {
        let file = self.entry_with(handle, Mask::FILE_WRITE_DATA)?.file;
        let _turn = file.takes_its_turn()?;
        begin(&file, io)?;
        let conn = file.on_conn(NtStatus::INVALID_PARAMETER)?; // NP-WRITE-16
        let written = if file.is_synchronous() {
            blocking(&file, &io.status, |cancel| {
                conn.write_with(data, &cancel.wait, Deadline::NEVER)
            })
        } else {
            // Without an operation, and a copy of the data, if it needs none.
            match conn.try_write(data) {
                Err(npfs_ringbuf::Error::WouldBlock | npfs_ringbuf::Error::Busy) => {
                    let started = REACTOR.insist(&conn, PATIENCE, || {
                        Started::write(&conn.share(), data.into())
                    });
                    let started = started.map_err(|error| file.why(error, true))?;
                    match started.answer() {
                        Some(answer) => answer.map(written_of),
                        None => {
                            drop(conn);
                            Operation::ring(file.clone(), io, started, None);
                            return Ok(NtStatus::PENDING);
                        }
                    }
                }
                done => done,
            }
        };
        REACTOR.settle(&conn);
        let answer = written.map_err(|error| file.why(error, true));
        let answer = answer.map(|count| (NtStatus::SUCCESS, count));
        Ok(report(&file, io, answer))
    }

    /// NtFlushBuffersFile: returns when everything written before has been read, whatever the handle (NP-FLUSH-04).
    pub fn flush_buffers_file(&self, handle: Handle, status: &StatusBlock) -> NtStatus {
        let io = Io::with_status(status.clone());
        let flushed = self.entry(handle).and_then(|Entry { file, .. }| {
            let _turn = file.takes_its_turn()?;
            begin(&file, &io)?;
            flush(&file, &io, true)
        });
        match flushed {
            Ok(status) | Err(status) => status,
        }
    }

    // ---- cancel ------------------------------------------------------------------------------------------------

    /// NtCancelIoFile: what this thread has pending on the file object, through whatever handle (NP-CANCEL-05).
    ///
    /// # Errors
    /// INVALID_HANDLE.
    pub fn cancel_io_file(&self, handle: Handle) -> NtResult<()> {
        let me = calling_thread();
        let file = self.entry(handle)?.file;
        let pended = file.pended();
        for one in pended.iter().filter(|one| one.thread() == me) {
            one.cancel();
        }
        self.after_cancel(handle);
        Ok(())
    }

    /// NtCancelIoFileEx: what pends on the file object with that status block, or all of it (NP-CANCEL-05, 06).
    ///
    /// # Errors
    /// NOT_FOUND: nothing does (NP-CANCEL-04). INVALID_HANDLE.
    pub fn cancel_io_file_ex(&self, handle: Handle, with: Option<&StatusBlock>) -> NtResult<()> {
        let file = self.entry(handle)?.file;
        let pended = file.pended();
        let mut any = false;
        for one in &pended {
            if with.is_none_or(|with| one.io.status.is(with)) {
                any |= one.cancel();
            }
        }
        any |= cancel_blocking_on(&file, with);
        self.after_cancel(handle);
        if any {
            Ok(())
        } else {
            Err(NtStatus::NOT_FOUND)
        }
    }

    /// What was cancelled may have made room for others (NP-CANCEL-03).
    fn after_cancel(&self, handle: Handle) {
        if let Ok(entry) = self.entry(handle)
            && let Ok(conn) = entry.file.conn(NtStatus::INVALID_HANDLE)
        {
            REACTOR.settle(&conn);
        }
    }

    /// NtCancelSynchronousIoFile: the call that blocks in that thread (NP-CANCEL-07).
    ///
    /// # Errors
    /// NOT_FOUND: none does.
    pub fn cancel_synchronous_io(&self, thread: CallingThread) -> NtResult<()> {
        if cancel_blocking(thread) {
            Ok(())
        } else {
            Err(NtStatus::NOT_FOUND)
        }
    }
}

/// A read of an overlapped file object. `room`: for what comes, if that is little; it goes without an operation and a buffer of its
/// own then, if it lies there. `Err`: it pends from now on, and is to be an operation.
#[inline(always)]
fn read_overlapped(
    file: &File,
    conn: &OnConn<'_>,
    io: &Io,
    buffer: &Buffer,
    mut room: Option<&mut [u8]>,
) -> NtResult<Result<NtStatus, Started>> {
    let id = conn.id();
    if let Some(room) = &mut room
        && let Some(read) = conn.read_at_once(room)
    {
        buffer.fill(&room[..read.count()]);
        REACTOR.settle(conn);
        file.has_consumed(id, read);
        return Ok(Ok(report(file, io, Ok(of_read(read)))));
    }
    let poller = REACTOR.poller(conn);
    let started = REACTOR.insist(conn, PATIENCE, || match &mut room {
        Some(room) => Started::read_into(conn, || conn.share(), room, poller),
        None => Started::read_by(&conn.share(), vec![0; buffer.len()].into(), poller),
    });
    let started = started.map_err(|error| file.why(error, false))?;
    // What pends is looked at once it stands in its list.
    let Some(answer) = started.answer() else {
        return Ok(Err(started));
    };
    if answer.is_ok() {
        buffer.fill(started.data_in(room.as_deref().unwrap_or_default()));
    }
    REACTOR.settle(conn);
    let answer = answer.map_err(|error| file.why(error, false));
    let answer = answer.map(|answer| {
        let read = count_of(answer);
        file.has_consumed(id, read);
        of_read(read)
    });
    Ok(Ok(report(file, io, answer)))
}

/// The bytes of a read's answer.
fn count_of(answer: Answer) -> Read {
    match answer {
        Answer::Read(read) => read,
        Answer::Wrote(_) | Answer::Flushed => Read::Whole(0),
    }
}

/// The bytes of a write's answer.
fn written_of(answer: Answer) -> usize {
    match answer {
        Answer::Wrote(count) => count,
        Answer::Read(_) | Answer::Flushed => 0,
    }
}

/// Completes when everything written before has been read. NtFlushBuffersFile waits for that whatever the handle
/// (NP-FLUSH-04); FSCTL_PIPE_FLUSH on an overlapped file object may pend.
pub(super) fn flush(file: &Arc<File>, io: &Io, waits: bool) -> NtResult<NtStatus> {
    let done = Ok((NtStatus::SUCCESS, 0));
    let conn = file.conn_if_any(NtStatus::PIPE_DISCONNECTED)?; // NP-FLUSH-03
    let Some(conn) = conn else {
        // NP-FLUSH-02: a server end without a client has nothing unread.
        return Ok(report(file, io, done));
    };
    let start = || Started::flush(&conn);
    let flushed = if waits {
        let flushed = blocking(file, &io.status, |cancel| {
            conn.flush_with(&cancel.wait, Deadline::NEVER)
        });
        REACTOR.settle(&conn);
        flushed
    } else {
        let mut started = status(REACTOR.insist(&conn, PATIENCE, start).map_err(Error::from))?;
        match started.poll() {
            Some(answer) => answer.map(|_| ()),
            None => {
                Operation::ring(file.clone(), io, started, None);
                return Ok(NtStatus::PENDING);
            }
        }
    };
    let flushed = status(flushed.map_err(Error::from));
    Ok(report(file, io, flushed.and(done)))
}

/// Bytes that a read may have room for to go without a buffer of its own.
const SMALL: usize = 256;

/// Calls with room for so many bytes on the stack, or with none if that is too much for it. No more is cleared than has to be.
#[inline(always)]
pub(super) fn with_room<T>(bytes: usize, call: impl FnOnce(Option<&mut [u8]>) -> T) -> T {
    match bytes {
        0..=64 => call([0; 64].get_mut(..bytes)),
        65..=SMALL => call([0; SMALL].get_mut(..bytes)),
        _ => call(None),
    }
}
