//! What the broker answers, and what it says unasked.

use std::time::Duration;

use npfs_ringbuf::{End, Grant, PipeType};

use super::{
    Put, REPLY_HEAD, Take, WireError, length,
    request::{bits_of, modes_of},
};
use crate::{
    name::Name,
    npfs::{EndId, EndInfo, PipeInfo, Quality, State, Tag, Taken, nanoseconds},
    security::{Mask, SecurityDescriptor, Sid},
    status::NtStatus,
};

/// The process at the other end, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Session: getsid(2), as the broker sees it.
    pub session: u32,
}

impl Default for Peer {
    /// Nobody: user 0 would be root, and no user has this number (setuid(2)).
    fn default() -> Peer {
        Peer {
            pid: 0,
            uid: u32::MAX,
            gid: u32::MAX,
            session: 0,
        }
    }
}

/// What the giver of an end tells its taker, if both are one user's; else all but the options is the broker's to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Of the file object, the giver's to choose.
    pub options: u32,
    /// Who has opened, or created, the end (NP-ATTR-08).
    pub origin: Peer,
    /// The other end.
    pub peer: Peer,
    /// What the client lets the server do in its name.
    pub quality: Quality,
}

impl Words {
    pub(super) fn put(&self, put: &mut Put) {
        put.u32(self.options);
        put_peer(put, self.origin);
        put_peer(put, self.peer);
        put.u32(self.quality.bits());
    }

    pub(super) fn take(take: &mut Take<'_>) -> Result<Words, WireError> {
        Ok(Words {
            options: take.u32()?,
            origin: take_peer(take)?,
            peer: take_peer(take)?,
            quality: Quality::from_bits_retain(take.u32()?),
        })
    }
}

/// A connection, for one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireConn {
    /// The broker's number of the link. Its descriptor comes beside the first message that names it.
    pub link: u64,
    /// This process's index in the link.
    pub process: u8,
    /// The other end.
    pub peer: Peer,
    /// What the client lets the server do in its name.
    pub quality: Quality,
    /// What this end may do, and where.
    pub grant: Grant,
}

/// What the broker says.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To `Hello`.
    Welcome {
        /// The version that is spoken from now on; 0: none in common.
        version: u16,
        /// ABI version of its links.
        abi: u32,
        /// Their layout.
        layout: u64,
        /// The broker's process.
        pid: u32,
    },
    /// A request has ended.
    Done(Tag, NtStatus),
    /// A server end was made.
    Created {
        /// Of the request.
        tag: Tag,
        /// The end.
        end: EndId,
        /// The pipe's.
        pipe_type: PipeType,
        /// The pipe was made too.
        first: bool,
        /// What was granted.
        granted: Mask,
    },
    /// A client end was made.
    Opened {
        /// Of the request.
        tag: Tag,
        /// The end.
        end: EndId,
        /// What was granted.
        granted: Mask,
        /// Its connection.
        conn: WireConn,
    },
    /// A client has opened an instance; tag 0 unless this answers a listen too.
    Connected {
        /// Of the listen.
        tag: Tag,
        /// The server end.
        end: EndId,
        /// Its connection.
        conn: WireConn,
    },
    /// The other process of a link has gone, or the only connection of one that was set apart: nothing new will come of it.
    LinkGone(u64),
    /// Another process of a link that an earlier broker made, by the link's token, has gone, or several: a bit
    /// for each index. The flag: it is known to have exited.
    PeerLost([u64; 2], u8, bool),
    /// To `Give`: what the end is taken by.
    Given(Tag, [u64; 2]),
    /// To `Take`, and to `Refresh`.
    Taken {
        /// Of the request.
        tag: Tag,
        /// The end.
        taken: Box<Taken<WireConn>>,
        /// The giver's; of a refreshed end, its other end's alone.
        words: Words,
    },
    /// Pipes; ends when there are none.
    Pipes {
        /// Of the request.
        tag: Tag,
        /// Where to go on: shard and folded name; shard `u64::MAX`: nothing follows.
        next: (u64, Vec<u16>),
        /// In the order of their folded names, within a shard.
        pipes: Vec<PipeInfo>,
    },
    /// An end, to `Describe`.
    Described {
        /// Of the request.
        tag: Tag,
        /// What it asked for.
        info: Box<EndInfo>,
    },
    /// A part of a security descriptor, to `Security`.
    Security(Tag, Box<SecurityDescriptor>),
    /// A pipe and some of its instances.
    Instances {
        /// Of the request.
        tag: Tag,
        /// The pipe.
        pipe: Box<PipeInfo>,
        /// Oldest first.
        instances: Vec<InstanceEntry>,
    },
}

