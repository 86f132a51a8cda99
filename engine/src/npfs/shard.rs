//! The names of one shard, and every request about them.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry};
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use npfs_ringbuf::{Access, End};

use super::{
    Asker, ClientId, Completion, Create, Disposition, EndId, EndInfo, InstanceInfo, Modes, Moment,
    PipeInfo, Plan, Quality, SecurityParts, State, Tag, Taken, Timeout, Wanted, Wires,
    ends::Ends,
    instance::{Client, Instance, Shared, Wire},
    nanoseconds,
    pipe::{Fixed, Pipe, Waiter},
};
use crate::{
    lock::lock,
    name::{Key, Name},
    security::{Mask, SecurityDescriptor, check},
    status::NtStatus,
};

/// Names, their instances and their waiters. `C` is a connection of the [`Wires`].
#[derive(Debug)]
pub struct Shard<C> {
    pipes: BTreeMap<Key, Pipe>,
    servers: Ends<Instance<C>>,
    clients: Ends<Client<C>>,
    owned: HashMap<ClientId, BTreeSet<EndId>>,
    /// Ends that were given away, as long as they are open.
    shared: HashMap<EndId, Shared>,
    pending: BTreeMap<(ClientId, Tag), Pending>,
    deadlines: BTreeSet<(Moment, ClientId, Tag)>,
    /// Counts up with everything that stands in a line.
    order: u64,
}

/// An open end's own.
struct EndOf {
    fixed: Arc<Fixed>,
    granted: Mask,
    /// Of a server end's instance; a client end's connection has them.
    quotas: Option<(u32, u32)>,
}

/// A request that was not answered yet.
#[derive(Clone, Debug)]
enum Pending {
    Listen(EndId),
    Wait(Key, u64),
}

impl<C: Clone> Shard<C> {
    /// Number `index` of `count` shards.
    #[must_use]
    pub fn new(index: u64, count: u64) -> Shard<C> {
        Shard {
            pipes: BTreeMap::new(),
            servers: Ends::new(0, index, count),
            clients: Ends::new(1, index, count),
            owned: HashMap::new(),
            shared: HashMap::new(),
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            order: 0,
        }
    }

    // ---- requests ----------------------------------------------------------------------------------------------

    /// NtCreateNamedPipeFile (sections 4.2 and 4.3).
    pub fn create(&mut self, asker: Asker<'_>, create: Create, out: &mut Vec<Completion<C>>) {
        match self.try_create(asker, create, out) {
            Ok(created) => out.push(created),
            Err(status) => out.push(Completion::Done(asker.client, asker.tag, Err(status))),
        }
    }

    fn try_create(
        &mut self,
        asker: Asker<'_>,
        create: Create,
        out: &mut Vec<Completion<C>>,
    ) -> Result<Completion<C>, NtStatus> {
        for quota in [create.in_quota, create.out_quota] {
            if i32::try_from(quota).is_err() {
                return Err(NtStatus::INVALID_PARAMETER);
            }
        }
        let key = match &create.name {
            Some(name) => name.folded(),
            None => {
                self.order += 1;
                Key::unnamed(self.order)
            }
        };
        let (granted, first) = match self.pipes.get(&key) {
            Some(pipe) => (further_instance(pipe, asker, &create)?, false),
            None => (first_instance(&create)?, true),
        };
        if first {
            let security = create
                .security
                .unwrap_or_else(|| SecurityDescriptor::npfs_default(asker.token));
            let fixed = Fixed {
                key: key.clone(),
                name: create.name,
                pipe_type: create.pipe_type,
                direction: create.direction,
                max_instances: create.max_instances,
                default_timeout: create.default_timeout.unwrap_or(Duration::ZERO),
                security: Mutex::new(security),
            };
            self.pipes.insert(
                key.clone(),
                Pipe {
                    fixed: Arc::new(fixed),
                    instances: BTreeSet::new(),
                    connected: 0,
                    listening: BTreeMap::new(),
                    waiters: BTreeMap::new(),
                },
            );
        }
        let end = self.servers.next_id();
        self.own(asker.client, end);
        let Some(pipe) = self.pipes.get_mut(&key) else {
            return Err(NtStatus::OBJECT_NAME_NOT_FOUND);
        };
        let fixed = pipe.fixed.clone();
        pipe.instances.insert(end);
        let created = Completion::Created {
            client: asker.client,
            tag: asker.tag,
            end,
            pipe_type: pipe.fixed.pipe_type,
            first,
            granted,
        };
        let allowed = pipe.fixed.direction.access(End::Server);
        let access = data_access(granted, allowed);
        self.servers.insert(Instance {
            pipe: fixed,
            owner: asker.client,
            access,
            granted,
            in_quota: create.in_quota,
            out_quota: create.out_quota,
            apart: create.apart,
            link: Wire::Disconnected,
        });
        // NP-OBJ-06: without any data access it only reserves the name until it is told to listen.
        if granted.intersects(Mask::FILE_READ_DATA | Mask::FILE_WRITE_DATA) {
            self.enter_listening(end, out); // NP-CREATE-25
        }
        Ok(created)
    }

