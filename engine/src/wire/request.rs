//! What a client asks.

use std::time::Duration;

use npfs_ringbuf::{CompletionMode, ReadMode};

use super::{Put, REQUEST_HEAD, Take, VERSION, WireError, Words, length};
use crate::{
    name::{Key, Name},
    npfs::{
        Create, Disposition, EndId, Modes, Quality, SecurityParts, Tag, Timeout, Wanted,
        nanoseconds,
    },
    security::{Mask, SecurityDescriptor},
};

/// The first message of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The versions of the protocol that the client speaks.
    pub versions: (u16, u16),
    /// ABI version of the links that it maps.
    pub abi: u32,
    /// Their layout.
    pub layout: u64,
    /// Bits of its addresses: a 32-bit process gets links of at most 64 MiB.
    pub bits: u8,
}

impl Hello {
    /// This library's.
    #[must_use]
    pub fn ours() -> Hello {
        Hello {
            versions: (VERSION, VERSION),
            abi: npfs_ringbuf::ABI_VERSION,
            layout: npfs_ringbuf::layout_hash(),
            bits: if cfg!(target_pointer_width = "32") {
                32
            } else {
                64
            },
        }
    }
}

/// What a client asks. Tag 0: no answer is wanted.
#[derive(Clone, Debug)]
pub enum Request {
    /// Before anything else.
    Hello(Hello),
    /// A server end.
    Create(Tag, Box<Create>),
    /// A client end.
    Open(Tag, Name, Wanted),
    /// FSCTL_PIPE_LISTEN; the flag: it may pend.
    Listen(Tag, EndId, bool),
    /// FSCTL_PIPE_DISCONNECT.
    Disconnect(Tag, EndId),
    /// NtClose.
    Close(EndId),
    /// FSCTL_PIPE_WAIT.
    Wait(Tag, Name, Timeout),
    /// Ends the pended request of that tag. The request is answered, not this.
    Cancel(Tag),
    /// The pipes whose folded names come after this one, shard by shard.
    List(Tag, u64, Vec<u16>),
    /// One pipe, and its instances after so many.
    Info(Tag, Name, u64),
    /// A link's descriptor did not arrive: it has to come again with the next message that names the link.
    LostLink(u64),
    /// NtCreateFile with an empty name relative to an open end (NP-NAME-12).
    OpenAt(Tag, EndId, Wanted),
    /// What an end's queries have to ask.
    Describe(Tag, EndId),
    /// NtQuerySecurityObject.
    Security(Tag, EndId, SecurityParts),
    /// NtSetSecurityObject.
    SetSecurity(Tag, EndId, SecurityParts, Box<SecurityDescriptor>),
    /// A link that an earlier broker made, by its token, and this process's index in it: whoever else comes with that
    /// token hears when this process goes, and the other way round.
    Rejoin([u64; 2], u8),
    /// An end is given to whoever comes with the token that answers this: with these rights, of a server end with these
    /// modes, and with these words; to a process of that user's, or of the giver's. The giver goes on having it.
    Give(Tag, EndId, Mask, Modes, Option<u32>, Words),
    /// An end that was given away is taken, by its token.
    Take(Tag, [u64; 2]),
    /// The modes of a server end that several processes have.
    SetModes(Tag, EndId, Modes),
    /// How a server end is now that several processes have.
    Refresh(Tag, EndId),
}

const HELLO: u16 = 1;
const CREATE: u16 = 2;
const OPEN: u16 = 3;
const LISTEN: u16 = 4;
const DISCONNECT: u16 = 5;
const CLOSE: u16 = 6;
const WAIT: u16 = 7;
const CANCEL: u16 = 8;
const LIST: u16 = 9;
const INFO: u16 = 10;
const LOST_LINK: u16 = 11;
const REJOIN: u16 = 12;
const OPEN_AT: u16 = 13;
const DESCRIBE: u16 = 14;
const SECURITY: u16 = 15;
const SET_SECURITY: u16 = 16;
const GIVE: u16 = 17;
const TAKE: u16 = 18;
const SET_MODES: u16 = 19;
const REFRESH: u16 = 20;

