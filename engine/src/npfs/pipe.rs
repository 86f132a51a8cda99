//! One name: what its first instance has fixed (NPFS: FCB), and who waits for an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use npfs_ringbuf::PipeType;

use super::{ClientId, Direction, EndId, State, Tag};
use crate::{name::Name, security::SecurityDescriptor};

/// A pipe (NP-OBJ-02).
#[derive(Debug)]
pub(super) struct Pipe {
    /// As the creator of the first instance spelled it.
    pub(super) name: Name,
    pub(super) pipe_type: PipeType,
    pub(super) direction: Direction,
    pub(super) max_instances: u32,
    pub(super) default_timeout: Duration,
    pub(super) security: SecurityDescriptor,
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
    /// As its creator spelled it.
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