    /// NtCreateFile on an existing pipe (section 5).
    pub fn open<W: Wires<Conn = C>>(
        &mut self,
        asker: Asker<'_>,
        name: &Name,
        wanted: Wanted,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        let opened = self.try_open(asker, &name.folded(), wanted, wires, out);
        if let Err(status) = opened {
            out.push(Completion::Done(asker.client, asker.tag, Err(status)));
        }
    }

    /// NtCreateFile with an empty name, relative to an open end: the pipe of that end (NP-NAME-12).
    pub fn open_at<W: Wires<Conn = C>>(
        &mut self,
        asker: Asker<'_>,
        end: EndId,
        wanted: Wanted,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        let opened = self.pipe_of(asker.client, end).and_then(|of| {
            let key = &of.fixed.key;
            // Not the next pipe of that name (NP-OBJ-01).
            let lives = self
                .pipes
                .get(key)
                .is_some_and(|pipe| Arc::ptr_eq(&pipe.fixed, &of.fixed));
            if lives {
                self.try_open(asker, key, wanted, wires, out)
            } else {
                Err(NtStatus::OBJECT_NAME_NOT_FOUND)
            }
        });
        if let Err(status) = opened {
            out.push(Completion::Done(asker.client, asker.tag, Err(status)));
        }
    }

    fn try_open<W: Wires<Conn = C>>(
        &mut self,
        asker: Asker<'_>,
        key: &Key,
        wanted: Wanted,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) -> Result<(), NtStatus> {
        let pipe = self
            .pipes
            .get_mut(key)
            .ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?; // NP-OPEN-01
        // NP-OPEN-02, 05: the bit is FILE_APPEND_DATA here, which generic writing asks for.
        let access = wanted.access.map_generic() - Mask::FILE_CREATE_PIPE_INSTANCE;
        let granted = check(&lock(&pipe.fixed.security), asker.token, access)
            .map_err(|_| NtStatus::ACCESS_DENIED)?
            - Mask::FILE_CREATE_PIPE_INSTANCE; // as much as is allowed may include it
        let allowed = pipe.fixed.direction.access(End::Client);
        if (granted.contains(Mask::FILE_READ_DATA) && !allowed.read)
            || (granted.contains(Mask::FILE_WRITE_DATA) && !allowed.write)
        {
            return Err(NtStatus::ACCESS_DENIED); // NP-OPEN-03, 06
        }
        let (&since, &server_end) = pipe
            .listening
            .first_key_value()
            .ok_or(NtStatus::PIPE_NOT_AVAILABLE)?; // NP-OPEN-04, 09
        let instance = self
            .servers
            .get_mut(server_end)
            .ok_or(NtStatus::PIPE_NOT_AVAILABLE)?;
        let shared = self.shared.get(&server_end);
        let plan = Plan {
            server: instance.owner,
            server_end,
            client: asker.client,
            pipe_type: pipe.fixed.pipe_type,
            in_quota: instance.in_quota,
            out_quota: instance.out_quota,
            server_access: instance.access,
            client_access: data_access(granted, allowed),
            server_modes: shared.map(|shared| shared.modes),
            apart: match wanted.apart {
                true => Some(End::Client),
                false => instance.apart.then_some(End::Server),
            },
        };
        let conn = wires.connect(&plan)?;
        // Those who hear of it: the session that has the instance. Of several, those who listen; the others ask.
        let mut servers = vec![instance.owner];
        if let Some(shared) = shared {
            servers.clear();
            let owner = instance.owner;
            let listens = instance.listens();
            let listens = |session| {
                let mut listens = listens.iter().flat_map(|listens| listens.iter());
                listens.any(|(of, _)| *of == session)
            };
            for session in shared.sessions() {
                let has_it = session == owner;
                let joined = has_it || wires.join(&conn, End::Server, session).is_ok();
                if joined && listens(session) {
                    servers.push(session);
                }
            }
            if shared.kept != 0 {
                wires.keep(&conn, End::Server, true);
            }
        }
        pipe.listening.remove(&since);
        pipe.connected += 1;
        let end = self.clients.next_id();
        let listens = instance.listens().map(std::mem::take);
        let listens = listens.unwrap_or_default();
        instance.link = Wire::Connected {
            client: end,
            who: asker.client,
        };
        let server = instance.owner;
        let client = Client {
            conn: conn.clone(),
            server: Some(server_end),
            cut_off: false,
            granted,
            quality: u8::try_from(wanted.quality.bits() & 0xFF).unwrap_or(0),
            pipe: pipe.fixed.clone(),
        };
        self.own(asker.client, end);
        self.clients.insert(client);
        for listen in &listens {
            self.pending.remove(listen);
        }
        // NP-OPEN-10: every pended listen is answered before the open is.
        let others = |session| !servers.contains(&session);
        for &(session, tag) in listens.iter().filter(|(session, _)| others(*session)) {
            // It has closed the end since, which others have (NP-CLOSE-01).
            out.push(Completion::Done(session, tag, Ok(())));
        }
        for session in servers {
            let mut own = listens.iter().filter(|(listener, _)| *listener == session);
            out.push(Completion::Connected {
                server: session,
                end: server_end,
                listener: own.next().map(|&(_, tag)| tag),
                conn: conn.clone(),
                client: asker.client,
                quality: wanted.quality,
            });
            out.extend(own.map(|&(_, tag)| Completion::Done(session, tag, Ok(()))));
        }
        out.push(Completion::Opened {
            client: asker.client,
            tag: asker.tag,
            end,
            granted,
            conn,
            server,
        });
        Ok(())
    }