/// Where in the head the namespace stands.
const NAMESPACE: usize = 56;
const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"npfs-ask");
/// The flag of `Listen`: it may pend; of `Create`: a default timeout is given; a descriptor is given.
const PENDS: u16 = 1;
const HAS_TIMEOUT: u16 = 1;
const HAS_SECURITY: u16 = 2;
/// Of `Create`: its connections have memory of their own; of `Open` and `OpenAt`: this one has.
const APART: u16 = 4;
/// Of `Give`: nobody in particular. No user has this number (setuid(2)).
const NO_USER: u32 = u32::MAX;
/// Of `Wait`: how the time is meant.
const WAIT_DEFAULT: u16 = 0;
const WAIT_AFTER: u16 = 1;
const WAIT_NEVER: u16 = 2;

impl Request {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut put = Put::default();
        let mut tail = Put::default();
        match self {
            Request::Hello(hello) => {
                head(&mut put, HELLO, 0, Tag(HELLO_MAGIC), EndId(hello.layout));
                put.u32(hello.abi)
                    .u16(hello.versions.0)
                    .u16(hello.versions.1)
                    .u8(hello.bits);
            }
            Request::Create(tag, create) => encode_create(&mut put, &mut tail, *tag, create),
            Request::Open(tag, name, wanted) => {
                put_wanted(&mut put, OPEN, *tag, EndId(0), *wanted);
                tail.units(name.units());
            }
            Request::Listen(tag, end, pends) => {
                head(&mut put, LISTEN, u16::from(*pends) * PENDS, *tag, *end);
            }
            Request::Disconnect(tag, end) => head(&mut put, DISCONNECT, 0, *tag, *end),
            Request::Close(end) => head(&mut put, CLOSE, 0, Tag(0), *end),
            Request::Wait(tag, name, timeout) => {
                let (how, time) = match timeout {
                    Timeout::Default => (WAIT_DEFAULT, 0),
                    Timeout::After(after) => (WAIT_AFTER, nanoseconds(*after)),
                    Timeout::Never => (WAIT_NEVER, 0),
                };
                head(&mut put, WAIT, how, *tag, EndId(time));
                tail.units(name.units());
            }
            Request::Cancel(tag) => head(&mut put, CANCEL, 0, *tag, EndId(0)),
            Request::List(tag, shard, after) => {
                head(&mut put, LIST, 0, *tag, EndId(*shard));
                tail.units(after);
            }
            Request::Info(tag, name, skip) => {
                head(&mut put, INFO, 0, *tag, EndId(*skip));
                tail.units(name.units());
            }
            Request::LostLink(link) => head(&mut put, LOST_LINK, 0, Tag(0), EndId(*link)),
            Request::OpenAt(tag, end, wanted) => put_wanted(&mut put, OPEN_AT, *tag, *end, *wanted),
            Request::Describe(tag, end) => head(&mut put, DESCRIBE, 0, *tag, *end),
            Request::Security(tag, end, parts) => {
                head(&mut put, SECURITY, 0, *tag, *end);
                put.u32(parts.bits());
            }
            Request::SetSecurity(tag, end, parts, security) => {
                head(&mut put, SET_SECURITY, 0, *tag, *end);
                put.u32(parts.bits());
                // As in `encode_create`.
                tail.bytes(&security.to_bytes().unwrap_or_default());
            }
            Request::Rejoin([low, high], index) => {
                head(&mut put, REJOIN, u16::from(*index), Tag(*low), EndId(*high));
            }
            Request::Give(tag, end, access, modes, to, words) => {
                head(&mut put, GIVE, bits_of(*modes), *tag, *end);
                put.u32(access.bits()).u32(to.unwrap_or(NO_USER));
                words.put(&mut tail);
            }
            Request::Take(tag, [low, high]) => {
                head(&mut put, TAKE, 0, *tag, EndId(*low));
                put.u64(*high);
            }
            Request::SetModes(tag, end, modes) => {
                head(&mut put, SET_MODES, bits_of(*modes), *tag, *end);
            }
            Request::Refresh(tag, end) => head(&mut put, REFRESH, 0, *tag, *end),
        }
        put.finish(REQUEST_HEAD, &tail.0)
    }

    /// From a message.
    ///
    /// # Errors
    /// [`WireError`]: it is none.
    pub fn decode(bytes: &[u8]) -> Result<Request, WireError> {
        let mut take = Take(bytes);
        let mut head = Take(take.bytes(REQUEST_HEAD)?);
        // The number of the namespace: 0 is that of pipes, and the only one so far.
        if Take(&bytes[NAMESPACE..]).u64()? != 0 {
            return Err(WireError("an unknown namespace"));
        }
        let op = head.u16()?;
        let flags = head.u16()?;
        let tail_len = head.u32()? as usize;
        let tag = Tag(head.u64()?);
        let end = EndId(head.u64()?);
        let mut tail = Take(take.bytes(tail_len)?);
        take.end()?;
        let request = match op {
            HELLO => {
                if tag.0 != HELLO_MAGIC {
                    return Err(WireError("not a client of npfs"));
                }
                Request::Hello(Hello {
                    layout: end.0,
                    abi: head.u32()?,
                    versions: (head.u16()?, head.u16()?),
                    bits: head.u8()?,
                })
            }
            CREATE => decode_create(head, flags, tag, end.0, &mut tail)?,
            OPEN => {
                let wanted = wanted(&mut head, flags)?;
                Request::Open(tag, name(&mut tail, tail_len)?, wanted)
            }
            LISTEN => Request::Listen(tag, end, flags & PENDS != 0),
            DISCONNECT => Request::Disconnect(tag, end),
            CLOSE => Request::Close(end),
            WAIT => {
                let timeout = match flags {
                    WAIT_DEFAULT => Timeout::Default,
                    WAIT_AFTER => Timeout::After(Duration::from_nanos(end.0)),
                    WAIT_NEVER => Timeout::Never,
                    _ => return Err(WireError("an unknown kind of timeout")),
                };
                Request::Wait(tag, name(&mut tail, tail_len)?, timeout)
            }
            CANCEL => Request::Cancel(tag),
            LIST => Request::List(tag, end.0, tail.units(tail_len)?),
            INFO => Request::Info(tag, name(&mut tail, tail_len)?, end.0),
            LOST_LINK => Request::LostLink(end.0),
            OPEN_AT => Request::OpenAt(tag, end, wanted(&mut head, flags)?),
            DESCRIBE => Request::Describe(tag, end),
            SECURITY => Request::Security(tag, end, SecurityParts::from_bits_retain(head.u32()?)),
            SET_SECURITY => {
                let parts = SecurityParts::from_bits_retain(head.u32()?);
                let security = SecurityDescriptor::from_bytes(tail.bytes(tail_len)?);
                let security = security.map_err(|_| WireError("not a security descriptor"))?;
                Request::SetSecurity(tag, end, parts, Box::new(security))
            }
            REJOIN => Request::Rejoin(
                [tag.0, end.0],
                u8::try_from(flags).map_err(|_| WireError("not a process's index"))?,
            ),
            GIVE => Request::Give(
                tag,
                end,
                Mask::from_bits_retain(head.u32()?),
                modes_of(flags)?,
                Some(head.u32()?).filter(|user| *user != NO_USER),
                Words::take(&mut tail)?,
            ),
            TAKE => Request::Take(tag, [end.0, head.u64()?]),
            SET_MODES => Request::SetModes(tag, end, modes_of(flags)?),
            REFRESH => Request::Refresh(tag, end),
            _ => return Err(WireError("an unknown request")),
        };
        tail.end()?;
        Ok(request)
    }
}

