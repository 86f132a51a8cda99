//! NtFsControlFile: sections 7 to 9, 14, 15, 20 and 21 of the specification.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use npfs_ringbuf::{CompletionMode, Deadline, Started};

use super::{
    Entry, Handle, Nt, NtResult,
    data::flush,
    file::{File, Kind, Side, status},
    io::{Buffer, Io, Operation, begin, of_read, report},
    open::hundreds_of_ns,
    thread::{Identity, blocking, impersonate},
};
use crate::{
    Error, Mask, Name, NtStatus,
    client::{ServerEnd, done},
    lock::lock,
    npfs::{Quality, State, Timeout},
    reactor::{PATIENCE, REACTOR},
    sys,
    wire::{Peer, Request},
};

/// The control codes of pipes (section 1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control(pub u32);

macro_rules! controls {
    ($($name:ident = $code:literal,)*) => {
        #[allow(missing_docs, reason = "FSCTL_PIPE_ and the name, as ntifs.h has it")]
        impl Control {
            $(pub const $name: Control = Control($code);)*
            /// All that have a name.
            pub const ALL: &[Control] = &[$(Control::$name),*];
        }
    };
}

controls! {
    ASSIGN_EVENT = 0x0011_0000,
    DISCONNECT = 0x0011_0004,
    LISTEN = 0x0011_0008,
    PEEK = 0x0011_400C,
    QUERY_EVENT = 0x0011_0010,
    TRANSCEIVE = 0x0011_C017,
    WAIT = 0x0011_0018,
    IMPERSONATE = 0x0011_001C,
    SET_CLIENT_PROCESS = 0x0011_0020,
    QUERY_CLIENT_PROCESS = 0x0011_0024,
    GET_PIPE_ATTRIBUTE = 0x0011_0028,
    SET_PIPE_ATTRIBUTE = 0x0011_002C,
    GET_CONNECTION_ATTRIBUTE = 0x0011_0030,
    SET_CONNECTION_ATTRIBUTE = 0x0011_0034,
    GET_HANDLE_ATTRIBUTE = 0x0011_0038,
    SET_HANDLE_ATTRIBUTE = 0x0011_003C,
    FLUSH = 0x0011_8040,
    DISABLE_IMPERSONATE = 0x0011_0044,
    INTERNAL_READ = 0x0011_5FF4,
    INTERNAL_WRITE = 0x0011_9FF8,
    INTERNAL_TRANSCEIVE = 0x0011_DFFF,
    INTERNAL_READ_OVFLOW = 0x0011_6000,
}

impl Control {
    /// The rights that bits 14 and 15 ask of the handle (NP-NUM-01).
    #[must_use]
    pub fn needs(self) -> Mask {
        let mut needs = Mask::empty();
        needs.set(Mask::FILE_READ_DATA, self.0 & 0x4000 != 0);
        needs.set(Mask::FILE_WRITE_DATA, self.0 & 0x8000 != 0);
        needs
    }
}

/// Bytes in front of a peek's data (FILE_PIPE_PEEK_BUFFER).
const PEEK_HEADER: usize = 16;

impl Nt {
    /// NtFsControlFile. PENDING: it completes later, into `output`.
    pub fn fs_control_file(
        &self,
        handle: Handle,
        io: &Io,
        control: Control,
        input: &[u8],
        output: &Buffer,
    ) -> NtStatus {
        match self.control(handle, io, control, input, output) {
            Ok(status) | Err(status) => status,
        }
    }

    fn control(
        &self,
        handle: Handle,
        io: &Io,
        control: Control,
        input: &[u8],
        output: &Buffer,
    ) -> NtResult<NtStatus> {
        // Those that are a read or a write under another name.
        match control {
            Control::INTERNAL_READ | Control::INTERNAL_READ_OVFLOW => {
                return Ok(self.read_file(handle, io, output));
            }
            Control::INTERNAL_WRITE => return Ok(self.write_file(handle, io, input)),
            _ => {}
        }
        let Entry { file, .. } = self.entry_with(handle, control.needs())?;
        let _turn = file.takes_its_turn()?;
        begin(&file, io)?;
        let answer = match control {
            Control::LISTEN => return listen(&file, io),
            Control::WAIT => return self.wait_pipe(&file, io, input),
            Control::FLUSH => return flush(&file, io, file.is_synchronous()),
            Control::TRANSCEIVE | Control::INTERNAL_TRANSCEIVE => {
                return transceive(&file, io, input, output);
            }
            Control::DISCONNECT => disconnect(&file).map(|()| 0),
            Control::PEEK => {
                let peeked = peek(&file, output);
                return Ok(report(&file, io, peeked));
            }
            Control::IMPERSONATE => impersonate_client(&file).map(|()| 0),
            Control::DISABLE_IMPERSONATE => match file.side() {
                Some(Side::Server) => Ok(0),
                Some(Side::Client) | None => Err(NtStatus::ILLEGAL_FUNCTION),
            },
            Control::QUERY_CLIENT_PROCESS => client_process(&file, output),
            Control::GET_CONNECTION_ATTRIBUTE | Control::GET_PIPE_ATTRIBUTE => {
                attribute(&file, input, output)
            }
            // NP-NUM-02, 03.
            _ => Err(NtStatus::NOT_SUPPORTED),
        };
        let answer = answer.map(|information| (NtStatus::SUCCESS, information));
        Ok(report(&file, io, answer))
    }