    /// FSCTL_PIPE_LISTEN (section 7). `pends`: the end is in QUEUE mode.
    pub fn listen(
        &mut self,
        asker: Asker<'_>,
        end: EndId,
        pends: bool,
        out: &mut Vec<Completion<C>>,
    ) {
        let answer = match self.server(asker.client, end).map(|one| one.state()) {
            Err(NtStatus::PIPE_DISCONNECTED | NtStatus::ILLEGAL_FUNCTION) => {
                Err(NtStatus::ILLEGAL_FUNCTION) // NP-LISTEN-05
            }
            Err(status) => Err(status),
            Ok(State::Connected) => Err(NtStatus::PIPE_CONNECTED),
            Ok(State::Closing) => Err(NtStatus::PIPE_CLOSING),
            Ok(state) => {
                if state == State::Disconnected {
                    self.enter_listening(end, out); // NP-LISTEN-02
                }
                if !pends {
                    Err(NtStatus::PIPE_LISTENING)
                } else if let Entry::Vacant(entry) = self.pending.entry((asker.client, asker.tag)) {
                    entry.insert(Pending::Listen(end));
                    let instance = self.servers.get_mut(end);
                    if let Some(listens) = instance.and_then(Instance::listens) {
                        listens.push((asker.client, asker.tag));
                    }
                    return;
                } else {
                    Err(NtStatus::INVALID_PARAMETER)
                }
            }
        };
        out.push(Completion::Done(asker.client, asker.tag, answer));
    }

    /// FSCTL_PIPE_DISCONNECT (section 8).
    pub fn disconnect<W: Wires<Conn = C>>(
        &mut self,
        asker: Asker<'_>,
        end: EndId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        let answer = self.try_disconnect(asker.client, end, wires, out);
        out.push(Completion::Done(asker.client, asker.tag, answer));
    }

    fn try_disconnect<W: Wires<Conn = C>>(
        &mut self,
        client: ClientId,
        end: EndId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) -> Result<(), NtStatus> {
        let instance = self.server(client, end)?;
        let fixed = instance.pipe.clone();
        match std::mem::replace(&mut instance.link, Wire::Disconnected) {
            Wire::Disconnected => return Err(NtStatus::PIPE_DISCONNECTED), // NP-DISC-03
            Wire::Listening { since, listens } => {
                // NP-DISC-04 (open question): as the driver of 2003 does it.
                self.end_listens(listens, NtStatus::PIPE_DISCONNECTED, out);
                if let Some(pipe) = self.pipes.get_mut(&fixed.key) {
                    pipe.listening.remove(&since);
                }
            }
            Wire::Connected { client, .. } => {
                if let Some(pipe) = self.pipes.get_mut(&fixed.key) {
                    pipe.connected -= 1;
                }
                if let Some(client) = self.clients.get_mut(client) {
                    wires.disconnect(&client.conn);
                    client.server = None; // NP-OBJ-09
                    client.cut_off = true;
                }
            }
            Wire::Closing { conn } => wires.disconnect(&conn),
        }
        Ok(())
    }

    /// FSCTL_PIPE_WAIT (section 9).
    pub fn wait(
        &mut self,
        asker: Asker<'_>,
        name: &Name,
        timeout: Timeout,
        now: Moment,
        out: &mut Vec<Completion<C>>,
    ) {
        let key = name.folded();
        let answer = match self.pipes.get_mut(&key) {
            None => Err(NtStatus::OBJECT_NAME_NOT_FOUND), // NP-WAIT-04
            Some(pipe) if !pipe.listening.is_empty() => Ok(()), // NP-WAIT-05
            Some(_) if self.pending.contains_key(&(asker.client, asker.tag)) => {
                Err(NtStatus::INVALID_PARAMETER)
            }
            Some(pipe) => {
                let after = match timeout {
                    Timeout::Default => Some(pipe.fixed.default_timeout),
                    Timeout::After(after) => Some(after),
                    Timeout::Never => None,
                };
                if after == Some(Duration::ZERO) {
                    Err(NtStatus::IO_TIMEOUT)
                } else {
                    let deadline = after.map(|after| now.saturating_add(nanoseconds(after)));
                    self.order += 1;
                    pipe.waiters.insert(
                        self.order,
                        Waiter {
                            client: asker.client,
                            tag: asker.tag,
                            deadline,
                        },
                    );
                    self.pending
                        .insert((asker.client, asker.tag), Pending::Wait(key, self.order));
                    if let Some(deadline) = deadline {
                        self.deadlines.insert((deadline, asker.client, asker.tag));
                    }
                    return;
                }
            }
        };
        out.push(Completion::Done(asker.client, asker.tag, answer));
    }

    /// Ends a pended listen or wait of this client (NP-LISTEN-09, NP-WAIT-10). `false`: it is not pending here.
    pub fn cancel(&mut self, client: ClientId, tag: Tag, out: &mut Vec<Completion<C>>) -> bool {
        self.end_pending(client, tag, Some(NtStatus::CANCELLED), out)
    }