/// An instance, in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceEntry {
    /// Its state.
    pub state: State,
    /// The process of the server end.
    pub server: Peer,
    /// The process of the client end.
    pub client: Option<Peer>,
    /// Client to server, bytes.
    pub in_quota: u32,
    /// Server to client, bytes.
    pub out_quota: u32,
}

const WELCOME: u16 = 1;
const DONE: u16 = 2;
const CREATED: u16 = 3;
const OPENED: u16 = 4;
const CONNECTED: u16 = 5;
const LINK_GONE: u16 = 6;
const PIPES: u16 = 7;
const INSTANCES: u16 = 8;
const PEER_LOST: u16 = 9;
const DESCRIBED: u16 = 10;
const SECURITY: u16 = 11;
const GIVEN: u16 = 12;
const TAKEN: u16 = 13;

const MESSAGE: u16 = 1;
/// Of `Created`: the pipe was made too; of `Described`: the quotas count.
const FIRST: u16 = 2;
/// Of `Taken`: the modes are in the lowest two bits.
const MODES: u16 = 3;
const LISTENING: u16 = 4;
const OF_MESSAGES: u16 = 8;
const SERVER: u16 = 16;
const CONNECTED_TO: u16 = 32;

impl Reply {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut put = Put::default();
        let mut tail = Put::default();
        let mut head = |op: u16, flags: u16, tag: Tag, end: EndId, status: u32, granted: u32| {
            put.u16(op).u16(flags).u32(0).u64(tag.0).u64(end.0);
            put.u32(status).u32(granted);
        };
        let conn = match self {
            Reply::Welcome {
                version,
                abi,
                layout,
                pid,
            } => {
                let version = u64::from(*version);
                head(WELCOME, 0, Tag(version), EndId(*layout), *abi, *pid);
                None
            }
            Reply::Done(tag, status) => {
                head(DONE, 0, *tag, EndId(0), status.0, 0);
                None
            }
            Reply::Created {
                tag,
                end,
                pipe_type,
                first,
                granted,
            } => {
                let message = u16::from(*pipe_type == PipeType::Message) * MESSAGE;
                let flags = message | (u16::from(*first) * FIRST);
                head(CREATED, flags, *tag, *end, 0, granted.bits());
                None
            }
            Reply::Opened {
                tag,
                end,
                granted,
                conn,
            } => {
                head(OPENED, 0, *tag, *end, 0, granted.bits());
                Some(conn)
            }
            Reply::Connected { tag, end, conn } => {
                head(CONNECTED, 0, *tag, *end, 0, 0);
                Some(conn)
            }
            Reply::LinkGone(link) => {
                head(LINK_GONE, 0, Tag(0), EndId(*link), 0, 0);
                None
            }
            Reply::PeerLost([low, high], gone, exited) => {
                let (exited, gone) = (u16::from(*exited), u32::from(*gone));
                head(PEER_LOST, exited, Tag(*low), EndId(*high), gone, 0);
                None
            }
            Reply::Given(tag, [low, high]) => {
                head(GIVEN, 0, *tag, EndId(*low), 0, 0);
                put.u64(*high);
                None
            }
            Reply::Taken { tag, taken, words } => {
                let mut flags = bits_of(taken.modes);
                for (flag, is) in [
                    (LISTENING, taken.listening),
                    (OF_MESSAGES, taken.pipe_type == PipeType::Message),
                    (SERVER, taken.side == End::Server),
                    (CONNECTED_TO, taken.conn.is_some()),
                ] {
                    flags |= u16::from(is) * flag;
                }
                let granted = taken.granted.bits();
                head(TAKEN, flags, *tag, taken.end, 0, granted);
                words.put(&mut tail);
                taken.conn.as_ref()
            }
            Reply::Pipes { tag, next, pipes } => {
                head(PIPES, 0, *tag, EndId(next.0), length(pipes.len()), 0);
                tail.u32(length(2 * next.1.len())).units(&next.1);
                for pipe in pipes {
                    put_pipe(&mut tail, pipe);
                }
                None
            }
            Reply::Described { tag, info } => {
                let (flags, quotas) = match info.quotas {
                    Some(quotas) => (FIRST, quotas),
                    None => (0, (0, 0)),
                };
                head(DESCRIBED, flags, *tag, EndId(0), quotas.0, quotas.1);
                put_pipe(&mut tail, &info.pipe);
                None
            }
            Reply::Security(tag, security) => {
                head(SECURITY, 0, *tag, EndId(0), 0, 0);
                tail.bytes(&security.to_bytes().unwrap_or_default());
                None
            }
            Reply::Instances {
                tag,
                pipe,
                instances,
            } => {
                head(INSTANCES, 0, *tag, EndId(0), length(instances.len()), 0);
                put_pipe(&mut tail, pipe);
                for instance in instances {
                    put_instance(&mut tail, instance);
                }
                None
            }
        };
        if let Some(conn) = conn {
            put.u64(conn.link).u8(conn.process).bytes(&[0; 3]);
            put_peer(&mut put, conn.peer);
            put.u32(conn.quality.bits()).bytes(&conn.grant.to_bytes());
        }
        put.finish(REPLY_HEAD, &tail.0)
    }

    /// From a message.
    ///
    /// # Errors
    /// [`WireError`]: it is none.
    pub fn decode(bytes: &[u8]) -> Result<Reply, WireError> {
        let mut take = Take(bytes);
        let mut head = Take(take.bytes(REPLY_HEAD)?);
        let op = head.u16()?;
        let flags = head.u16()?;
        let tail_len = head.u32()? as usize;
        let tag = Tag(head.u64()?);
        let end = EndId(head.u64()?);
        let status = head.u32()?;
        let granted = Mask::from_bits_retain(head.u32()?);
        let mut tail = Take(take.bytes(tail_len)?);
        take.end()?;
        let reply = match op {
            WELCOME => Reply::Welcome {
                version: u16::try_from(tag.0).map_err(|_| WireError("not a version"))?,
                abi: status,
                layout: end.0,
                pid: granted.bits(),
            },
            DONE => Reply::Done(tag, NtStatus(status)),
            CREATED => Reply::Created {
                tag,
                end,
                pipe_type: if flags & MESSAGE != 0 {
                    PipeType::Message
                } else {
                    PipeType::Byte
                },
                first: flags & FIRST != 0,
                granted,
            },
            OPENED => Reply::Opened {
                tag,
                end,
                granted,
                conn: take_conn(head)?,
            },
            CONNECTED => Reply::Connected {
                tag,
                end,
                conn: take_conn(head)?,
            },
            LINK_GONE => Reply::LinkGone(end.0),
            PEER_LOST => {
                let gone = u8::try_from(status).map_err(|_| WireError("not processes"))?;
                Reply::PeerLost([tag.0, end.0], gone, flags != 0)
            }
            GIVEN => Reply::Given(tag, [end.0, head.u64()?]),
            TAKEN => {
                let known = MODES | LISTENING | OF_MESSAGES | SERVER | CONNECTED_TO;
                if flags & !known != 0 {
                    return Err(WireError("an end such as there is none"));
                }
                let connected = flags & CONNECTED_TO != 0;
                let taken = Taken {
                    end,
                    side: if flags & SERVER != 0 {
                        End::Server
                    } else {
                        End::Client
                    },
                    pipe_type: if flags & OF_MESSAGES != 0 {
                        PipeType::Message
                    } else {
                        PipeType::Byte
                    },
                    granted,
                    modes: modes_of(flags & MODES)?,
                    listening: flags & LISTENING != 0,
                    conn: connected.then(|| take_conn(head)).transpose()?,
                };
                Reply::Taken {
                    tag,
                    taken: Box::new(taken),
                    words: Words::take(&mut tail)?,
                }
            }
            PIPES => {
                let next = tail.u32()? as usize;
                let next = (end.0, tail.units(next)?);
                let pipes = (0..status).map(|_| take_pipe(&mut tail));
                Reply::Pipes {
                    tag,
                    next,
                    pipes: pipes.collect::<Result<_, _>>()?,
                }
            }
            INSTANCES => {
                let pipe = Box::new(take_pipe(&mut tail)?);
                let instances = (0..status).map(|_| take_instance(&mut tail));
                Reply::Instances {
                    tag,
                    pipe,
                    instances: instances.collect::<Result<_, _>>()?,
                }
            }
            DESCRIBED => {
                let pipe = take_pipe(&mut tail)?;
                let info = EndInfo {
                    pipe,
                    quotas: (flags & FIRST != 0).then_some((status, granted.bits())),
                };
                Reply::Described {
                    tag,
                    info: Box::new(info),
                }
            }
            SECURITY => {
                let security = SecurityDescriptor::from_bytes(tail.bytes(tail_len)?);
                let security = security.map_err(|_| WireError("not a security descriptor"))?;
                Reply::Security(tag, Box::new(security))
            }
            _ => return Err(WireError("an unknown reply")),
        };
        tail.end()?;
        Ok(reply)
    }
}

