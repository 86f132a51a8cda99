//! NtQueryInformationFile, NtSetInformationFile, NtQueryVolumeInformationFile and the security of an object: sections 6,
//! 18 and 19 of the specification.

use std::sync::atomic::Ordering;

use npfs_ringbuf::PipeType;

use super::{
    Entry, Handle, Nt, NtResult,
    file::{File, Kind, Side, status},
    io::StatusBlock,
    open::modes,
};
use crate::{
    Direction, Error, Mask, NtStatus,
    client::{Answer, done},
    npfs::{EndInfo, SecurityParts, State},
    security::SecurityDescriptor,
    wire::{Reply, Request},
};

/// FILE_INFORMATION_CLASS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoClass(pub u32);

#[allow(
    missing_docs,
    reason = "File, the name, and Information, as ntifs.h has it"
)]
impl InfoClass {
    pub const BASIC: InfoClass = InfoClass(4);
    pub const STANDARD: InfoClass = InfoClass(5);
    pub const INTERNAL: InfoClass = InfoClass(6);
    pub const EA: InfoClass = InfoClass(7);
    pub const ACCESS: InfoClass = InfoClass(8);
    pub const NAME: InfoClass = InfoClass(9);
    pub const POSITION: InfoClass = InfoClass(14);
    pub const MODE: InfoClass = InfoClass(16);
    pub const ALIGNMENT: InfoClass = InfoClass(17);
    pub const ALL: InfoClass = InfoClass(18);
    pub const PIPE: InfoClass = InfoClass(23);
    pub const PIPE_LOCAL: InfoClass = InfoClass(24);
    pub const PIPE_REMOTE: InfoClass = InfoClass(25);
    pub const COMPLETION: InfoClass = InfoClass(30);
    pub const IO_COMPLETION_NOTIFICATION: InfoClass = InfoClass(41);
}

/// FS_INFORMATION_CLASS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeClass(pub u32);

#[allow(
    missing_docs,
    reason = "FileFs, the name, and Information, as ntifs.h has it"
)]
impl VolumeClass {
    pub const VOLUME: VolumeClass = VolumeClass(1);
    pub const SIZE: VolumeClass = VolumeClass(3);
    pub const DEVICE: VolumeClass = VolumeClass(4);
    pub const ATTRIBUTE: VolumeClass = VolumeClass(5);
    pub const FULL_SIZE: VolumeClass = VolumeClass(7);
}

const FILE_ATTRIBUTE_NORMAL: u32 = 0x80;
const FILE_DEVICE_NAMED_PIPE: u32 = 0x11;