    /// NtClose of the last handle that a session has on an end; the end is closed if nobody else has it (NP-CLOSE-01).
    /// `false`: not an end of this client's.
    pub fn close<W: Wires<Conn = C>>(
        &mut self,
        client: ClientId,
        end: EndId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) -> bool {
        if !self.owns(client, end) {
            return false;
        }
        if let Some(shared) = self.shared.get_mut(&end) {
            if !shared.remove(client) {
                return true;
            }
            self.disown(client, end);
            self.leave(client, end, wires);
            self.close_if_nobodys(end, wires, out);
            return true;
        }
        self.disown(client, end);
        self.close_now(end, wires, out);
        true
    }

    fn owns(&self, client: ClientId, end: EndId) -> bool {
        let owned = self.owned.get(&client);
        owned.is_some_and(|owned| owned.contains(&end))
    }

    fn disown(&mut self, client: ClientId, end: EndId) {
        if let Some(owned) = self.owned.get_mut(&client) {
            owned.remove(&end);
            if owned.is_empty() {
                self.owned.remove(&client);
            }
        }
    }

    fn close_now<W: Wires<Conn = C>>(
        &mut self,
        end: EndId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        if let Some(gone) = self.clients.remove(end) {
            wires.close(&gone.conn, End::Client);
            let server = gone.server.and_then(|server| self.servers.get_mut(server));
            if let Some(instance) = server {
                instance.link = Wire::Closing { conn: gone.conn }; // NP-OBJ-07
                if let Some(pipe) = self.pipes.get_mut(&instance.pipe.key) {
                    pipe.connected -= 1;
                }
            }
        } else if let Some(gone) = self.servers.remove(end) {
            self.close_server(gone, end, wires, out);
        }
    }

    // ---- ends of several sessions ------------------------------------------------------------------------------

    /// A connection that an end has, and which end of it that is.
    fn conn_of(&self, end: EndId) -> Option<(C, End)> {
        if let Some(client) = self.clients.get(end) {
            return Some((client.conn.clone(), End::Client));
        }
        match &self.servers.get(end)?.link {
            Wire::Connected { client, .. } => {
                let client = self.clients.get(*client)?;
                Some((client.conn.clone(), End::Server))
            }
            Wire::Closing { conn } => Some((conn.clone(), End::Server)),
            Wire::Disconnected | Wire::Listening { .. } => None,
        }
    }

    /// A session gives one of its ends to somebody who is to come, and goes on having it. Until then the end stays open,
    /// whoever closes it. `abroad`: somebody of another user.
    ///
    /// # Errors
    /// INVALID_HANDLE; SHARING_VIOLATION: `abroad`, and the connection's memory is that of others, too.
    pub fn give<W: Wires<Conn = C>>(
        &mut self,
        client: ClientId,
        end: EndId,
        modes: Modes,
        abroad: bool,
        wires: &mut W,
    ) -> Result<Mask, NtStatus> {
        if !self.owns(client, end) {
            return Err(NtStatus::INVALID_HANDLE);
        }
        if abroad {
            if let Some((conn, _)) = self.conn_of(end) {
                wires.set_apart(&conn)?;
            }
            if let Some(instance) = self.servers.get_mut(end) {
                instance.apart = true;
            }
        }
        let shared = self.shared.entry(end).or_insert_with(|| Shared {
            holders: vec![(client, 1)],
            kept: 0,
            modes,
        });
        shared.kept += 1;
        if let Some((conn, side)) = self.conn_of(end) {
            wires.keep(&conn, side, true);
        }
        let client = self.clients.get(end).map(|client| client.granted);
        let server = || self.servers.get(end).map(|instance| instance.granted);
        client.or_else(server).ok_or(NtStatus::INVALID_HANDLE)
    }

    /// The session at the other end of what an end is connected to now (0: nobody that is still there), and what that lets a server
    /// do in its name.
    pub fn peer_of(&self, end: EndId) -> (ClientId, Quality) {
        let server = self.clients.get(end).and_then(|client| client.server);
        if let Some(server) = server.and_then(|server| self.servers.get(server)) {
            return (server.owner, Quality::default());
        }
        match self.servers.get(end).map(|instance| &instance.link) {
            Some(Wire::Connected { client, who }) => {
                let quality = self.clients.get(*client).map_or(0, |client| client.quality);
                (*who, Quality::from_bits_retain(quality.into()))
            }
            _ => (ClientId(0), Quality::NOBODY),
        }
    }

    /// Whoever was to come has come: `asker` has the end too from now on.
    pub fn take<W: Wires<Conn = C>>(
        &mut self,
        asker: Asker<'_>,
        end: EndId,
        granted: Mask,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        match self.try_take(asker, end, granted, wires, out) {
            Ok(taken) => out.push(Completion::Taken {
                client: asker.client,
                tag: asker.tag,
                taken: Box::new(taken),
                peer: None,
            }),
            Err(status) => out.push(Completion::Done(asker.client, asker.tag, Err(status))),
        }
        self.keep_no_longer(end, wires, out);
    }