fn take_conn(mut head: Take<'_>) -> Result<WireConn, WireError> {
    let link = head.u64()?;
    let process = head.u8()?;
    head.bytes(3)?;
    let peer = take_peer(&mut head)?;
    let quality = Quality::from_bits_retain(head.u32()?);
    let grant = Grant::from_bytes(head.bytes(Grant::SIZE)?);
    Ok(WireConn {
        link,
        process,
        peer,
        quality,
        grant: grant.map_err(|_| WireError("not a grant of this version"))?,
    })
}

fn put_peer(put: &mut Put, peer: Peer) {
    put.u32(peer.pid)
        .u32(peer.uid)
        .u32(peer.gid)
        .u32(peer.session);
}

fn take_peer(take: &mut Take<'_>) -> Result<Peer, WireError> {
    Ok(Peer {
        pid: take.u32()?,
        uid: take.u32()?,
        gid: take.u32()?,
        session: take.u32()?,
    })
}

fn put_pipe(put: &mut Put, pipe: &PipeInfo) {
    let owner = pipe.owner.as_ref().map(Sid::to_bytes).unwrap_or_default();
    put.u32(length(2 * pipe.name.units().len()))
        .u32(length(owner.len()))
        .pipe_type(pipe.pipe_type)
        .direction(pipe.direction)
        .u16(0);
    for number in [
        pipe.instances,
        pipe.max_instances,
        pipe.listening,
        pipe.connected,
        pipe.waiters,
    ] {
        put.u32(number);
    }
    put.u64(nanoseconds(pipe.default_timeout))
        .units(pipe.name.units())
        .bytes(&owner);
}