impl Request {
    /// The folded name that a listing goes on after; `None`: from the first.
    pub(crate) fn after(units: &[u16]) -> Option<Key> {
        (!units.is_empty()).then(|| Key::from_units(units))
    }
}

/// Both modes in two bits.
pub(super) fn bits_of((read, completion): Modes) -> u16 {
    u16::from(read == ReadMode::Message) | u16::from(completion == CompletionMode::Complete) << 1
}

pub(super) fn modes_of(bits: u16) -> Result<Modes, WireError> {
    if bits > 3 {
        return Err(WireError("modes that there are not"));
    }
    let read = if bits & 1 != 0 {
        ReadMode::Message
    } else {
        ReadMode::Byte
    };
    let completion = if bits & 2 != 0 {
        CompletionMode::Complete
    } else {
        CompletionMode::Queue
    };
    Ok((read, completion))
}

fn head(put: &mut Put, op: u16, flags: u16, tag: Tag, end: EndId) {
    put.u16(op).u16(flags).u32(0).u64(tag.0).u64(end.0);
}

fn put_wanted(put: &mut Put, op: u16, tag: Tag, end: EndId, wanted: Wanted) {
    let flags = if wanted.apart { APART } else { 0 };
    head(put, op, flags, tag, end);
    put.u32(wanted.access.bits()).u32(wanted.quality.bits());
}