    fn try_take<W: Wires<Conn = C>>(
        &mut self,
        asker: Asker<'_>,
        end: EndId,
        granted: Mask,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) -> Result<Taken<C>, NtStatus> {
        let session = asker.client;
        let conn = self.conn_of(end);
        let shared = self.shared.get_mut(&end).ok_or(NtStatus::INVALID_HANDLE)?;
        let was_nobodys = shared.holders.is_empty();
        let has_it = shared.sessions().any(|holder| holder == session);
        if !shared.add(session) {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        if let Some((conn, side)) = conn.as_ref().filter(|_| !has_it)
            && let Err(status) = wires.join(conn, *side, session)
        {
            shared.remove(session);
            return Err(status);
        }
        let modes = shared.modes;
        let first = shared.sessions().next();
        self.own(session, end);
        self.name_holder(end, first);
        if was_nobodys && self.is_listening(end) {
            // It stands in the line again, at its end.
            self.enter_listening(end, out);
        }
        self.held(end, granted, modes)
    }

    fn is_listening(&self, end: EndId) -> bool {
        let instance = self.servers.get(end);
        instance.is_some_and(|instance| matches!(instance.link, Wire::Listening { .. }))
    }

    /// What a holder of an end has to know.
    fn held(&self, end: EndId, granted: Mask, modes: Modes) -> Result<Taken<C>, NtStatus> {
        let (conn, side) = match self.conn_of(end) {
            Some((conn, side)) => (Some(conn), side),
            None => (None, End::Server),
        };
        let pipe_type = match (self.clients.get(end), self.servers.get(end)) {
            (Some(client), _) => Some(client.pipe.pipe_type),
            (None, Some(instance)) => Some(instance.pipe.pipe_type),
            (None, None) => None,
        };
        Ok(Taken {
            end,
            side,
            pipe_type: pipe_type.ok_or(NtStatus::INVALID_HANDLE)?,
            granted,
            modes,
            listening: self.is_listening(end),
            conn,
        })
    }

    /// How a server end is now that several sessions have, for one of them.
    pub fn refresh<W: Wires<Conn = C>>(
        &mut self,
        asker: Asker<'_>,
        end: EndId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        let (client, tag) = (asker.client, asker.tag);
        out.push(match self.try_refresh(client, end, wires) {
            Ok((taken, peer)) => Completion::Taken {
                client,
                tag,
                taken: Box::new(taken),
                peer: Some(peer),
            },
            Err(status) => Completion::Done(client, tag, Err(status)),
        });
    }

    fn try_refresh<W: Wires<Conn = C>>(
        &mut self,
        client: ClientId,
        end: EndId,
        wires: &mut W,
    ) -> Result<(Taken<C>, (ClientId, Quality)), NtStatus> {
        let granted = self.server(client, end)?.granted;
        // Of one that nobody else has the modes are not known here, but to its session.
        let shared = self.shared.get(&end).ok_or(NtStatus::INVALID_HANDLE)?;
        let modes = shared.modes;
        if let Some((conn, side)) = self.conn_of(end) {
            // It is a holder already, unless there was no room for it then.
            wires.join(&conn, side, client)?;
        }
        Ok((self.held(end, granted, modes)?, self.peer_of(end)))
    }

    /// One of those for whom the end was kept has come, or will not come any more.
    pub fn keep_no_longer<W: Wires<Conn = C>>(
        &mut self,
        end: EndId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        let Some(shared) = self.shared.get_mut(&end) else {
            return;
        };
        shared.kept = shared.kept.saturating_sub(1);
        if shared.kept != 0 {
            return;
        }
        if shared.holders.is_empty() {
            self.close_if_nobodys(end, wires, out);
        } else if let Some((conn, side)) = self.conn_of(end) {
            wires.keep(&conn, side, false);
        }
    }

    /// The session has it no more.
    fn leave<W: Wires<Conn = C>>(&mut self, client: ClientId, end: EndId, wires: &mut W) {
        let Some(shared) = self.shared.get(&end) else {
            return;
        };
        let (first, kept) = (shared.sessions().next(), shared.kept != 0);
        if first.is_none() && !kept {
            return; // it is closed next
        }
        if first.is_none() {
            // Nobody is behind it until it is taken: others that listen are found first.
            self.leave_the_line(end);
        }
        if let Some((conn, side)) = self.conn_of(end) {
            wires.leave(&conn, side, client);
        }
        self.name_holder(end, first);
    }

    /// It listens, and nobody can open it.
    fn leave_the_line(&mut self, end: EndId) {
        if let Some(instance) = self.servers.get(end)
            && let Wire::Listening { since, .. } = instance.link
            && let Some(pipe) = self.pipes.get_mut(&instance.pipe.key)
        {
            pipe.listening.remove(&since);
        }
    }

    /// Whose end it is, where only one is named.
    fn name_holder(&mut self, end: EndId, holder: Option<ClientId>) {
        let Some(holder) = holder else { return };
        if let Some(instance) = self.servers.get_mut(end) {
            instance.owner = holder;
        } else if let Some(server) = self.clients.get(end).and_then(|client| client.server)
            && let Some(Instance {
                link: Wire::Connected { who, .. },
                ..
            }) = self.servers.get_mut(server)
        {
            *who = holder;
        }
    }

    fn close_if_nobodys<W: Wires<Conn = C>>(
        &mut self,
        end: EndId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        let nobodys = |shared: &Shared| shared.holders.is_empty() && shared.kept == 0;
        if self.shared.get(&end).is_some_and(nobodys) {
            self.shared.remove(&end);
            self.close_now(end, wires, out);
        }
    }

    /// One of several sessions that have a server end sets its modes.
    ///
    /// # Errors
    /// INVALID_HANDLE.
    pub fn set_modes(
        &mut self,
        client: ClientId,
        end: EndId,
        modes: Modes,
    ) -> Result<(), NtStatus> {
        self.server(client, end)?;
        if let Some(shared) = self.shared.get_mut(&end) {
            shared.modes = modes;
        }
        Ok(())
    }

    fn close_server<W: Wires<Conn = C>>(
        &mut self,
        mut gone: Instance<C>,
        end: EndId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        let listens = gone.listens().map(std::mem::take);
        self.end_listens(listens.unwrap_or_default(), NtStatus::PIPE_BROKEN, out); // NP-LISTEN-10
        let Some(pipe) = self.pipes.get_mut(&gone.pipe.key) else {
            return;
        };
        pipe.instances.remove(&end);
        match gone.link {
            Wire::Disconnected => {}
            Wire::Listening { since, .. } => {
                pipe.listening.remove(&since);
            }
            Wire::Connected { client, .. } => {
                pipe.connected -= 1;
                if let Some(client) = self.clients.get_mut(client) {
                    wires.close(&client.conn, End::Server);
                    client.server = None;
                }
            }
            Wire::Closing { conn } => wires.close(&conn, End::Server),
        }
        if pipe.instances.is_empty() {
            // NP-OBJ-01, NP-WAIT-09
            let waiters = std::mem::take(&mut pipe.waiters);
            self.pipes.remove(&gone.pipe.key);
            self.release(waiters, Err(NtStatus::OBJECT_NAME_NOT_FOUND), out);
        }
    }

    /// The session has ended: all its ends are closed, and what it waited for is forgotten.
    pub fn gone<W: Wires<Conn = C>>(
        &mut self,
        client: ClientId,
        wires: &mut W,
        out: &mut Vec<Completion<C>>,
    ) {
        for tag in self.pending_of(client) {
            self.end_pending(client, tag, None, out);
        }
        for end in self.ends_of(client) {
            while self.close(client, end, wires, out) {}
        }
    }

    /// Ends waits whose time has come (NP-WAIT-07).
    pub fn expire(&mut self, now: Moment, out: &mut Vec<Completion<C>>) {
        while let Some(&(deadline, client, tag)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            self.end_pending(client, tag, Some(NtStatus::IO_TIMEOUT), out);
        }
    }

    /// When [`Shard::expire`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|&(deadline, ..)| deadline)
    }