fn take_pipe(take: &mut Take<'_>) -> Result<PipeInfo, WireError> {
    let name_len = take.u32()? as usize;
    let owner_len = take.u32()? as usize;
    let pipe_type = take.pipe_type()?;
    let direction = take.direction()?;
    take.u16()?;
    let instances = take.u32()?;
    let max_instances = take.u32()?;
    let listening = take.u32()?;
    let connected = take.u32()?;
    let waiters = take.u32()?;
    let default_timeout = Duration::from_nanos(take.u64()?);
    let name = match take.units(name_len)? {
        none if none.is_empty() => Name::none(),
        units => Name::from_units(units).map_err(|_| WireError("not a name"))?,
    };
    let owner = match owner_len {
        0 => None,
        length => {
            let sid = Sid::from_bytes(take.bytes(length)?);
            Some(sid.map_err(|_| WireError("not a SID"))?)
        }
    };
    Ok(PipeInfo {
        name,
        pipe_type,
        direction,
        instances,
        max_instances,
        listening,
        connected,
        waiters,
        default_timeout,
        owner,
    })
}

fn put_instance(put: &mut Put, instance: &InstanceEntry) {
    put.u32(instance.state.number())
        .u32(instance.in_quota)
        .u32(instance.out_quota)
        .u32(u32::from(instance.client.is_some()));
    put_peer(put, instance.server);
    put_peer(put, instance.client.unwrap_or_default());
}

fn take_instance(take: &mut Take<'_>) -> Result<InstanceEntry, WireError> {
    let state = State::from_number(take.u32()?).ok_or(WireError("an unknown state"))?;
    let in_quota = take.u32()?;
    let out_quota = take.u32()?;
    let has_client = take.u32()? != 0;
    let server = take_peer(take)?;
    let client = take_peer(take)?;
    Ok(InstanceEntry {
        state,
        server,
        client: has_client.then_some(client),
        in_quota,
        out_quota,
    })
}
