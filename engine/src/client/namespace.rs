//! A process's way to the names: which broker, and what it knows.

use std::{
    env, fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use npfs_ringbuf::Deadline;

use super::{
    cancel::Cancel,
    channel::{Answer, Channel, done},
    server::{Recipe, ServerEnd},
    watcher::Watcher,
};
use crate::{
    Error, Name, Result, jobs,
    lock::lock,
    npfs::{Create, PipeInfo, Tag, Timeout},
    sys,
    wire::{InstanceEntry, Reply, Request},
};

/// The names of pipes, as one broker keeps them. Cheap to clone; all threads of a process share one socket.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    /// To connect again after the broker has gone.
    path: Option<PathBuf>,
    channel: Mutex<Arc<Channel>>,
    /// How the last server end was made: the next is often made the same way, and shares it.
    recipe: Mutex<Weak<Recipe>>,
    /// One server end at a time is made again.
    returning: Mutex<()>,
}

impl Inner {
    /// The socket, connected again if need be.
    pub(super) fn channel(self: &Arc<Self>) -> Result<Arc<Channel>> {
        let mut channel = lock(&self.channel);
        if channel.is_gone()
            && let Some(path) = &self.path
        {
            *channel = connect(path, Arc::downgrade(self))?;
        }
        Ok(channel.clone())
    }

    /// Makes a server end again at the broker that is there now, unless another thread has done so.
    pub(super) fn return_to_broker(
        self: &Arc<Self>,
        server: &Arc<ServerEnd>,
        create: &Create,
        is_back: impl Fn() -> bool,
    ) -> Result<()> {
        let _one = lock(&self.returning);
        if is_back() {
            return Ok(());
        }
        self.channel()?.ask_again(create, server).map(drop)
    }

    /// How such an end is made, shared with the one before if it is the same.
    fn recipe(self: &Arc<Self>, create: &Create) -> Arc<Recipe> {
        let mut last = lock(&self.recipe);
        match last.upgrade() {
            Some(recipe) if recipe.create == *create => recipe,
            _ => {
                let recipe = Arc::new(Recipe {
                    namespace: Arc::downgrade(self),
                    create: create.clone(),
                });
                *last = Arc::downgrade(&recipe);
                recipe
            }
        }
    }
}

/// A pipe and its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeDetails {
    /// The pipe.
    pub pipe: PipeInfo,
    /// Oldest first.
    pub instances: Vec<InstanceEntry>,
}

impl Namespace {
    /// This user's names: the broker at [`default_socket`], which is started if it is not there.
    ///
    /// The program that is started is `npfs` (from `NPFS_BROKER`, else beside this program, else from `PATH`); it ends
    /// by itself when nobody needs it any more.
    ///
    /// # Errors
    /// [`Error::NoBroker`]: it is not there and could not be started. [`Error::Version`].
    pub fn open() -> Result<Namespace> {
        let path = default_socket();
        match Namespace::connect(&path) {
            Err(Error::NoBroker { source, .. })
                if env::var_os("NPFS_SOCKET").is_none()
                    // No reason: it ended in the middle of the hello.
                    && source.as_ref().is_none_or(nobody_listens) =>
            {
                start_broker(&path)?;
                Namespace::connect(&path)
            }
            other => other,
        }
    }