    // ---- FSCTL_PIPE_WAIT ---------------------------------------------------------------------------------------

    fn wait_pipe(&self, file: &Arc<File>, io: &Io, input: &[u8]) -> NtResult<NtStatus> {
        let Kind::Root(_) = &file.kind else {
            return Err(NtStatus::ILLEGAL_FUNCTION); // NP-WAIT-01
        };
        let (name, timeout) = wait_input(input)?;
        // At once, one way or the other (NP-WAIT-04, 05).
        match self
            .namespace()
            .wait_for(&name, Some(Duration::ZERO), &crate::Cancel::new())
        {
            Ok(()) => return Ok(report(file, io, Ok((NtStatus::SUCCESS, 0)))),
            Err(Error::TimedOut) if timeout != Timeout::After(Duration::ZERO) => {}
            Err(error) => return Err(error.status()),
        }
        if file.is_synchronous() {
            let timeout = match timeout {
                Timeout::Default => None,
                Timeout::After(after) => Some(after),
                Timeout::Never => Some(Duration::MAX),
            };
            let waited = blocking(file, &io.status, |cancel| {
                self.namespace().wait_for(&name, timeout, cancel)
            });
            let answer = status(waited).map(|()| (NtStatus::SUCCESS, 0));
            return Ok(report(file, io, answer));
        }
        let operation = Operation::broker(file, io);
        let asked = self.namespace().channel().and_then(|channel| {
            let tag = channel.next_tag();
            let ends = operation.clone();
            let notify = Box::new(move |answer: crate::Result<_>| {
                ends.finish(
                    answer
                        .and_then(done)
                        .map_or_else(|error| error.status(), |()| NtStatus::SUCCESS),
                );
            });
            channel.ask_and_go(tag, &Request::Wait(tag, name, timeout), notify)?;
            Ok((channel, tag))
        });
        match asked {
            Ok((channel, tag)) => {
                operation.asked(channel.clone(), tag);
                // Who listens after this releases it, from whatever session.
                channel.catch_up();
                Ok(NtStatus::PENDING)
            }
            Err(error) => {
                operation.never_was();
                Err(error.status())
            }
        }
    }
}

