//! One name: what its first instance has fixed (NPFS: FCB), and who waits for an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use npfs_ringbuf::PipeType;

use super::{ClientId, Direction, EndId, State, Tag};
use crate::{
    lock::lock,
    name::{Key, Name},
    security::SecurityDescriptor,
};

/// What the first instance of a pipe has fixed for its life (NP-OBJ-02). A client end keeps it when the pipe has gone
/// (NP-INFO-15).
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) key: Key,
    /// As the creator of the first instance spelled it.
    pub(super) name: Option<Name>,
    pub(super) pipe_type: PipeType,
    pub(super) direction: Direction,
    pub(super) max_instances: u32,
    pub(super) default_timeout: Duration,
    /// Not fixed, but the same for all ends (NP-SEC-01).
    pub(super) security: Mutex<SecurityDescriptor>,
}

impl Fixed {
    /// Of a pipe without instances.
    pub(super) fn info(&self) -> PipeInfo {
        PipeInfo {
            name: self.name.clone().unwrap_or_else(Name::none),
            pipe_type: self.pipe_type,
            direction: self.direction,
            instances: 0,
            max_instances: self.max_instances,
            listening: 0,
            connected: 0,
            waiters: 0,
            default_timeout: self.default_timeout,
            owner: lock(&self.security).owner,
        }
    }
}

/// A pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) fixed: Arc<Fixed>,
    /// Server ends, oldest first.
    pub(super) instances: BTreeSet<EndId>,
    /// How many of them are connected.
    pub(super) connected: u32,
    /// Those that listen, by their place in the line (NP-OPEN-09).
    pub(super) listening: BTreeMap<u64, EndId>,
    /// Who waits for an instance, oldest first, each with its deadline.
    pub(super) waiters: BTreeMap<u64, Waiter>,
}

/// Somebody who waits for an instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) client: ClientId,
    pub(super) tag: Tag,
    pub(super) deadline: Option<u64>,
}

/// A pipe, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeInfo {
    /// As its creator spelled it; without units, if the pipe has no name (NP-NAME-11).
    pub name: Name,
    /// Bytes or messages.
    pub pipe_type: PipeType,
    /// Which way.
    pub direction: Direction,
    /// Server ends that are open.
    pub instances: u32,
    /// How many there may be.
    pub max_instances: u32,
    /// How many of them listen.
    pub listening: u32,
    /// How many of them are connected.
    pub connected: u32,
    /// Who waits for an instance.
    pub waiters: u32,
    /// How long waiting for an instance takes at most unless said otherwise.
    pub default_timeout: Duration,
    /// Who made it.
    pub owner: Option<crate::security::Sid>,
}

/// What an open end asks about itself and its pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndInfo {
    /// The pipe; with no instances, if it has gone and this is a client end of it.
    pub pipe: PipeInfo,
    /// Of a server end, its instance's, bytes: client to server, server to client. A client end's connection has them.
    pub quotas: Option<(u32, u32)>,
}

bitflags::bitflags! {
    /// Parts of a security descriptor, as SECURITY_INFORMATION names them (MS-DTYP 2.4.7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SecurityParts: u32 {
        /// Whose it is.
        const OWNER = 1;
        /// Its group.
        const GROUP = 2;
        /// Who may do what.
        const DACL = 4;
        /// What is written down about it; not here.
        const SACL = 8;

        const _ = !0;
    }
}

/// An instance, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceInfo {
    /// Its state.
    pub state: State,
    /// The session of its server end.
    pub server: ClientId,
    /// The session of its client end.
    pub client: Option<ClientId>,
    /// Client to server, bytes.
    pub in_quota: u32,
    /// Server to client, bytes.
    pub out_quota: u32,
}