    /// The names of the broker at `path`. It is connected to again if it goes and comes back.
    ///
    /// # Errors
    /// [`Error::NoBroker`], [`Error::Version`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Namespace> {
        let path = path.as_ref();
        let channel = reach(path)?;
        let inner = Arc::new(Inner {
            path: Some(path.to_owned()),
            channel: Mutex::new(channel.clone()),
            recipe: Mutex::default(),
            returning: Mutex::new(()),
        });
        channel.watched_by(Watcher::new(Arc::downgrade(&inner), path.to_owned()));
        Ok(Namespace(inner))
    }

    /// Over a socket that is connected already.
    pub(crate) fn over(fd: OwnedFd, place: &str) -> Result<Namespace> {
        Ok(Namespace(Arc::new(Inner {
            path: None,
            channel: Mutex::new(Channel::new(fd, place)?),
            recipe: Mutex::default(),
            returning: Mutex::new(()),
        })))
    }

    /// The socket.
    pub(crate) fn channel(&self) -> Result<Arc<Channel>> {
        self.0.channel()
    }

    /// A server end, which is made again at the next broker when it next listens.
    pub(crate) fn create(&self, create: &Create) -> Result<Arc<ServerEnd>> {
        self.create_and_tell(create).map(|(end, _)| end)
    }

    /// The same, and whether the pipe was made too.
    pub(crate) fn create_and_tell(&self, create: &Create) -> Result<(Arc<ServerEnd>, bool)> {
        let answer = self
            .ask(|channel, tag| channel.ask(tag, &Request::Create(tag, Box::new(create.clone()))));
        let (_, Answer::Created(end, first)) = answer? else {
            return Err(Error::Protocol("no server end"));
        };
        // Without a name there is nothing to come back to.
        if create.name.is_some() {
            end.remember(self.0.recipe(create));
        }
        Ok((end, first))
    }

    /// Asks; a second time if the broker has gone, or goes meanwhile, and is there again. What it knew went with it, so
    /// that nothing is done twice. (Its last messages may have been taken by a socket that outlived it: io_uring closes
    /// what it polls a moment after its process has ended.)
    pub(crate) fn ask(
        &self,
        ask: impl Fn(&Arc<Channel>, Tag) -> Result<Answer>,
    ) -> Result<(Arc<Channel>, Answer)> {
        let channel = self.0.channel()?;
        let answer = match ask(&channel, channel.next_tag()) {
            Err(Error::NoBroker { .. }) if self.0.path.is_some() => {
                let channel = self.0.channel()?;
                let answer = ask(&channel, channel.next_tag())?;
                return Ok((channel, answer));
            }
            other => other?,
        };
        Ok((channel, answer))
    }

    /// Waits until an instance of the pipe is listening (section 9): for so long at most, or for the pipe's own default
    /// time. It is not reserved: the open that follows may find it taken.
    ///
    /// # Errors
    /// [`Error::NoSuchPipe`] at once if there is none (NP-WAIT-04), or once its last instance goes (NP-WAIT-09);
    /// [`Error::TimedOut`] (NP-WAIT-07).
    pub fn wait(&self, name: &str, timeout: Option<Duration>) -> Result<()> {
        self.wait_with(name, timeout, &Cancel::new())
    }

    /// As [`Namespace::wait`], until `cancel` ends it.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`Namespace::wait`].
    pub fn wait_with(&self, name: &str, timeout: Option<Duration>, cancel: &Cancel) -> Result<()> {
        self.wait_for(&Name::parse(name)?, timeout, cancel)
    }

    pub(crate) fn wait_for(
        &self,
        name: &Name,
        timeout: Option<Duration>,
        cancel: &Cancel,
    ) -> Result<()> {
        if jobs::must_not_wait() && timeout != Some(Duration::ZERO) {
            return match self.wait_for(name, Some(Duration::ZERO), cancel) {
                Err(Error::TimedOut) => Err(Error::WouldDeadlock),
                answer => answer,
            };
        }
        let how = match timeout {
            None => Timeout::Default,
            Some(Duration::MAX) => Timeout::Never,
            Some(after) => Timeout::After(after),
        };
        // The broker keeps the time; this is for one that does not answer.
        let deadline = match timeout {
            None | Some(Duration::MAX) => Deadline::NEVER,
            Some(after) => Deadline::after(after.saturating_add(SLACK)),
        };
        let answer = self.ask(|channel, tag| {
            let request = Request::Wait(tag, name.clone(), how);
            channel.ask_until(tag, &request, deadline, &|request| cancel.watch(request))
        });
        answer.and_then(|(_, answer)| done(answer))
    }

    /// All pipes, in the order of their names.
    ///
    /// # Errors
    /// [`Error::NoBroker`].
    pub fn list(&self) -> Result<Vec<PipeInfo>> {
        let mut all = Vec::new();
        let mut from = (0, Vec::new());
        loop {
            let (_, answer) = self.ask(|channel, tag| {
                channel.ask(tag, &Request::List(tag, from.0, from.1.clone()))
            })?;
            let Answer::Reply(Reply::Pipes { next, pipes, .. }) = answer else {
                return Err(Error::Protocol("no listing"));
            };
            all.extend(pipes);
            if next.0 == u64::MAX {
                break;
            }
            if next == from {
                return Err(Error::Protocol("a listing without an end"));
            }
            from = next;
        }
        all.sort_by_cached_key(|pipe| pipe.name.folded());
        Ok(all)
    }

    /// One pipe, with its instances.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::NoSuchPipe`], [`Error::NoBroker`].
    pub fn info(&self, name: &str) -> Result<PipeDetails> {
        let name = Name::parse(name)?;
        let mut all = Vec::new();
        loop {
            let (_, answer) = self.ask(|channel, tag| {
                channel.ask(tag, &Request::Info(tag, name.clone(), all.len() as u64))
            })?;
            let Answer::Reply(Reply::Instances {
                pipe, instances, ..
            }) = answer
            else {
                return Err(Error::Protocol("no listing"));
            };
            let last = instances.is_empty();
            all.extend(instances);
            if last || all.len() >= pipe.instances as usize {
                return Ok(PipeDetails {
                    pipe: *pipe,
                    instances: all,
                });
            }
        }
    }
}

