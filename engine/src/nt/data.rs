//! NtReadFile, NtWriteFile, NtFlushBuffersFile and the three kinds of cancel: sections 11 to 16 of the specification.

use npfs_ringbuf::{Answer, Deadline, Started};

use super::{
    Handle, Nt, NtResult,
    file::{Side, status},
    io::{Buffer, Io, Operation, StatusBlock, begin, of_read, report, settle},
    thread::{CallingThread, blocking, calling_thread, cancel_blocking},
};
use crate::{Error, Mask, NtStatus, lock::lock};

impl Nt {
    /// NtReadFile. PENDING: it completes later, into `buffer`.
    pub fn read_file(&self, handle: Handle, io: &Io, buffer: &Buffer) -> NtStatus {
        match self.try_read_file(handle, io, buffer) {
            Ok(status) | Err(status) => status,
        }
    }

    fn try_read_file(&self, handle: Handle, io: &Io, buffer: &Buffer) -> NtResult<NtStatus> {
        let file = self.entry_with(handle, Mask::FILE_READ_DATA)?.file;
        let _turn = file.is_synchronous().then(|| lock(&file.turn));
        begin(&file, io);
        let conn = file.conn(NtStatus::INVALID_PARAMETER)?; // NP-READ-22
        if file.is_synchronous() {
            let mut bytes = buffer.held();
            let read = blocking(|cancel| conn.read_with(&mut bytes, &cancel.wait, Deadline::NEVER));
            drop(bytes);
            settle(conn.id());
            let answer = read.map_err(|error| file.why(error, false)).map(|read| {
                file.has_consumed(read);
                of_read(read)
            });
            return Ok(report(&file, io, answer));
        }
        let room = buffer.len();
        let started = Started::read(&conn, vec![0; room].into());
        let mut started = started.map_err(|error| file.why(error, false))?;
        let Some(answer) = started.poll() else {
            Operation::ring(&file, io, started, Some(buffer.clone()));
            return Ok(NtStatus::PENDING);
        };
        if answer.is_ok() {
            let data = started.data();
            buffer.held()[..data.len()].copy_from_slice(data);
        }
        settle(conn.id());
        let answer = answer.map_err(|error| file.why(error, false));
        let answer = answer.map(|answer| match answer {
            Answer::Read(read) => {
                file.has_consumed(read);
                of_read(read)
            }
            Answer::Wrote(_) | Answer::Flushed => (NtStatus::SUCCESS, 0),
        });
        Ok(report(&file, io, answer))
    }

    /// NtWriteFile. The data has been captured when this returns (NP-WRITE-17).
    pub fn write_file(&self, handle: Handle, io: &Io, data: &[u8]) -> NtStatus {
        match self.try_write_file(handle, io, data) {
            Ok(status) | Err(status) => status,
        }
    }

    fn try_write_file(&self, handle: Handle, io: &Io, data: &[u8]) -> NtResult<NtStatus> {
        let file = self.entry_with(handle, Mask::FILE_WRITE_DATA)?.file;
        let _turn = file.is_synchronous().then(|| lock(&file.turn));
        begin(&file, io);
        let conn = file.conn(NtStatus::INVALID_PARAMETER)?; // NP-WRITE-16
        let written = if file.is_synchronous() {
            blocking(|cancel| conn.write_with(data, &cancel.wait, Deadline::NEVER))
        } else {
            let started = Started::write(&conn, data.into());
            let mut started = started.map_err(|error| file.why(error, true))?;
            match started.poll() {
                Some(answer) => answer.map(|answer| match answer {
                    Answer::Wrote(count) => count,
                    Answer::Read(_) | Answer::Flushed => 0,
                }),
                None => {
                    Operation::ring(&file, io, started, None);
                    return Ok(NtStatus::PENDING);
                }
            }
        };
        settle(conn.id());
        let answer = written.map_err(|error| file.why(error, true));
        let answer = answer.map(|count| (NtStatus::SUCCESS, count));
        Ok(report(&file, io, answer))
    }

    /// NtFlushBuffersFile: returns when everything written before has been read, whatever the handle (NP-FLUSH-04).
    pub fn flush_buffers_file(&self, handle: Handle, status: &StatusBlock) -> NtStatus {
        match self.flush(handle) {
            Ok(()) => {
                status.set(NtStatus::SUCCESS, 0);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    pub(super) fn flush(&self, handle: Handle) -> NtResult<()> {
        let file = self.entry(handle)?.file;
        let _turn = file.is_synchronous().then(|| lock(&file.turn));
        let conn = match file.conn(NtStatus::PIPE_DISCONNECTED) {
            // NP-FLUSH-02: a server end without a client has nothing unread.
            Err(_) if file.side() == Some(Side::Server) => return Ok(()),
            other => other?, // NP-FLUSH-03
        };
        let flushed = blocking(|cancel| conn.flush_with(&cancel.wait, Deadline::NEVER));
        settle(conn.id());
        status(flushed.map_err(Error::from))
    }

    // ---- cancel ------------------------------------------------------------------------------------------------

    /// NtCancelIoFile: what this thread has pending on the file object, through whatever handle (NP-CANCEL-05).
    ///
    /// # Errors
    /// INVALID_HANDLE.
    pub fn cancel_io_file(&self, handle: Handle) -> NtResult<()> {
        let me = calling_thread();
        let file = self.entry(handle)?.file;
        let pended = lock(&file.pended).clone();
        for one in pended.iter().filter(|one| one.is_of(me)) {
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
        let pended = lock(&file.pended).clone();
        let mut any = false;
        for one in &pended {
            if with.is_none_or(|with| one.io.status.is(with)) {
                any |= one.cancel();
            }
        }
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
            settle(conn.id());
        }
    }

    /// NtCancelSynchronousIoFile: the call that blocks in that thread (NP-CANCEL-07).
    ///
    /// # Errors
    /// NOT_FOUND: none does.
    pub fn cancel_synchronous_io(&self, thread: CallingThread) -> NtResult<()> {
        match cancel_blocking(thread) {
            NtStatus::SUCCESS => Ok(()),
            status => Err(status),
        }
    }
}
