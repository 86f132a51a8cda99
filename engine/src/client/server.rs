//! What a process keeps of one server end: its state, its modes, and the connection that it has just now.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use npfs_ringbuf::{
    CompletionMode, Conn, Current, Deadline, Held, Named, PipeType, ReadMode, SpinPolicy,
};

use super::{
    cancel::Cancel,
    channel::{Channel, Notify, done},
    gift::{self, EndToken, Giving},
    namespace::Inner,
};
use crate::{
    Error, Result, jobs,
    lock::lock,
    npfs::{Create, EndId, Modes, Quality, State, Tag},
    security::Mask,
    sys,
    wire::{Peer, Request, Words},
};

/// A server end. Closed when it is dropped, or by the last of its users.
#[derive(Debug)]
pub(crate) struct ServerEnd {
    place: Mutex<Place>,
    pub(crate) pipe_type: PipeType,
    pub(crate) granted: Mask,
    /// The connection, while a client has this instance open or has left it closing.
    current: Current<Conn>,
    own: Mutex<Own>,
    /// How many have it in this process: more than one, if it was given away and taken back.
    users: AtomicU32,
    closed: AtomicBool,
    /// Other processes may have it, too, if this is not 0: for so many reasons.
    shared: AtomicU32,
}

/// Which broker knows the instance, and by what id.
#[derive(Clone, Debug)]
struct Place {
    channel: Arc<Channel>,
    end: EndId,
    /// To make the instance again at the next broker.
    recipe: Option<Arc<Recipe>>,
}

/// With the counts of an `Arc` it fills a chunk of 144 bytes of the heap.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<ServerEnd>() <= 120);

/// How a server end was made, and whom to ask for it. Ends that were made the same way share it.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) namespace: Weak<Inner>,
    pub(super) create: Create,
}

/// What outlives a connection (NP-OBJ-10).
#[derive(Debug)]
struct Own {
    /// Without a connection: whether a client may open it. With one, this says nothing.
    listening: bool,
    /// Ends on one link have it in common, ...
    client: Option<Arc<Peer>>,
    /// ... and each what its client lets it do.
    quality: Quality,
    /// Who has made this end, if that was another process (NP-ATTR-08).
    origin: Option<Box<Peer>>,
    read: ReadMode,
    completion: CompletionMode,
    spin: Option<SpinPolicy>,
}

impl ServerEnd {
    pub(super) fn new(
        channel: &Arc<Channel>,
        end: EndId,
        pipe_type: PipeType,
        granted: Mask,
    ) -> Arc<ServerEnd> {
        Arc::new(ServerEnd {
            place: Mutex::new(Place {
                channel: channel.clone(),
                end,
                recipe: None,
            }),
            pipe_type,
            granted,
            current: Current::new(),
            own: Mutex::new(Own {
                listening: granted.intersects(Mask::FILE_READ_DATA | Mask::FILE_WRITE_DATA),
                client: None,
                quality: Quality::default(),
                origin: None,
                read: ReadMode::Byte,
                completion: CompletionMode::Queue,
                spin: None,
            }),
            users: AtomicU32::new(1),
            closed: AtomicBool::new(false),
            shared: AtomicU32::new(0),
        })
    }

    /// How it was made, so that it can be made again.
    pub(super) fn remember(&self, recipe: Arc<Recipe>) {
        lock(&self.place).recipe = Some(recipe);
    }

    /// The next broker has made it again.
    pub(super) fn returned(&self, channel: &Arc<Channel>, end: EndId) {
        let mut place = lock(&self.place);
        place.channel = channel.clone();
        place.end = end;
    }

    fn place(&self) -> Place {
        lock(&self.place).clone()
    }

    /// The same, at the next broker if the one that knew it has gone.
    fn place_now(self: &Arc<Self>) -> Result<Place> {
        let place = self.place();
        if !place.channel.is_gone() {
            return Ok(place);
        }
        if let Some(recipe) = &place.recipe
            && let Some(namespace) = recipe.namespace.upgrade()
        {
            let is_back = || !self.place().channel.is_gone();
            namespace.return_to_broker(self, &recipe.create, is_back)?;
        }
        Ok(self.place())
    }