/// FILE_PIPE_WAIT_FOR_BUFFER (NP-WAIT-02, 03, 06, 10).
fn wait_input(input: &[u8]) -> NtResult<(Name, Timeout)> {
    let invalid = NtStatus::INVALID_PARAMETER;
    if input.len() < 16 {
        return Err(invalid);
    }
    let word = |at: usize| {
        let bytes = input.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let length = word(8).ok_or(invalid)? as usize;
    if length > 0xFFFD || length + 14 > input.len() {
        return Err(invalid);
    }
    let (low, high) = (word(0).ok_or(invalid)?, word(4).ok_or(invalid)?);
    let time = (u64::from(low) | u64::from(high) << 32).cast_signed();
    let timeout = match time {
        _ if input[12] == 0 => Timeout::Default,
        i64::MIN | FAR_FUTURE.. => Timeout::Never,
        relative @ ..=0 => Timeout::After(hundreds_of_ns(relative.unsigned_abs())),
        absolute => Timeout::After(until(absolute.unsigned_abs())),
    };
    let name = input[14..14 + length].chunks_exact(2);
    let units = name
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let name = Name::from_units(units).map_err(|_| NtStatus::OBJECT_NAME_NOT_FOUND)?;
    Ok((name, timeout))
}

/// Absolute times from here on mean for ever: the year 9999 or so, in 100 ns since 1601.
const FAR_FUTURE: i64 = 0x24C8_5A5E_D1C0_4000;

/// How long it is until an absolute time in 100 ns since 1601.
fn until(absolute: u64) -> Duration {
    let since_1970 = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    /// Seconds from 1601 to 1970.
    const EPOCH: u64 = 11_644_473_600;
    let now = since_1970 + Duration::from_secs(EPOCH);
    hundreds_of_ns(absolute).saturating_sub(now)
}

// ---- FSCTL_PIPE_LISTEN, FSCTL_PIPE_DISCONNECT ----------------------------------------------------------------------

/// Listens that pend in this process: an open completes them before it returns (NP-OPEN-10, NP-IO-13).
static LISTENS: Mutex<Vec<(Weak<ServerEnd>, Weak<Operation>)>> = Mutex::new(Vec::new());

/// A client has opened something.
pub(super) fn listens_complete() {
    let pended: Vec<(Arc<ServerEnd>, Arc<Operation>)> = {
        let mut listens = lock(&LISTENS);
        listens.retain(|(_, operation)| operation.strong_count() != 0);
        let both = |(end, operation): &(Weak<ServerEnd>, Weak<Operation>)| {
            Some((end.upgrade()?, operation.upgrade()?))
        };
        listens.iter().filter_map(both).collect()
    };
    for (end, operation) in pended {
        end.hear();
        if end.is_connected() {
            operation.finish(NtStatus::SUCCESS);
        }
    }
}

fn listen(file: &Arc<File>, io: &Io) -> NtResult<NtStatus> {
    let Kind::Server(end) = &file.kind else {
        return Err(NtStatus::ILLEGAL_FUNCTION); // NP-LISTEN-05, 06
    };
    // A client may have come already.
    end.hear();
    match file.state() {
        Some(State::Connected) => return Err(NtStatus::PIPE_CONNECTED),
        Some(State::Closing) => return Err(NtStatus::PIPE_CLOSING),
        _ => {}
    }
    let queues = end.modes().1 == CompletionMode::Queue;
    if file.is_synchronous() || !queues {
        let listened = blocking(file, &io.status, |cancel| {
            end.listen(cancel, Deadline::NEVER)
        });
        let answer = status(listened).map(|()| (NtStatus::SUCCESS, 0));
        return Ok(report(file, io, answer));
    }
    let operation = Operation::broker(file, io);
    let ends = operation.clone();
    let asked = end.listen_and_go(Box::new(move |answer| {
        ends.finish(match answer.and_then(done) {
            // It was told that it pends: a client that came before the broker heard of it came during the listen.
            Ok(()) | Err(Error::AlreadyConnected | Error::Closing) => NtStatus::SUCCESS,
            Err(error) => error.status(),
        });
    }));
    match asked {
        Ok((channel, tag)) => {
            operation.asked(channel.clone(), tag);
            let mut listens = lock(&LISTENS);
            listens.retain(|(_, operation)| operation.strong_count() != 0);
            listens.push((Arc::downgrade(end), Arc::downgrade(&operation)));
            drop(listens);
            // Who opens after this finds it listening, from whatever session.
            channel.catch_up();
            Ok(NtStatus::PENDING)
        }
        Err(error) => {
            operation.never_was();
            Err(error.status())
        }
    }
}

fn disconnect(file: &File) -> NtResult<()> {
    let Kind::Server(end) = &file.kind else {
        let client = file.side() == Some(Side::Client);
        let connected = client && file.state() != Some(State::Disconnected);
        return Err(if connected {
            NtStatus::ILLEGAL_FUNCTION // NP-DISC-05
        } else {
            NtStatus::PIPE_DISCONNECTED // NP-DISC-06
        });
    };
    let conn = end.shared().ok();
    let answer = status(end.disconnect());
    if let Some(conn) = conn {
        REACTOR.settle(&conn); // NP-DISC-08
    }
    answer
}

// ---- FSCTL_PIPE_PEEK, FSCTL_PIPE_TRANSCEIVE ------------------------------------------------------------------------

fn peek(file: &File, output: &Buffer) -> NtResult<(NtStatus, usize)> {
    let mut out = vec![0; output.len()];
    if out.len() < PEEK_HEADER {
        return Err(NtStatus::INVALID_PARAMETER); // NP-PEEK-01
    }
    let conn = file.conn_if_any(NtStatus::INVALID_PARAMETER)?; // NP-PEEK-03
    // NP-PEEK-02: a server end that listens, or is disconnected.
    let conn = conn.ok_or(NtStatus::INVALID_PIPE_STATE)?;
    let (header, data) = out.split_at_mut(PEEK_HEADER);
    let peek = conn.peek(data).map_err(|error| file.why(error, false))?;
    if peek.copied != 0 {
        file.has_consumed(conn.id(), npfs_ringbuf::Read::Whole(peek.copied)); // NP-IMP-04
    }
    let state = match peek.state {
        npfs_ringbuf::State::Closing => State::Closing,
        _ => State::Connected,
    };
    let available = u32::try_from(peek.available).unwrap_or(u32::MAX);
    let length = u32::try_from(peek.message_len).unwrap_or(u32::MAX);
    for (at, number) in [state.number(), available, peek.messages, length]
        .into_iter()
        .enumerate()
    {
        header[4 * at..4 * at + 4].copy_from_slice(&number.to_le_bytes());
    }
    // NP-PEEK-07, 08.
    let no_room = data.is_empty() && peek.available != 0;
    let status = if peek.partial || no_room {
        NtStatus::BUFFER_OVERFLOW
    } else {
        NtStatus::SUCCESS
    };
    let information = PEEK_HEADER + peek.copied;
    output.fill(&out[..information]);
    Ok((status, information))
}

fn transceive(file: &Arc<File>, io: &Io, input: &[u8], output: &Buffer) -> NtResult<NtStatus> {
    let conn = file.conn_if_any(NtStatus::PIPE_DISCONNECTED)?;
    let conn = conn.ok_or(NtStatus::INVALID_PIPE_STATE)?; // NP-XCV-01
    let room = output.len();
    if file.is_synchronous() {
        let mut reply = vec![0; room];
        let read = blocking(file, &io.status, |cancel| {
            conn.transact_with(input, &mut reply, &cancel.wait, Deadline::NEVER)
        });
        REACTOR.settle(&conn);
        let answer = status(read.map_err(Error::from)).map(|read| {
            output.fill(&reply[..read.count()]);
            file.has_consumed(conn.id(), read);
            of_read(read)
        });
        return Ok(report(file, io, answer));
    }
    let start = || Started::transact(&conn, input, vec![0; room].into());
    let started = status(REACTOR.insist(&conn, PATIENCE, start).map_err(Error::from))?;
    // It always pends first (NP-XCV-05).
    Operation::ring(file.clone(), io, started, Some(output.clone()));
    Ok(NtStatus::PENDING)
}

// ---- who the other end is ------------------------------------------------------------------------------------------

/// The client of a server end, while there is one; a client end is its own.
fn client_of(file: &File) -> NtResult<(Peer, Quality)> {
    match &file.kind {
        Kind::Server(end) => end.client().map_err(|_| NtStatus::NOT_FOUND),
        Kind::Client(_) if file.refuses_queries() => Err(NtStatus::PIPE_DISCONNECTED),
        Kind::Client(end) => Ok((end.origin(), Quality::default())),
        Kind::Volume | Kind::Root(_) => Err(NtStatus::INVALID_PARAMETER),
    }
}

fn server_of(file: &File) -> NtResult<Peer> {
    match &file.kind {
        Kind::Server(end) => Ok(end.origin()),
        Kind::Client(_) if file.refuses_queries() => Err(NtStatus::PIPE_DISCONNECTED),
        Kind::Client(end) => Ok(end.server),
        Kind::Volume | Kind::Root(_) => Err(NtStatus::INVALID_PARAMETER),
    }
}

/// FSCTL_PIPE_IMPERSONATE (section 20).
fn impersonate_client(file: &File) -> NtResult<()> {
    let Kind::Server(end) = &file.kind else {
        return Err(NtStatus::ILLEGAL_FUNCTION); // NP-IMP-01
    };
    let none = NtStatus::CANNOT_IMPERSONATE; // NP-IMP-02
    let conn = end.shared().map_err(|_| none)?;
    let (client, quality) = end.client().map_err(|_| none)?;
    // NP-IMP-04: dynamic tracking needs something that was read.
    if !quality.contains(Quality::STATIC) && !file.consumed_of(conn.id()) {
        return Err(none);
    }
    impersonate(Identity::of(client, quality, sys::uid()));
    Ok(())
}

/// FSCTL_PIPE_QUERY_CLIENT_PROCESS: session and process, of pointer size each.
fn client_process(file: &File, output: &Buffer) -> NtResult<usize> {
    let (client, _) = client_of(file)?;
    if output.len() < 16 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let both = [client.session, client.pid].map(|id| u64::from(id).to_le_bytes());
    output.fill(both.as_flattened());
    Ok(16)
}

/// Section 21.
fn attribute(file: &File, input: &[u8], output: &Buffer) -> NtResult<usize> {
    if file.side().is_none() {
        return Err(NtStatus::INVALID_PARAMETER); // NP-ATTR-06
    }
    let name = match input.split_last() {
        Some((0, name)) => name,
        _ => return Err(NtStatus::INVALID_PARAMETER), // NP-ATTR-01: with its NUL
    };
    let number = match name {
        b"ClientProcessId" => client_of(file)?.0.pid,
        b"ClientSessionId" => client_of(file)?.0.session,
        b"ServerProcessId" => server_of(file)?.pid,
        b"ServerSessionId" => server_of(file)?.session,
        _ if file.refuses_queries() => return Err(NtStatus::PIPE_DISCONNECTED),
        _ => return Err(NtStatus::NOT_FOUND), // NP-ATTR-07
    };
    if output.len() < 4 {
        return Err(NtStatus::BUFFER_TOO_SMALL); // NP-ATTR-05
    }
    output.fill(&number.to_le_bytes());
    Ok(4)
}