/// A structure under construction; little-endian.
#[derive(Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn u8(&mut self, number: u8) -> &mut Bytes {
        self.0.push(number);
        self
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Bytes {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Bytes {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn units(&mut self, units: &[u16]) -> &mut Bytes {
        self.0
            .extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        self
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Bytes {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

impl Nt {
    /// NtQueryInformationFile.
    pub fn query_information_file(
        &self,
        handle: Handle,
        io: &StatusBlock,
        class: InfoClass,
        out: &mut [u8],
    ) -> NtStatus {
        let answer = self.query(handle, class, out);
        write_back(io, answer)
    }

    fn query(
        &self,
        handle: Handle,
        class: InfoClass,
        out: &mut [u8],
    ) -> NtResult<(NtStatus, usize)> {
        let Entry { file, granted } = self.entry(handle)?;
        if let Kind::Root(_) = file.kind
            && class == InfoClass::NAME
        {
            return put_name(out, &Bytes::default(), &[u16::from(b'\\')]); // NP-INFO-16
        }
        if file.side().is_none() {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        if file.refuses_queries() {
            return Err(NtStatus::PIPE_DISCONNECTED); // NP-INFO-01
        }
        let needed = match class {
            InfoClass::PIPE | InfoClass::PIPE_LOCAL => Mask::FILE_READ_ATTRIBUTES,
            _ => Mask::empty(),
        };
        if !granted.contains(needed) {
            return Err(NtStatus::ACCESS_DENIED); // NP-INFO-02
        }
        let mut bytes = Bytes::default();
        match class {
            InfoClass::BASIC => basic(&mut bytes),
            InfoClass::STANDARD => standard(&mut bytes, &file)?,
            InfoClass::INTERNAL => internal(&mut bytes, &file)?,
            InfoClass::EA | InfoClass::ALIGNMENT => {
                bytes.u32(0);
            }
            InfoClass::ACCESS => {
                bytes.u32(granted.bits());
            }
            InfoClass::NAME => {
                return put_name(out, &bytes, &name_of(&file.describe()?));
            }
            InfoClass::POSITION => {
                bytes.u64(readable(&file)?);
            }
            InfoClass::MODE => {
                bytes.u32(file.options.mode());
            }
            InfoClass::ALL => {
                basic(&mut bytes);
                standard(&mut bytes, &file)?;
                internal(&mut bytes, &file)?;
                bytes
                    .u32(0)
                    .u32(granted.bits())
                    .u64(readable(&file)?)
                    .u32(file.options.mode())
                    .u32(0);
                return put_name(out, &bytes, &name_of(&file.describe()?)); // NP-INFO-17
            }
            InfoClass::PIPE => {
                let (read, completion) = match &file.kind {
                    Kind::Server(end) => end.modes(),
                    Kind::Client(end) => (end.conn.read_mode(), end.conn.completion_mode()),
                    Kind::Volume | Kind::Root(_) => return Err(NtStatus::INVALID_PARAMETER),
                };
                let message = read == npfs_ringbuf::ReadMode::Message;
                let complete = completion == npfs_ringbuf::CompletionMode::Complete;
                bytes.u32(u32::from(message)).u32(u32::from(complete));
            }
            InfoClass::PIPE_LOCAL => local(&mut bytes, &file)?,
            _ => return Err(NtStatus::INVALID_PARAMETER), // NP-INFO-18
        }
        let room = out
            .get_mut(..bytes.0.len())
            .ok_or(NtStatus::INFO_LENGTH_MISMATCH)?; // NP-INFO-03
        room.copy_from_slice(&bytes.0);
        Ok((NtStatus::SUCCESS, bytes.0.len()))
    }

    /// NtSetInformationFile.
    pub fn set_information_file(
        &self,
        handle: Handle,
        io: &StatusBlock,
        class: InfoClass,
        data: &[u8],
    ) -> NtStatus {
        let answer = self.set(handle, class, data);
        write_back(io, answer.map(|()| (NtStatus::SUCCESS, 0)))
    }

    fn set(&self, handle: Handle, class: InfoClass, data: &[u8]) -> NtResult<()> {
        let Entry { file, granted } = self.entry(handle)?;
        if class == InfoClass::IO_COMPLETION_NOTIFICATION {
            let flags = word(data, 0).ok_or(NtStatus::INFO_LENGTH_MISMATCH)?;
            let notes = &file.notes;
            notes.skip_port.fetch_or(flags & 1 != 0, Ordering::SeqCst); // NP-IO-08
            notes.skip_signal.fetch_or(flags & 2 != 0, Ordering::SeqCst);
            return Ok(());
        }
        if file.side().is_none() {
            return Err(NtStatus::INVALID_PARAMETER); // NP-INFO-16
        }
        if file.refuses_queries() {
            return Err(NtStatus::PIPE_DISCONNECTED);
        }
        match class {
            InfoClass::BASIC if data.len() >= 40 => Ok(()), // NP-INFO-13
            InfoClass::BASIC => Err(NtStatus::INFO_LENGTH_MISMATCH),
            InfoClass::PIPE => {
                if !granted.contains(Mask::FILE_WRITE_ATTRIBUTES) {
                    return Err(NtStatus::ACCESS_DENIED); // NP-INFO-02
                }
                let short = NtStatus::INFO_LENGTH_MISMATCH;
                let (read, completion) = (word(data, 0), word(data, 4));
                let (read, completion) = modes(read.ok_or(short)?, completion.ok_or(short)?)?;
                match &file.kind {
                    Kind::Server(end) => status(end.set_modes(read, completion)),
                    Kind::Client(end) => {
                        status(end.conn.set_modes(read, completion).map_err(Error::from))
                    }
                    Kind::Volume | Kind::Root(_) => Err(NtStatus::INVALID_PARAMETER),
                }
            }
            _ => Err(NtStatus::INVALID_PARAMETER), // NP-INFO-18
        }
    }

    /// NtSetInformationFile of FileCompletionInformation: completions of calls with a context go to that port (NP-IO-07).
    ///
    /// # Errors
    /// INVALID_PARAMETER: the file object has one already, or is synchronous. INVALID_HANDLE.
    pub fn set_completion_port(
        &self,
        handle: Handle,
        port: &super::Port,
        key: usize,
    ) -> NtResult<()> {
        let file = self.entry(handle)?.file;
        if file.is_synchronous() || file.notes.port.set((port.clone(), key)).is_err() {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        // Who waits for it already may have something to wait for now.
        crate::reactor::REACTOR.ring_alarm();
        Ok(())
    }

    /// NtQueryVolumeInformationFile (NP-VOL-01 to 04).
    pub fn query_volume_information_file(
        &self,
        handle: Handle,
        io: &StatusBlock,
        class: VolumeClass,
        out: &mut [u8],
    ) -> NtStatus {
        let answer = self.entry(handle).and_then(|_| volume(class, out));
        write_back(io, answer)
    }

    /// NtQuerySecurityObject: those parts, self-relative (NP-SEC-01, 02).
    ///
    /// # Errors
    /// ACCESS_DENIED without READ_CONTROL; PIPE_DISCONNECTED; INVALID_PARAMETER for the volume and the root.
    pub fn query_security_object(
        &self,
        handle: Handle,
        parts: SecurityParts,
    ) -> NtResult<SecurityDescriptor> {
        let Entry { file, granted } = self.entry(handle)?;
        if file.refuses_queries() {
            return Err(NtStatus::PIPE_DISCONNECTED); // NP-SEC-02
        }
        if !granted.contains(Mask::READ_CONTROL) {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let (channel, end) = file.known_as()?;
        let tag = channel.next_tag();
        match status(channel.ask(tag, &Request::Security(tag, end, parts)))? {
            Answer::Reply(Reply::Security(_, security)) => Ok(*security),
            _ => Err(NtStatus::REVISION_MISMATCH),
        }
    }

    /// NtSetSecurityObject (NP-SEC-01, 02).
    ///
    /// # Errors
    /// ACCESS_DENIED without WRITE_DAC or WRITE_OWNER; INVALID_OWNER; INVALID_SECURITY_DESCR; PIPE_DISCONNECTED;
    /// INVALID_PARAMETER for the volume and the root.
    pub fn set_security_object(
        &self,
        handle: Handle,
        parts: SecurityParts,
        security: &SecurityDescriptor,
    ) -> NtResult<()> {
        let Entry { file, granted } = self.entry(handle)?;
        if file.refuses_queries() {
            return Err(NtStatus::PIPE_DISCONNECTED); // NP-SEC-02
        }
        let mut needed = Mask::empty();
        needed.set(Mask::WRITE_DAC, parts.contains(SecurityParts::DACL));
        let owner = SecurityParts::OWNER | SecurityParts::GROUP;
        needed.set(Mask::WRITE_OWNER, parts.intersects(owner));
        if !granted.contains(needed) {
            return Err(NtStatus::ACCESS_DENIED);
        }
        if security.to_bytes().is_err() {
            return Err(NtStatus::INVALID_SECURITY_DESCR);
        }
        let (channel, end) = file.known_as()?;
        let tag = channel.next_tag();
        let request = Request::SetSecurity(tag, end, parts, Box::new(security.clone()));
        status(channel.ask(tag, &request).and_then(done))
    }

    /// NtQueryObject for a name: the whole path (NP-NAME-13).
    ///
    /// # Errors
    /// OBJECT_PATH_INVALID for a pipe without a name.
    pub fn query_object_name(&self, handle: Handle) -> NtResult<Vec<u16>> {
        let file = self.entry(handle)?.file;
        let mut name = super::units(r"\Device\NamedPipe");
        match file.kind {
            Kind::Volume => {}
            Kind::Root(_) => name.push(u16::from(b'\\')),
            Kind::Server(_) | Kind::Client(_) => {
                let info = file.describe()?;
                if info.pipe.name.units().is_empty() {
                    return Err(NtStatus::OBJECT_PATH_INVALID);
                }
                name.extend(name_of(&info));
            }
        }
        Ok(name)
    }
}

/// Outcome (a) or (b) of NP-IO-01.
pub(super) fn write_back(io: &StatusBlock, answer: NtResult<(NtStatus, usize)>) -> NtStatus {
    match answer {
        Ok((status, information)) => {
            io.set(status, information);
            status
        }
        Err(status) => status,
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// NP-INFO-13.
fn basic(bytes: &mut Bytes) {
    bytes.zeros(32).u32(FILE_ATTRIBUTE_NORMAL).u32(0);
}

/// NP-INFO-11.
fn standard(bytes: &mut Bytes, file: &File) -> NtResult<()> {
    let (inbound, outbound) = quotas_of(file, &file.describe()?);
    bytes
        .u64(u64::from(inbound) + u64::from(outbound))
        .u64(readable(file)?)
        .u32(1)
        .u8(1)
        .u8(0)
        .zeros(2);
    Ok(())
}

/// An id that no other open file has (NP-INFO-13).
fn internal(bytes: &mut Bytes, file: &File) -> NtResult<()> {
    bytes.u64(file.known_as()?.1.0.wrapping_add(1).max(1));
    Ok(())
}

/// Bytes that this end can read (NP-INFO-09, 12).
fn readable(file: &File) -> NtResult<u64> {
    match file.conn(NtStatus::INVALID_PARAMETER) {
        Ok(conn) => Ok(status(conn.info().map_err(Error::from))?.read_available),
        Err(_) => Ok(0),
    }
}

/// `\` and the name as its creator spelled it (NP-INFO-14).
fn name_of(info: &EndInfo) -> Vec<u16> {
    let mut name = vec![u16::from(b'\\')];
    name.extend(info.pipe.name.units());
    name
}

/// FILE_NAME_INFORMATION at the end of what may stand before it: as much of the name as fits (NP-INFO-03, 14).
fn put_name(out: &mut [u8], before: &Bytes, name: &[u16]) -> NtResult<(NtStatus, usize)> {
    let mut bytes = Bytes(before.0.clone());
    let length = u32::try_from(2 * name.len()).unwrap_or(u32::MAX);
    bytes.u32(length).units(name);
    // sizeof: the length, one unit, and padding.
    if out.len() < before.0.len() + 8 {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let count = bytes.0.len().min(out.len());
    out[..count].copy_from_slice(&bytes.0[..count]);
    let status = if count < bytes.0.len() {
        NtStatus::BUFFER_OVERFLOW
    } else {
        NtStatus::SUCCESS
    };
    Ok((status, count))
}

/// Of the instance: client to server, server to client (NP-INFO-08).
fn quotas_of(file: &File, info: &EndInfo) -> (u32, u32) {
    match (&file.kind, info.quotas) {
        (Kind::Client(end), _) => {
            let (incoming, outgoing) = end.conn.quotas();
            (outgoing, incoming)
        }
        (_, quotas) => quotas.unwrap_or_default(),
    }
}

/// FILE_PIPE_LOCAL_INFORMATION (NP-INFO-08 to 10).
fn local(bytes: &mut Bytes, file: &File) -> NtResult<()> {
    let info = file.describe()?;
    let state = file.state().unwrap_or(State::Disconnected);
    let server = file.side() == Some(Side::Server);
    // Of the outgoing direction, unless there is a connection to ask.
    let (inbound, outbound) = quotas_of(file, &info);
    let own_quota = if server { outbound } else { inbound };
    let (read, write) = match file.conn(NtStatus::INVALID_PARAMETER) {
        Ok(conn) => {
            let counts = status(conn.info().map_err(Error::from))?;
            (counts.read_available, counts.write_quota_available)
        }
        Err(_) => (0, own_quota),
    };
    let direction = match info.pipe.direction {
        Direction::Inbound => 0,
        Direction::Outbound => 1,
        Direction::Duplex => 2,
    };
    bytes
        .u32(u32::from(info.pipe.pipe_type == PipeType::Message))
        .u32(direction)
        .u32(info.pipe.max_instances)
        .u32(info.pipe.instances)
        .u32(inbound)
        .u32(u32::try_from(read).unwrap_or(u32::MAX))
        .u32(outbound)
        .u32(write)
        .u32(state.number())
        .u32(u32::from(server));
    Ok(())
}

fn volume(class: VolumeClass, out: &mut [u8]) -> NtResult<(NtStatus, usize)> {
    let mut bytes = Bytes::default();
    // Where a text begins that may be cut off.
    let mut fixed = None;
    match class {
        VolumeClass::DEVICE => {
            bytes.u32(FILE_DEVICE_NAMED_PIPE).u32(0); // NP-VOL-01
        }
        VolumeClass::ATTRIBUTE => {
            let name = super::units("NPFS");
            bytes.u32(0x2).u32(u32::MAX).u32(8); // NP-VOL-02
            fixed = Some(bytes.0.len());
            bytes.units(&name);
        }
        VolumeClass::VOLUME => {
            let label = super::units("NamedPipe");
            bytes.u64(0).u32(0).u32(18).u8(0).u8(0); // NP-VOL-03
            fixed = Some(bytes.0.len());
            bytes.units(&label);
        }
        VolumeClass::SIZE => {
            bytes.u64(0).u64(0).u32(1).u32(1); // NP-VOL-04
        }
        VolumeClass::FULL_SIZE => {
            bytes.zeros(32);
        }
        _ => return Err(NtStatus::NOT_SUPPORTED),
    }
    let least = fixed.unwrap_or(bytes.0.len());
    if out.len() < least {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let count = bytes.0.len().min(out.len());
    out[..count].copy_from_slice(&bytes.0[..count]);
    Ok(if count < bytes.0.len() {
        (NtStatus::BUFFER_OVERFLOW, count)
    } else {
        (NtStatus::SUCCESS, count)
    })
}
