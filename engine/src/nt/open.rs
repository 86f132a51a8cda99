//! NtCreateNamedPipeFile, NtCreateFile and NtOpenFile: sections 3 to 5 of the specification.

use std::{sync::Arc, time::Duration};

use bitflags::bitflags;

use npfs_ringbuf::{CompletionMode, PipeType, ReadMode};

use super::{
    Handle, Nt, NtResult,
    directory::Listing,
    file::{File, Kind, Side, status},
};
use crate::{
    Direction, Mask, Name, NtStatus,
    client::{Answer, Channel, ClientEnd},
    npfs::{Create, Disposition, EndId, Quality, Wanted},
    security::SecurityDescriptor,
    wire::Request,
};

bitflags! {
    /// ShareAccess.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Share: u32 {
        /// FILE_SHARE_READ: of a pipe, that clients may read.
        const READ = 1;
        /// FILE_SHARE_WRITE: of a pipe, that clients may write.
        const WRITE = 2;
        /// FILE_SHARE_DELETE; not with pipes.
        const DELETE = 4;

        const _ = !0;
    }
}

bitflags! {
    /// CreateOptions.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Options: u32 {
        /// FILE_WRITE_THROUGH; without effect (NP-WRITE-15).
        const WRITE_THROUGH = 0x2;
        /// FILE_SYNCHRONOUS_IO_ALERT.
        const SYNCHRONOUS_ALERT = 0x10;
        /// FILE_SYNCHRONOUS_IO_NONALERT.
        const SYNCHRONOUS = 0x20;

        const _ = !0;
    }
}

impl Options {
    /// Whether calls on the file object wait for their end.
    #[must_use]
    pub fn is_synchronous(self) -> bool {
        self.intersects(Options::SYNCHRONOUS_ALERT | Options::SYNCHRONOUS)
    }

    /// FileModeInformation: those that say how calls go (NP-INFO-17).
    pub(super) fn mode(self) -> u32 {
        let mode = Options::WRITE_THROUGH | Options::SYNCHRONOUS_ALERT | Options::SYNCHRONOUS;
        (self & mode).bits()
    }

    /// NP-CREATE-04.
    fn check(self, access: Mask) -> NtResult<()> {
        if self.contains(Options::SYNCHRONOUS_ALERT | Options::SYNCHRONOUS)
            || self.is_synchronous() && !access.map_generic().contains(Mask::SYNCHRONIZE)
        {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        Ok(())
    }
}

/// OBJECT_ATTRIBUTES: what is meant, and what goes with it.
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    /// RootDirectory.
    pub root: Option<Handle>,
    /// ObjectName.
    pub name: &'a [u16],
    /// Of a pipe that is made.
    pub security: Option<SecurityDescriptor>,
    /// Of an open: what the server may do in the client's name.
    pub quality: Option<Quality>,
    /// Of a create and of an open: the connection has memory of its own, so that its ends can always be given to another
    /// user's process ([`Nt::give_to_user`]). Without it all connections of two processes are in one mapping, and only one that is alone there
    /// can be given so.
    pub apart: bool,
}