    /// A client has opened it.
    pub(super) fn connected(&self, conn: Conn, client: Arc<Peer>, quality: Quality) {
        let mut own = lock(&self.own);
        own.client = Some(client);
        own.quality = quality;
        own.listening = false;
        if !self.may_be_anothers() {
            // Fresh and unused: neither can be refused. Where several processes have it the broker has set them.
            let _ = conn.set_modes(own.read, own.completion);
        }
        if let Some(spin) = own.spin {
            conn.set_spin_policy(spin);
        }
        self.current.set(Some(conn));
    }

    /// The connection, if that is easily said.
    #[inline(always)]
    pub(crate) fn conn_at_hand(&self) -> Option<Named<'_, Conn>> {
        let conn = self.current.glance()?;
        (!self.is_out_of_date(&conn)).then_some(conn)
    }

    /// The connection; the state's error if there is none (NP-READ-05).
    // In its caller, whatever its size: the answer went through memory, written by halves and read as a whole.
    #[inline(always)]
    pub(crate) fn conn(self: &Arc<Self>) -> Result<Held<'_, Conn>> {
        match self.conn_at_hand() {
            Some(conn) => Ok(conn.into()),
            None => self.conn_otherwise(),
        }
    }

    #[cold]
    #[inline(never)]
    fn conn_otherwise(self: &Arc<Self>) -> Result<Held<'_, Conn>> {
        match self.current.get() {
            Some(conn) if !self.is_out_of_date(&conn) => Ok(conn),
            _ => self.news(),
        }
    }

    /// Another process may have cut this connection off, and made the instance listen, or even a client may have come.
    #[inline]
    fn is_out_of_date(&self, conn: &Conn) -> bool {
        self.may_be_anothers() && conn.state() == npfs_ringbuf::State::Disconnected
    }

    /// None is known: perhaps the broker has said so in the meantime.
    fn news(self: &Arc<Self>) -> Result<Held<'_, Conn>> {
        self.hear();
        if let Some(conn) = self.current.get() {
            return Ok(conn);
        }
        Err(if lock(&self.own).listening {
            Error::NotConnected
        } else {
            Error::Disconnected
        })
    }

    pub(crate) fn state(self: &Arc<Self>) -> State {
        match self.conn().map(|conn| conn.state()) {
            Ok(state) => state.into(),
            Err(Error::NotConnected) => State::Listening,
            Err(_) => State::Disconnected,
        }
    }

    pub(crate) fn client(self: &Arc<Self>) -> Result<(Peer, Quality)> {
        self.conn()?;
        self.known_client().ok_or(Error::NotConnected)
    }

    fn known_client(&self) -> Option<(Peer, Quality)> {
        let own = lock(&self.own);
        let client = own.client.as_deref().copied();
        client.map(|client| (client, own.quality))
    }

    /// FSCTL_PIPE_LISTEN (section 7).
    pub(crate) fn listen(self: &Arc<Self>, cancel: &Cancel, deadline: Deadline) -> Result<()> {
        if self.may_be_anothers() {
            self.hear();
        }
        // Without news: if a client has come, its connection arrives before the broker's refusal to listen.
        let conn = self.current.get();
        if let Some(conn) = conn.filter(|conn| !self.is_out_of_date(conn)) {
            return Err(match conn.state() {
                npfs_ringbuf::State::Closing => Error::Closing,
                _ => Error::AlreadyConnected,
            });
        }
        let pends = lock(&self.own).completion == CompletionMode::Queue;
        let ask = |place: &Place| {
            let tag = place.channel.next_tag();
            let request = Request::Listen(tag, place.end, pends);
            lock(&self.own).listening = true;
            jobs::waiting(deadline, |deadline| {
                place
                    .channel
                    .ask_until(tag, &request, deadline, &|request| cancel.watch(request))
            })
        };
        let answer = match ask(&self.place_now()?) {
            // It has gone, and may be there again.
            Err(Error::NoBroker { .. }) => ask(&self.place_now()?),
            other => other,
        };
        answer.and_then(done)
    }

    /// FSCTL_PIPE_DISCONNECT (section 8). The client hears of it at once; the broker is told, and not waited for.
    pub(crate) fn disconnect(self: &Arc<Self>) -> Result<()> {
        let asks = self.state() == State::Listening || self.may_be_anothers();
        // A connection outlives its broker, and is this process's to end then.
        let alone = self.place().channel.is_gone() && self.is_connected();
        if asks && !alone {
            // NP-DISC-04; a client may come at the same moment, so the broker decides, and its answer takes its place
            // among the connections that come.
            let Place { channel, end, .. } = self.place_now()?;
            let tag = channel.next_tag();
            channel.leaves_with(tag, &Arc::downgrade(self));
            let answer = channel.ask(tag, &Request::Disconnect(tag, end));
            return answer.and_then(done);
        }
        let mut own = lock(&self.own);
        if self.current.get().is_none() {
            return Err(Error::Disconnected);
        }
        self.cut_off(&mut own);
        // In line under the lock: before the listen that may follow from another thread.
        let Place { channel, end, .. } = self.place();
        channel.put(&Request::Disconnect(Tag(0), end));
        drop(own);
        channel.hurry();
        Ok(())
    }

    /// The broker has disconnected it.
    pub(super) fn leave(&self) {
        self.cut_off(&mut lock(&self.own));
    }

    fn cut_off(&self, own: &mut Own) {
        if let Some(conn) = self.current.get() {
            // A client that has spoiled its connection is no reason to stay in it.
            let _ = conn.disconnect();
        }
        own.listening = false;
        own.client = None;
        self.current.set(None);
    }

    pub(crate) fn modes(self: &Arc<Self>) -> Modes {
        if self.may_be_anothers() {
            self.hear();
            if let Some(conn) = self.current.get() {
                return (conn.read_mode(), conn.completion_mode());
            }
        }
        let own = lock(&self.own);
        (own.read, own.completion)
    }

    /// NP-INFO-05, 06: of this end, whatever it is connected to.
    pub(crate) fn set_modes(
        self: &Arc<Self>,
        read: ReadMode,
        completion: CompletionMode,
    ) -> Result<()> {
        if read == ReadMode::Message && self.pipe_type == PipeType::Byte {
            return Err(Error::InvalidMode);
        }
        if self.may_be_anothers() {
            self.hear();
        }
        let mut own = lock(&self.own);
        if let Some(conn) = self.current.get() {
            conn.set_modes(read, completion)?;
        }
        own.read = read;
        own.completion = completion;
        drop(own);
        let Place { channel, end, .. } = self.place();
        if self.may_be_anothers() && !channel.is_gone() {
            let tag = channel.next_tag();
            let request = Request::SetModes(tag, end, (read, completion));
            match channel.ask(tag, &request).and_then(done) {
                // It goes just now: the modes are this process's own by then.
                Err(Error::NoBroker { .. }) => {}
                told => told?,
            }
        }
        Ok(())
    }

    pub(super) fn set_spin_policy(&self, policy: SpinPolicy) {
        let mut own = lock(&self.own);
        own.spin = Some(policy);
        if let Some(conn) = self.current.get() {
            conn.set_spin_policy(policy);
        }
    }

    // ---- an end of several processes ---------------------------------------------------------------------------

    /// Other processes may have it from now on.
    pub(super) fn share(&self) {
        self.shared.fetch_add(1, Ordering::SeqCst);
    }

    /// For this reason they do not: the broker has refused to give it.
    fn unshare(&self) {
        let own = lock(&self.own);
        if self.shared.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(conn) = self.current.get()
        {
            // If it came meanwhile, nobody has set its modes.
            let _ = conn.set_modes(own.read, own.completion);
        }
    }

    /// The same, and another process has made it.
    pub(super) fn came_from(&self, origin: Peer) {
        self.share();
        lock(&self.own).origin = Some(Box::new(origin));
    }

    /// Who has made it.
    pub(crate) fn origin(&self) -> Peer {
        let origin = lock(&self.own).origin.as_deref().copied();
        origin.unwrap_or_else(sys::own_identity)
    }

    /// Whether closing it leaves what pends on it alone, since others may have it.
    pub(crate) fn may_be_anothers(&self) -> bool {
        self.shared.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn give(self: &Arc<Self>, giving: Giving) -> Result<EndToken> {
        let Place { channel, end, .. } = if self.is_connected() {
            // The next broker knows nothing of this connection.
            self.place()
        } else {
            self.place_now()?
        };
        self.share();
        let (peer, quality) = self.known_client().unwrap_or_default();
        let words = Words {
            options: giving.options,
            origin: self.origin(),
            peer,
            quality,
        };
        gift::give(&channel, end, giving, self.modes(), words, || {
            self.unshare();
        })
    }

    /// The broker says how it is, without its connection.
    pub(super) fn is_now(&self, modes: Modes, listening: bool) {
        let mut own = lock(&self.own);
        (own.read, own.completion) = modes;
        own.listening = listening;
        let over = self.current.get();
        let over = over.is_some_and(|conn| conn.state() == npfs_ringbuf::State::Disconnected);
        if over {
            own.client = None;
            self.current.set(None);
        }
    }

    /// Whether that is its connection.
    pub(super) fn has(&self, conn: &Conn) -> bool {
        self.current.get().is_some_and(|own| own.id() == conn.id())
    }
}