/// Where this user's broker listens: `NPFS_SOCKET`, else `npfs/broker.sock` in `XDG_RUNTIME_DIR`, else in
/// `/tmp/npfs-UID`.
#[must_use]
pub fn default_socket() -> PathBuf {
    if let Some(path) = env::var_os("NPFS_SOCKET").filter(|path| !path.is_empty()) {
        return path.into();
    }
    match env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(folder) => PathBuf::from(folder).join("npfs/broker.sock"),
        None => PathBuf::from(format!("/tmp/npfs-{}/broker.sock", sys::uid())),
    }
}

/// A channel of that namespace, watched.
pub(super) fn connect(path: &Path, namespace: Weak<Inner>) -> Result<Arc<Channel>> {
    let channel = reach(path)?;
    channel.watched_by(Watcher::new(namespace, path.to_owned()));
    Ok(channel)
}

fn reach(path: &Path) -> Result<Arc<Channel>> {
    let no_broker = |source| Error::NoBroker {
        path: path.display().to_string(),
        source: Some(source),
    };
    // In /tmp anybody may have made the folder before: names would be theirs to give.
    if path.starts_with("/tmp")
        && let Some(folder) = path.parent()
        && let Ok(meta) = fs::metadata(folder)
        && meta.uid() != sys::uid()
        && meta.uid() != 0
    {
        return Err(no_broker(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "its folder belongs to another user",
        )));
    }
    let fd = sys::connect(path).map_err(no_broker)?;
    Channel::new(fd, &path.display().to_string())
}

fn nobody_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Starts `npfs broker --detach`, which ends when the broker can be reached.
fn start_broker(path: &Path) -> Result<()> {
    let beside = env::current_exe()
        .ok()
        .map(|program| program.with_file_name("npfs"))
        .filter(|program| program.is_file());
    let program = env::var_os("NPFS_BROKER")
        .map(PathBuf::from)
        .or(beside)
        .unwrap_or_else(|| "npfs".into());
    let started = Command::new(&program)
        .args(["broker", "--detach", "--idle-exit", "60", "--socket"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let problem = match started {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => io::Error::other(format!("{} broker: {status}", program.display())),
        Err(error) => io::Error::new(
            error.kind(),
            format!("{} could not be started: {error}", program.display()),
        ),
    };
    Err(Error::NoBroker {
        path: path.display().to_string(),
        source: Some(problem),
    })
}

/// Beyond the time that the broker keeps.
const SLACK: Duration = Duration::from_secs(2);