    // ---- listings ----------------------------------------------------------------------------------------------

    /// At most `most` pipes whose keys come after `after`, in the order of their keys.
    pub(crate) fn list(&self, after: Option<&Key>, most: usize) -> Vec<(Key, PipeInfo)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.pipes.range::<Key, _>((from, Bound::Unbounded));
        let info = |(key, pipe): (&Key, &Pipe)| (key.clone(), self.info_of(pipe));
        let range = range.filter(|(key, _)| !key.is_unnamed()); // NP-DIR-07
        range.take(most).map(info).collect()
    }

    /// A pipe, and at most `most` of its instances after the first `skip`, oldest first.
    #[must_use]
    pub fn info(
        &self,
        name: &Name,
        skip: usize,
        most: usize,
    ) -> Option<(PipeInfo, Vec<InstanceInfo>)> {
        let pipe = self.pipes.get(&name.folded())?;
        let instances = pipe.instances.iter().skip(skip).take(most);
        let instances = instances.filter_map(|end| {
            let instance = self.servers.get(*end)?;
            Some(InstanceInfo {
                state: instance.state(),
                server: instance.owner,
                client: match instance.link {
                    Wire::Connected { who, .. } => Some(who),
                    _ => None,
                },
                in_quota: instance.in_quota,
                out_quota: instance.out_quota,
            })
        });
        Some((self.info_of(pipe), instances.collect()))
    }

    fn info_of(&self, pipe: &Pipe) -> PipeInfo {
        let count = |many: usize| u32::try_from(many).unwrap_or(u32::MAX);
        PipeInfo {
            instances: count(pipe.instances.len()),
            listening: count(pipe.listening.len()),
            connected: pipe.connected,
            waiters: count(pipe.waiters.len()),
            ..pipe.fixed.info()
        }
    }

    // ---- about an end ------------------------------------------------------------------------------------------

    /// The pipe of an end of this client's.
    fn pipe_of(&self, client: ClientId, end: EndId) -> Result<EndOf, NtStatus> {
        if !self.owns(client, end) {
            return Err(NtStatus::INVALID_HANDLE);
        }
        if let Some(client) = self.clients.get(end) {
            return if client.cut_off {
                Err(NtStatus::PIPE_DISCONNECTED) // NP-INFO-01, NP-SEC-02
            } else {
                Ok(EndOf {
                    fixed: client.pipe.clone(),
                    granted: client.granted,
                    quotas: None,
                })
            };
        }
        let instance = self.servers.get(end).ok_or(NtStatus::INVALID_HANDLE)?;
        Ok(EndOf {
            fixed: instance.pipe.clone(),
            granted: instance.granted,
            quotas: Some((instance.in_quota, instance.out_quota)),
        })
    }

    /// What NtQueryInformationFile has to ask (NP-INFO-08, 15). A pipe that has gone has no instances (NP-OBJ-01).
    ///
    /// # Errors
    /// PIPE_DISCONNECTED for a client that was disconnected; INVALID_HANDLE.
    pub fn describe(&self, client: ClientId, end: EndId) -> Result<EndInfo, NtStatus> {
        let of = self.pipe_of(client, end)?;
        let pipe = self.pipes.get(&of.fixed.key);
        let pipe = pipe.filter(|pipe| Arc::ptr_eq(&pipe.fixed, &of.fixed));
        Ok(EndInfo {
            pipe: pipe.map_or_else(|| of.fixed.info(), |pipe| self.info_of(pipe)),
            quotas: of.quotas,
        })
    }

    /// NtQuerySecurityObject: those parts of the pipe's descriptor (NP-SEC-01).
    ///
    /// # Errors
    /// ACCESS_DENIED without READ_CONTROL; PIPE_DISCONNECTED (NP-SEC-02); INVALID_HANDLE.
    pub fn security(
        &self,
        client: ClientId,
        end: EndId,
        parts: SecurityParts,
    ) -> Result<SecurityDescriptor, NtStatus> {
        let of = self.pipe_of(client, end)?;
        if !of.granted.contains(Mask::READ_CONTROL) || parts.contains(SecurityParts::SACL) {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let whole = lock(&of.fixed.security);
        let mut some = SecurityDescriptor::new();
        if parts.contains(SecurityParts::OWNER) {
            some.owner = whole.owner;
        }
        if parts.contains(SecurityParts::GROUP) {
            some.group = whole.group;
        }
        if parts.contains(SecurityParts::DACL) {
            some.dacl.clone_from(&whole.dacl);
        } else {
            some.dacl = None;
        }
        Ok(some)
    }

    /// NtSetSecurityObject: replaces those parts, for all ends and instances to come (NP-SEC-01).
    ///
    /// # Errors
    /// ACCESS_DENIED without WRITE_OWNER (owner, group) or WRITE_DAC; INVALID_OWNER: an owner that the caller may not
    /// name; INVALID_SECURITY_DESCR: an owner or group is to be set and missing; PIPE_DISCONNECTED (NP-SEC-02).
    pub fn set_security(
        &mut self,
        asker: Asker<'_>,
        end: EndId,
        parts: SecurityParts,
        given: SecurityDescriptor,
    ) -> Result<(), NtStatus> {
        let of = self.pipe_of(asker.client, end)?;
        let mut needed = Mask::empty();
        if parts.intersects(SecurityParts::OWNER | SecurityParts::GROUP) {
            needed |= Mask::WRITE_OWNER;
        }
        if parts.contains(SecurityParts::DACL) {
            needed |= Mask::WRITE_DAC;
        }
        if !of.granted.contains(needed) || parts.contains(SecurityParts::SACL) {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let missing = |part, sid: Option<_>| parts.contains(part) && sid.is_none();
        if missing(SecurityParts::OWNER, given.owner) || missing(SecurityParts::GROUP, given.group)
        {
            return Err(NtStatus::INVALID_SECURITY_DESCR);
        }
        if parts.contains(SecurityParts::OWNER)
            && !asker.token.is_privileged()
            && !given.owner.is_some_and(|owner| asker.token.has(&owner))
        {
            return Err(NtStatus::INVALID_OWNER);
        }
        let mut whole = lock(&of.fixed.security);
        if parts.contains(SecurityParts::OWNER) {
            whole.owner = given.owner;
        }
        if parts.contains(SecurityParts::GROUP) {
            whole.group = given.group;
        }
        if parts.contains(SecurityParts::DACL) {
            whole.dacl = given.dacl;
        }
        Ok(())
    }

    /// The open ends of a session.
    #[must_use]
    pub fn ends_of(&self, client: ClientId) -> Vec<EndId> {
        let owned = self.owned.get(&client).into_iter().flatten();
        owned.copied().collect()
    }

    /// Nothing is left: no name, no end, nobody who waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pipes.is_empty()
            && self.servers.is_empty()
            && self.clients.is_empty()
            && self.owned.is_empty()
            && self.shared.is_empty()
            && self.pending.is_empty()
            && self.deadlines.is_empty()
    }

    // ---- inside ------------------------------------------------------------------------------------------------

    fn own(&mut self, owner: ClientId, end: EndId) {
        self.owned.entry(owner).or_default().insert(end);
    }

    /// The instance whose server end this is; the status if it is none of this client's, or a client end.
    fn server(&mut self, client: ClientId, end: EndId) -> Result<&mut Instance<C>, NtStatus> {
        if !self.owns(client, end) {
            return Err(NtStatus::INVALID_HANDLE);
        }
        if let Some(client) = self.clients.get(end) {
            return Err(match client.server {
                Some(_) => NtStatus::ILLEGAL_FUNCTION, // NP-DISC-05
                None => NtStatus::PIPE_DISCONNECTED,   // NP-DISC-06
            });
        }
        self.servers.get_mut(end).ok_or(NtStatus::INVALID_HANDLE)
    }

    /// To the end of the line; everybody who waits for an instance is released (NP-WAIT-08).
    fn enter_listening(&mut self, end: EndId, out: &mut Vec<Completion<C>>) {
        self.order += 1;
        let since = self.order;
        let Some(instance) = self.servers.get_mut(end) else {
            return;
        };
        // One that nobody had for a while may have listens pending.
        let listens = instance.listens().map(std::mem::take);
        instance.link = Wire::Listening {
            since,
            listens: listens.unwrap_or_default(),
        };
        let Some(pipe) = self.pipes.get_mut(&instance.pipe.key) else {
            return;
        };
        pipe.listening.insert(since, end);
        let waiters = std::mem::take(&mut pipe.waiters);
        self.release(waiters, Ok(()), out);
    }

    fn release(
        &mut self,
        waiters: BTreeMap<u64, Waiter>,
        answer: Result<(), NtStatus>,
        out: &mut Vec<Completion<C>>,
    ) {
        for waiter in waiters.into_values() {
            self.pending.remove(&(waiter.client, waiter.tag));
            if let Some(deadline) = waiter.deadline {
                self.deadlines
                    .remove(&(deadline, waiter.client, waiter.tag));
            }
            out.push(Completion::Done(waiter.client, waiter.tag, answer));
        }
    }

    fn end_listens(
        &mut self,
        listens: Vec<(ClientId, Tag)>,
        status: NtStatus,
        out: &mut Vec<Completion<C>>,
    ) {
        for listen in listens {
            self.pending.remove(&listen);
            out.push(Completion::Done(listen.0, listen.1, Err(status)));
        }
    }

    /// Takes one pended request out of its line; `None`: nobody is there to hear of it.
    fn end_pending(
        &mut self,
        client: ClientId,
        tag: Tag,
        status: Option<NtStatus>,
        out: &mut Vec<Completion<C>>,
    ) -> bool {
        match self.pending.remove(&(client, tag)) {
            None => return false,
            Some(Pending::Listen(end)) => {
                let instance = self.servers.get_mut(end);
                if let Some(listens) = instance.and_then(Instance::listens) {
                    listens.retain(|&listen| listen != (client, tag));
                }
            }
            Some(Pending::Wait(key, order)) => {
                let waiter = self
                    .pipes
                    .get_mut(&key)
                    .and_then(|pipe| pipe.waiters.remove(&order));
                if let Some(deadline) = waiter.and_then(|waiter| waiter.deadline) {
                    self.deadlines.remove(&(deadline, client, tag));
                }
            }
        }
        out.extend(status.map(|status| Completion::Done(client, tag, Err(status))));
        true
    }

    fn pending_of(&self, client: ClientId) -> Vec<Tag> {
        let range = (client, Tag(0))..=(client, Tag(u64::MAX));
        self.pending
            .range(range)
            .map(|(&(_, tag), _)| tag)
            .collect()
    }
}