impl ServerEnd {
    /// For operations that outlive the call which starts them.
    pub(crate) fn shared(self: &Arc<Self>) -> Result<Arc<Conn>> {
        self.conn().map(|conn| conn.share())
    }

    /// Its connection, as far as this process has heard.
    pub(super) fn connection(&self) -> Option<Arc<Conn>> {
        self.current.get().map(|conn| conn.share())
    }

    /// Whether a client has it, as far as this process has heard.
    pub(crate) fn is_connected(&self) -> bool {
        self.current.get().is_some()
    }

    /// What the broker has said in the meantime is heard; of an end that others have too, it is asked.
    pub(crate) fn hear(self: &Arc<Self>) {
        let Place { channel, end, .. } = self.place();
        channel.drain();
        let connected = self.current.get();
        let connected = connected.is_some_and(|conn| !self.is_out_of_date(&conn));
        if self.may_be_anothers() && !connected && !channel.is_gone() {
            // Without an answer it is as it was.
            let _ = channel.refresh(end, self);
        }
    }

    /// Whom to ask about it, and as what.
    pub(crate) fn known_as(&self) -> (Arc<Channel>, EndId) {
        let Place { channel, end, .. } = self.place();
        (channel, end)
    }

    /// FSCTL_PIPE_LISTEN without a thread that waits. The answer comes to `notify`.
    pub(crate) fn listen_and_go(self: &Arc<Self>, notify: Notify) -> Result<(Arc<Channel>, Tag)> {
        let Place { channel, end, .. } = self.place_now()?;
        let tag = channel.next_tag();
        lock(&self.own).listening = true;
        channel.ask_and_go(tag, &Request::Listen(tag, end, true), notify)?;
        Ok((channel, tag))
    }

    /// It was taken back by the process that has it. `false`: it is just being closed.
    pub(super) fn one_more(&self) -> bool {
        let more = |users: u32| (users != 0).then(|| users + 1);
        let changed = self
            .users
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        changed.is_ok()
    }

    /// One of its users in this process has closed its last handle.
    pub(crate) fn close(&self) {
        if self.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.close_now();
        }
    }

    fn close_now(&self) {
        if self.closed.swap(true, Ordering::SeqCst) || self.place().channel.is_inherited() {
            return;
        }
        let Place { channel, end, .. } = self.place();
        channel.forget_server(end);
        match self.current.get() {
            Some(conn) => channel.close_end(&conn, end, self.may_be_anothers()),
            None => channel.tell(&Request::Close(end)),
        }
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.close_now();
    }
}