fn wanted(head: &mut Take<'_>, flags: u16) -> Result<Wanted, WireError> {
    if flags & !APART != 0 {
        return Err(WireError("a wish that there is not"));
    }
    Ok(Wanted {
        access: Mask::from_bits_retain(head.u32()?),
        quality: Quality::from_bits_retain(head.u32()?),
        apart: flags & APART != 0,
    })
}

fn name(tail: &mut Take<'_>, bytes: usize) -> Result<Name, WireError> {
    Name::from_units(tail.units(bytes)?).map_err(|_| WireError("not a name"))
}

fn encode_create(put: &mut Put, tail: &mut Put, tag: Tag, create: &Create) {
    // One that cannot be encoded goes out empty, and is refused at the other side: never left out.
    let security = create.security.as_ref();
    let security = security.map(|security| security.to_bytes().unwrap_or_default());
    let mut flags = 0;
    if create.default_timeout.is_some() {
        flags |= HAS_TIMEOUT;
    }
    if security.is_some() {
        flags |= HAS_SECURITY;
    }
    if create.apart {
        flags |= APART;
    }
    let timeout = create.default_timeout.map_or(0, nanoseconds);
    // No units: a pipe without a name.
    let units = create.name.as_ref().map_or(&[][..], Name::units);
    head(put, CREATE, flags, tag, EndId(timeout));
    put.u32(create.access.bits())
        .direction(create.direction)
        .u8(match create.disposition {
            Disposition::Open => 1,
            Disposition::Create => 2,
            Disposition::OpenIf => 3,
        })
        .pipe_type(create.pipe_type)
        .u8(0)
        .u32(create.max_instances)
        .u32(create.in_quota)
        .u32(create.out_quota)
        .u32(length(2 * units.len()));
    tail.units(units);
    if let Some(security) = security {
        tail.bytes(&security);
    }
}

fn decode_create(
    mut head: Take<'_>,
    flags: u16,
    tag: Tag,
    timeout: u64,
    tail: &mut Take<'_>,
) -> Result<Request, WireError> {
    let access = Mask::from_bits_retain(head.u32()?);
    let direction = head.direction()?;
    let disposition = match head.u8()? {
        1 => Disposition::Open,
        2 => Disposition::Create,
        3 => Disposition::OpenIf,
        _ => return Err(WireError("an unknown disposition")),
    };
    let pipe_type = head.pipe_type()?;
    head.u8()?;
    let max_instances = head.u32()?;
    let in_quota = head.u32()?;
    let out_quota = head.u32()?;
    let name_len = head.u32()? as usize;
    let name = match name_len {
        0 => None,
        len => Some(name(tail, len)?),
    };
    let security = if flags & HAS_SECURITY != 0 {
        let bytes = tail.bytes(tail.0.len())?;
        let parsed = SecurityDescriptor::from_bytes(bytes);
        Some(parsed.map_err(|_| WireError("not a security descriptor"))?)
    } else {
        None
    };
    Ok(Request::Create(
        tag,
        Box::new(Create {
            name,
            access,
            direction,
            disposition,
            pipe_type,
            max_instances,
            in_quota,
            out_quota,
            default_timeout: (flags & HAS_TIMEOUT != 0).then(|| Duration::from_nanos(timeout)),
            security,
            apart: flags & APART != 0,
        }),
    ))
}