/// Section 4.2: the pipe does not exist.
fn first_instance(create: &Create) -> Result<Mask, NtStatus> {
    if create.max_instances == 0 || create.default_timeout.is_none_or(|time| time.is_zero()) {
        return Err(NtStatus::INVALID_PARAMETER); // NP-CREATE-10
    }
    if create.disposition == Disposition::Open {
        return Err(NtStatus::OBJECT_NAME_NOT_FOUND); // NP-CREATE-11
    }
    let wanted = create.access.map_generic();
    Ok(if wanted.contains(Mask::MAXIMUM_ALLOWED) {
        (wanted - Mask::MAXIMUM_ALLOWED) | Mask::FILE_ALL_ACCESS
    } else {
        wanted
    })
}

/// Section 4.3: it does. The order of the checks is the rule's.
fn further_instance(pipe: &Pipe, asker: Asker<'_>, create: &Create) -> Result<Mask, NtStatus> {
    let wanted = create.access.map_generic() | Mask::FILE_CREATE_PIPE_INSTANCE;
    let granted = check(&lock(&pipe.fixed.security), asker.token, wanted)
        .map_err(|_| NtStatus::ACCESS_DENIED)?; // NP-CREATE-20
    if pipe.instances.len() >= pipe.fixed.max_instances as usize {
        return Err(NtStatus::INSTANCE_NOT_AVAILABLE); // NP-CREATE-21, 26
    }
    if create.disposition == Disposition::Create {
        return Err(NtStatus::ACCESS_DENIED); // NP-CREATE-22
    }
    if create.direction != pipe.fixed.direction {
        return Err(NtStatus::ACCESS_DENIED); // NP-CREATE-23
    }
    let names_owner = |given: &SecurityDescriptor| given.owner.is_some() || given.group.is_some();
    if create.security.as_ref().is_some_and(names_owner) && wanted.contains(Mask::WRITE_OWNER) {
        return Err(NtStatus::ACCESS_DENIED); // NP-CREATE-27
    }
    Ok(granted)
}

/// What an end may do with data: what it was granted, in the directions that the pipe has.
fn data_access(granted: Mask, allowed: Access) -> Access {
    Access {
        read: allowed.read && granted.contains(Mask::FILE_READ_DATA),
        write: allowed.write && granted.contains(Mask::FILE_WRITE_DATA),
    }
}