impl<'a> Attributes<'a> {
    /// By a whole path.
    #[must_use]
    pub fn named(name: &'a [u16]) -> Attributes<'a> {
        Attributes {
            name,
            ..Attributes::default()
        }
    }

    /// By a path from an open object.
    #[must_use]
    pub fn relative(root: Handle, name: &'a [u16]) -> Attributes<'a> {
        Attributes {
            root: Some(root),
            ..Attributes::named(name)
        }
    }
}

/// What NtCreateNamedPipeFile is told besides.
#[derive(Clone, Copy, Debug)]
pub struct CreatePipe {
    /// DesiredAccess.
    pub access: Mask,
    /// ShareAccess, which is the pipe's direction (NP-CREATE-12).
    pub share: Share,
    /// CreateDisposition: 1 OPEN, 2 CREATE, 3 OPEN_IF.
    pub disposition: u32,
    /// CreateOptions.
    pub options: Options,
    /// NamedPipeType: 0 bytes, 1 messages; with 2, remote clients are rejected (NP-SEC-07).
    pub pipe_type: u32,
    /// ReadMode: 0 bytes, 1 messages.
    pub read_mode: u32,
    /// CompletionMode: 0 QUEUE, 1 COMPLETE.
    pub completion_mode: u32,
    /// MaximumInstances.
    pub max_instances: u32,
    /// InboundQuota, bytes.
    pub in_quota: u32,
    /// OutboundQuota, bytes.
    pub out_quota: u32,
    /// DefaultTimeout in 100 ns, negative: relative.
    pub default_timeout: Option<i64>,
}

impl Default for CreatePipe {
    /// A duplex message pipe, asynchronous, of any number of instances, 4096 bytes each way.
    fn default() -> CreatePipe {
        CreatePipe {
            access: Mask::GENERIC_READ | Mask::GENERIC_WRITE | Mask::SYNCHRONIZE,
            share: Share::READ | Share::WRITE,
            disposition: 3,
            options: Options::empty(),
            pipe_type: 1,
            read_mode: 1,
            completion_mode: 0,
            max_instances: u32::MAX,
            in_quota: 4096,
            out_quota: 4096,
            default_timeout: Some(WIN32_DEFAULT),
        }
    }
}

/// IOSB.Information of an open.
pub const FILE_OPENED: u32 = 1;
/// IOSB.Information of a create that made the pipe.
pub const FILE_CREATED: u32 = 2;

/// 50 ms (NP-LIM-02).
const WIN32_DEFAULT: i64 = -500_000;

/// What a name leads to.
enum Place {
    Volume,
    Root,
    /// A pipe of that name.
    Pipe(Name),
    /// An empty name, relative to the root.
    Unnamed,
    /// An empty name, relative to the end of a pipe.
    At(Arc<File>),
}

impl Nt {
    /// Where a name leads (section 3).
    fn place(&self, at: &Attributes<'_>) -> NtResult<Place> {
        let invalid = Err(NtStatus::OBJECT_NAME_INVALID);
        let Some(root) = at.root else {
            return absolute(at.name);
        };
        let file = self.entry(root)?.file;
        match (&file.kind, at.name) {
            (Kind::Volume, _) => invalid, // NP-NAME-10
            (Kind::Root(_), []) => Ok(Place::Unnamed),
            (Kind::Root(_), [first, ..]) if *first == BACKSLASH => invalid, // NP-NAME-10
            (Kind::Root(_), name) => pipe(name),
            (Kind::Server(_) | Kind::Client(_), []) => Ok(Place::At(file)), // NP-NAME-12
            (Kind::Server(_) | Kind::Client(_), _) => invalid,
        }
    }

    /// NtCreateNamedPipeFile: the handle, and FILE_CREATED or FILE_OPENED.
    ///
    /// # Errors
    /// Section 4 of the specification.
    pub fn create_named_pipe(
        &self,
        at: &Attributes<'_>,
        create: &CreatePipe,
    ) -> NtResult<(Handle, u32)> {
        let invalid = NtStatus::INVALID_PARAMETER;
        // Section 4.1, in its order.
        let direction = match create.share {
            share if share == Share::READ | Share::WRITE => Direction::Duplex,
            Share::READ => Direction::Outbound,
            Share::WRITE => Direction::Inbound,
            _ => return Err(invalid), // NP-CREATE-01
        };
        let disposition = match create.disposition {
            1 => Disposition::Open,
            2 => Disposition::Create,
            3 => Disposition::OpenIf,
            5 if self.is_for_wine() => Disposition::OpenIf,
            _ => return Err(invalid), // NP-CREATE-02
        };
        let known = Options::WRITE_THROUGH | Options::SYNCHRONOUS_ALERT | Options::SYNCHRONOUS;
        if !known.contains(create.options) {
            return Err(invalid); // NP-CREATE-03
        }
        create.options.check(create.access)?;
        let pipe_type = match create.pipe_type & !REJECT_REMOTE {
            0 => PipeType::Byte,
            1 => PipeType::Message,
            _ => return Err(invalid), // NP-CREATE-05
        };
        let (read, completion) = modes(create.read_mode, create.completion_mode)?;
        if pipe_type == PipeType::Byte && read == ReadMode::Message {
            return Err(invalid); // NP-CREATE-06
        }
        let name = match self.place(at)? {
            Place::Pipe(name) => Some(name),
            Place::Unnamed => None, // NP-NAME-11
            Place::Volume | Place::Root | Place::At(_) => {
                return Err(NtStatus::OBJECT_NAME_INVALID); // NP-NAME-07
            }
        };
        let timeout = match create.default_timeout {
            Some(0) if self.is_for_wine() => Some(WIN32_DEFAULT),
            other => other,
        };
        // What is no relative time is refused where a first instance is made (NP-CREATE-10).
        let timeout = timeout.filter(|time| *time < 0);
        let create_request = Create {
            name,
            access: create.access,
            direction,
            disposition,
            pipe_type,
            max_instances: create.max_instances,
            in_quota: create.in_quota,
            out_quota: create.out_quota,
            default_timeout: timeout.map(|time| hundreds_of_ns(time.unsigned_abs())),
            security: at.security.clone(),
            apart: at.apart,
        };
        let (end, first) = status(self.namespace().create_and_tell(&create_request))?;
        // A pipe of bytes, of another's making, has no messages to read (NP-CREATE-24).
        let read = if end.pipe_type == PipeType::Byte {
            ReadMode::Byte
        } else {
            read
        };
        let granted = end.granted;
        status(end.set_modes(read, completion))?;
        let file = File::new(Kind::Server(end), create.options);
        let handle = self.insert(&file, granted)?;
        Ok((handle, if first { FILE_CREATED } else { FILE_OPENED }))
    }

    /// NtCreateFile, NtOpenFile: the client end of a pipe, the volume or the root. The share access and the disposition
    /// that these are given mean nothing here (NP-OPEN-08).
    ///
    /// # Errors
    /// Section 5 of the specification.
    pub fn open_file(
        &self,
        at: &Attributes<'_>,
        access: Mask,
        _disposition: u32,
        options: u32,
    ) -> NtResult<(Handle, u32)> {
        let options = Options::from_bits_retain(options);
        options.check(access)?;
        let (kind, granted) = match self.place(at)? {
            Place::Volume => (Kind::Volume, access.map_generic()),
            Place::Root | Place::Unnamed => {
                (Kind::Root(Listing::default().into()), access.map_generic())
            }
            Place::Pipe(name) => self.open_end(&Target::Name(name), access, at)?,
            Place::At(file) => {
                let (channel, end) = file.known_as()?;
                if file.side() == Some(Side::Client) && file.refuses_queries() {
                    return Err(NtStatus::PIPE_DISCONNECTED);
                }
                self.open_end(&Target::End(channel, end), access, at)?
            }
        };
        let handle = self.insert(&File::new(kind, options), granted)?;
        Ok((handle, FILE_OPENED))
    }

    fn open_end(
        &self,
        target: &Target,
        access: Mask,
        at: &Attributes<'_>,
    ) -> NtResult<(Kind, Mask)> {
        // NP-IMP-03: without data access in both directions the default.
        let data = Mask::FILE_READ_DATA | Mask::FILE_WRITE_DATA;
        let quality = at
            .quality
            .filter(|_| access.map_generic().contains(data))
            .unwrap_or_default();
        let wanted = Wanted {
            access,
            quality,
            apart: at.apart,
        };
        let answer = match target {
            Target::Name(name) => self
                .namespace()
                .ask(|channel, tag| channel.ask(tag, &Request::Open(tag, name.clone(), wanted))),
            // Of the broker that knows the end, and no other: there its number may be another's.
            Target::End(channel, end) => {
                let tag = channel.next_tag();
                let request = Request::OpenAt(tag, *end, wanted);
                channel
                    .ask(tag, &request)
                    .map(|answer| (channel.clone(), answer))
            }
        };
        let (channel, answer) = status(answer)?;
        let Answer::Opened {
            end,
            granted,
            conn,
            server,
        } = answer
        else {
            return Err(NtStatus::REVISION_MISMATCH);
        };
        super::control::listens_complete();
        let client = ClientEnd::new(*conn, channel, end, granted, server);
        Ok((Kind::Client(client), granted))
    }
}

enum Target {
    Name(Name),
    End(Arc<Channel>, EndId),
}

/// Read and completion mode from their numbers.
pub(super) fn modes(read: u32, completion: u32) -> NtResult<(ReadMode, CompletionMode)> {
    let read = match read {
        0 => ReadMode::Byte,
        1 => ReadMode::Message,
        _ => return Err(NtStatus::INVALID_PARAMETER),
    };
    let completion = match completion {
        0 => CompletionMode::Queue,
        1 => CompletionMode::Complete,
        _ => return Err(NtStatus::INVALID_PARAMETER),
    };
    Ok((read, completion))
}

/// So many times 100 ns.
pub(super) fn hundreds_of_ns(count: u64) -> Duration {
    Duration::from_nanos(count.saturating_mul(100))
}

/// A path from the root of the object manager (NP-NAME-01, 07, 09).
fn absolute(name: &[u16]) -> NtResult<Place> {
    for prefix in PREFIXES {
        let length = prefix.len();
        let same = name.len() >= length
            && name.iter().zip(prefix.bytes()).all(|(unit, byte)| {
                u8::try_from(*unit).is_ok_and(|unit| unit.eq_ignore_ascii_case(&byte))
            });
        if same {
            return match &name[length..] {
                [] => Ok(Place::Volume),
                [first] if *first == BACKSLASH => Ok(Place::Root),
                [first, name @ ..] if *first == BACKSLASH => pipe(name),
                // `\Device\NamedPipeX`: another device.
                _ => Err(NtStatus::OBJECT_NAME_NOT_FOUND),
            };
        }
    }
    match name.first() {
        Some(&BACKSLASH) => Err(NtStatus::OBJECT_NAME_NOT_FOUND),
        _ => Err(NtStatus::OBJECT_NAME_INVALID),
    }
}

fn pipe(name: &[u16]) -> NtResult<Place> {
    match Name::from_units(name.to_vec()) {
        Ok(name) => Ok(Place::Pipe(name)),
        Err(_) => Err(NtStatus::OBJECT_NAME_INVALID),
    }
}

const PREFIXES: [&str; 3] = [r"\??\pipe", r"\DosDevices\pipe", r"\Device\NamedPipe"];
const BACKSLASH: u16 = b'\\' as u16;
/// FILE_PIPE_REJECT_REMOTE_CLIENTS: there are none (NP-SEC-07).
const REJECT_REMOTE: u32 = 2;
