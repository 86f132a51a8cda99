//! The pair of worker processes: started, told what to do, given up on when they do not answer.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use npfs::{Broker, BrokerOptions};

use crate::WORKER_COMMAND;
use crate::baselines;
use crate::clock::Clock;
use crate::control::{Control, Order, Probes, Reply, Task};
use crate::placement::Placement;
use crate::probe;
use crate::sys::{self, Shared};
use crate::transport::{DEFAULT_QUOTA, Kind, Parts, Role, Ticket};
use crate::workloads::{Outcome, Pace};

/// Two workers on their CPUs: `[server, client]`.
#[derive(Debug)]
pub(crate) struct Crew {
    placement: Placement,
    clock: Clock,
    grace: Duration,
    workers: [Worker; 2],
    /// who knows the names; in this process
    broker: Site,
    /// pipes so far: each run has its own
    pipes: u64,
    /// what the probe's lines hold
    line: u64,
    /// other instances are connected
    gathered: bool,
    /// reads pend on other pipes
    reading: bool,
    /// client processes that do nothing
    guests: Vec<Guest>,
}

/// It ends with its standard input, which is ours.
#[derive(Debug)]
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
struct Worker {
    child: Child,
    control: Control,
}

impl Crew {
    /// Starts both. `grace` is what a run may take beyond its own time before it counts as hung.
    pub(crate) fn start(placement: Placement, clock: Clock, grace: Duration) -> Result<Crew> {
        let broker = Site::start(placement)?;
        let workers = start_both(placement, clock, grace, &broker.socket)?;
        Ok(Crew {
            placement,
            clock,
            grace,
            workers,
            broker,
            pipes: 0,
            line: 0,
            gathered: false,
            reading: false,
            guests: Vec::new(),
        })
    }

    /// Where they run.
    pub(crate) fn placement(&self) -> Placement {
        self.placement
    }

    /// One run of `task` over `kind`, and what the probes around it say, in nanoseconds (none with
    /// both ends on one CPU). After an error both workers have been replaced.
    pub(crate) fn run(
        &mut self,
        kind: Kind,
        task: Task,
        pace: Pace,
    ) -> Result<(Outcome, Option<[f64; 2]>)> {
        let answer = self.try_run(kind, task, pace, |crew| {
            for worker in &crew.workers {
                worker.control.send(&Order::Go, &[]).context("order")?;
            }
            crew.collect(pace.warm_most + pace.run + crew.grace)
        });
        let [(server, _), (client, probes)] = self.or_replace(answer, "run")?;
        let probes = probes.map(|probes| probes.map(|tenths| tenths as f64 / 10.0));
        Ok((Outcome::of_both(server, client), probes))
    }

    /// Puts both to sleep in a read and calls `watch` with their process ids; then wakes them.
    pub(crate) fn idle<T>(
        &mut self,
        kind: Kind,
        pace: Pace,
        watch: impl FnOnce([u32; 2]) -> Result<T>,
    ) -> Result<T> {
        let answer = self.try_run(kind, Task::Idle, pace, |crew| {
            let seen = watch(crew.pids())?;
            crew.workers[1]
                .control
                .send(&Order::Go, &[])
                .context("client")?;
            crew.collect(crew.grace)?;
            Ok(seen)
        });
        self.or_replace(answer, "idle")
    }

    fn try_run<T>(
        &mut self,
        kind: Kind,
        task: Task,
        pace: Pace,
        go: impl FnOnce(&mut Crew) -> Result<T>,
    ) -> Result<T> {
        let one_way = task == Task::OneWay;
        let yields = self.placement.is_one_cpu();
        self.pipes += 1;
        let parts = match kind {
            Kind::Ours { quota } | Kind::OursInPlace { quota } => {
                if self.gathered {
                    // Without the others of the last run.
                    self.hold(CROWD, 0)?;
                    self.gathered = false;
                }
                pipe(format!("run {}", self.pipes), quota)
            }
            Kind::OursAmong { others } => {
                self.gather(others)?;
                pipe(CROWD.to_owned(), DEFAULT_QUOTA)
            }
            Kind::Overlapped => {
                // Alone: the others of the last run have to go.
                self.dismiss()?;
                pipe(format!("run {}", self.pipes), DEFAULT_QUOTA)
            }
            Kind::OverlappedAmong { others } => {
                self.let_read(others)?;
                pipe(format!("run {}", self.pipes), DEFAULT_QUOTA)
            }
            Kind::OverlappedOfClients { others } => {
                self.invite(others)?;
                pipe(format!("run {}", self.pipes), DEFAULT_QUOTA)
            }
            _ if matches!(task, Task::Connect | Task::Serve) => {
                let path = self.broker.folder.join(format!("run{}", self.pipes));
                pipe(path.display().to_string(), 0)
            }
            _ => baselines::prepare(kind, pace.size, one_way, yields)?,
        };
        let lines = (task != Task::Idle && !self.placement.is_one_cpu()).then_some(self.line);
        if lines.is_some() {
            self.line += 2 * probe::STEP;
        }
        for (worker, Parts { fds, ticket }) in self.workers.iter().zip(parts) {
            let order = Order::Run {
                lines,
                kind,
                ticket,
                task,
                pace,
            };
            worker.control.send(&order, &fds).context("order")?;
        }
        self.wait_ready()?;
        go(self)
    }

    /// The other instances that [`Kind::OursAmong`] cycles among; nothing to do the second time.
    pub(crate) fn gather(&mut self, others: u32) -> Result<()> {
        self.gathered = true;
        self.hold(CROWD, others)
    }

    /// The other pipes that [`Kind::OverlappedAmong`] has reads pending on; nothing to do the second time in a row.
    pub(crate) fn let_read(&mut self, others: u32) -> Result<()> {
        self.reading = true;
        self.hold_so(READING, others, true)
    }

    /// No read pends but those of the run to come.
    fn dismiss(&mut self) -> Result<()> {
        if !self.reading {
            return Ok(());
        }
        self.hold_so(READING, 0, true)?;
        self.guests.clear();
        self.reading = false;
        Ok(())
    }

    /// The processes that [`Kind::OverlappedOfClients`] has reads pending for; nothing to do the second time.
    fn invite(&mut self, count: u32) -> Result<()> {
        if self.guests.len() == count as usize {
            return Ok(());
        }
        self.reading = true;
        let order = Order::Hold {
            count,
            name: GUESTS.to_owned(),
            reads: true,
        };
        let within = self.grace + Duration::from_millis(10 * u64::from(count));
        let [server, _] = &mut self.workers;
        server.control.send(&order, &[]).context("order")?;
        server.ready(within).context("server")?;
        for _ in 0..count {
            let guest = Command::new("/proc/self/exe")
                .arg0("npfs")
                .arg(WORKER_COMMAND)
                .arg(&self.broker.socket)
                .arg(GUESTS)
                .stdin(Stdio::piped())
                .spawn();
            self.guests
                .push(Guest(guest.context("cannot start a client process")?));
        }
        server.ready(within).context("server")
    }

    /// Both hold so many connections, in place of those that they held.
    pub(crate) fn hold(&mut self, name: &str, count: u32) -> Result<()> {
        self.hold_so(name, count, false)
    }

    fn hold_so(&mut self, name: &str, count: u32, reads: bool) -> Result<()> {
        let order = || Order::Hold {
            count,
            name: name.to_owned(),
            reads,
        };
        let within = self.grace + Duration::from_millis(u64::from(count));
        let [server, client] = &mut self.workers;
        server.control.send(&order(), &[]).context("order")?;
        server.ready(within).context("server")?;
        client.control.send(&order(), &[]).context("order")?;
        client.ready(within).context("client")?;
        server.ready(within).context("server")
    }

    /// What the broker knows.
    pub(crate) fn broker(&self) -> &Broker {
        &self.broker.broker
    }

    pub(crate) fn pids(&self) -> [u32; 2] {
        self.workers.each_ref().map(|worker| worker.child.id())
    }

    fn wait_ready(&mut self) -> Result<()> {
        for (name, reply) in NAMES.iter().zip(replies(&mut self.workers, self.grace)?) {
            match reply {
                Reply::Ready => {}
                Reply::Failed(text) => bail!("{name}: {text}"),
                Reply::Done(..) => bail!("{name}: answer out of turn"),
            }
        }
        Ok(())
    }

    fn collect(&mut self, within: Duration) -> Result<[(Outcome, Option<Probes>); 2]> {
        let mut outcomes = Vec::new();
        for (name, reply) in NAMES.iter().zip(replies(&mut self.workers, within)?) {
            match reply {
                Reply::Done(outcome, probes) => outcomes.push((outcome, probes)),
                Reply::Failed(text) => bail!("{name}: {text}"),
                Reply::Ready => bail!("{name}: answer out of turn"),
            }
        }
        outcomes
            .try_into()
            .map_err(|_| anyhow!("two answers were due"))
    }

    /// A worker that has died is the reason, whatever was noticed first: its socket, or what the other one said of it.
    fn blame(&mut self, error: anyhow::Error) -> anyhow::Error {
        let patience = Instant::now() + Duration::from_millis(100);
        loop {
            for (name, worker) in NAMES.iter().zip(&mut self.workers) {
                if let Ok(Some(_)) = worker.child.try_wait() {
                    let (end, said) = (worker.obituary(), format!("{error:#}"));
                    return if said.contains(&end) {
                        error
                    } else {
                        anyhow!("{name} {end} ({said})")
                    };
                }
            }
            if Instant::now() > patience {
                return error;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// After a failure neither worker can be trusted to be where it should: new ones take over.
    fn or_replace<T>(&mut self, answer: Result<T>, what: &str) -> Result<T> {
        let answer = answer.map_err(|error| self.blame(error));
        if answer.is_err() {
            for worker in &mut self.workers {
                worker.end();
            }
            self.workers = start_both(self.placement, self.clock, self.grace, &self.broker.socket)
                .with_context(|| format!("new workers after a failed {what}"))?;
            self.line = 0;
            self.guests.clear();
            self.reading = false;
            self.gathered = false;
        }
        answer
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.end();
        }
    }
}

impl Worker {
    fn start(
        role: Role,
        cpu: usize,
        clock: Clock,
        line: &impl AsFd,
        socket: &Path,
    ) -> Result<Worker> {
        let (control, theirs) = UnixStream::pair().context("socketpair")?;
        // This very program, also if its file was replaced while it runs.
        let child = Command::new("/proc/self/exe")
            .arg0("npfs")
            .arg(WORKER_COMMAND)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .spawn()
            .context("cannot start a worker process")?;
        let worker = Worker {
            child,
            control: Control::new(control),
        };
        let hello = Order::Hello {
            role,
            cpu,
            clock,
            socket: socket.to_owned(),
        };
        worker
            .control
            .send(&hello, &[sys::duplicate(line)?])
            .context("hello")?;
        Ok(worker)
    }

    /// Waits until it says so.
    fn ready(&mut self, within: Duration) -> Result<()> {
        let [seen] = sys::poll_readable([self.control.as_fd()], within)?;
        if !seen {
            bail!("no answer within {:.1} s", within.as_secs_f64());
        }
        match self.control.receive() {
            Ok((Reply::Ready, _)) => Ok(()),
            Ok((Reply::Failed(text), _)) => bail!("{text}"),
            Ok((Reply::Done(..), _)) => bail!("answer out of turn"),
            Err(_) => bail!("{}", self.obituary()),
        }
    }

    /// Kills and reaps. Harmless if it has ended already.
    fn end(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            return status;
        }
        // Fails only if it has ended meanwhile, which is what is wanted.
        let _ = self.child.kill();
        self.child.wait().ok()
    }

    /// Why its control socket came to an end.
    fn obituary(&mut self) -> String {
        let patience = Instant::now() + Duration::from_secs(2);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    return match (status.signal(), status.code()) {
                        (Some(signal), _) => format!("died of signal {signal}"),
                        (None, Some(code)) => format!("ended with exit code {code}"),
                        (None, None) => "ended".to_owned(),
                    };
                }
                Ok(None) if Instant::now() < patience => thread::sleep(Duration::from_millis(5)),
                _ => return "closed its control socket".to_owned(),
            }
        }
    }
}

const NAMES: [&str; 2] = ["server", "client"];

/// The pipe that the crowd is connected to.
const CROWD: &str = "crowd";
const READING: &str = "reading";
const GUESTS: &str = "guests";

/// For both ends alike.
fn pipe(name: String, quota: u32) -> [Parts; 2] {
    [(); 2].map(|()| Parts {
        fds: Vec::new(),
        ticket: Ticket {
            name: name.clone(),
            quota,
            ..Ticket::default()
        },
    })
}

/// A broker of our own in this process, and a folder for its socket and others.
#[derive(Debug)]
struct Site {
    broker: Broker,
    folder: PathBuf,
    socket: PathBuf,
}

impl Site {
    /// On the CPUs of both ends: with these on one CPU the broker is there too.
    fn start(placement: Placement) -> Result<Site> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("npfs-bench-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        let socket = folder.join("broker.sock");
        let before = sys::allowed_cpus().context("CPUs")?;
        sys::pin(&[placement.client, placement.server]).context("no permission to run there")?;
        let broker = BrokerOptions::new().socket(&socket).start();
        sys::pin(&before).context("CPUs")?;
        let broker = broker.context("broker")?;
        Ok(Site {
            broker,
            folder,
            socket,
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What is left of it harms nobody.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn start_both(
    placement: Placement,
    clock: Clock,
    grace: Duration,
    socket: &Path,
) -> Result<[Worker; 2]> {
    let line = Shared::create(c"npfs-bench-probe", probe::LEN).context("memfd")?;
    let mut workers = [
        Worker::start(Role::Server, placement.server, clock, &line, socket)?,
        Worker::start(Role::Client, placement.client, clock, &line, socket)?,
    ];
    match replies(&mut workers, grace) {
        Ok(ready) if ready.iter().all(|reply| matches!(reply, Reply::Ready)) => Ok(workers),
        answer => {
            for worker in &mut workers {
                worker.end();
            }
            answer.and_then(|_| Err(anyhow!("a worker did not start")))
        }
    }
}

/// One reply of each worker. A worker that fails, dies or stays silent ends the wait for both.
fn replies(workers: &mut [Worker; 2], within: Duration) -> Result<[Reply; 2]> {
    let deadline = Instant::now() + within;
    let mut got: [Option<Reply>; 2] = [None, None];
    loop {
        match got {
            [Some(server), Some(client)] => return Ok([server, client]),
            [Some(Reply::Failed(text)), _] => bail!("server: {text}"),
            [_, Some(Reply::Failed(text))] => bail!("client: {text}"),
            _ => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let silent: Vec<&str> = NAMES
                .into_iter()
                .zip(&got)
                .filter(|(_, got)| got.is_none())
                .map(|n| n.0)
                .collect();
            bail!(
                "no answer from {} within {:.1} s",
                silent.join(" and "),
                within.as_secs_f64()
            );
        }
        let pending = [got[0].is_none(), got[1].is_none()];
        let readable = if pending == [true, true] {
            let [server, client] = &*workers;
            sys::poll_readable([server.control.as_fd(), client.control.as_fd()], left)?
        } else {
            let one = usize::from(pending[1]);
            let [seen] = sys::poll_readable([workers[one].control.as_fd()], left)?;
            [seen && one == 0, seen && one == 1]
        };
        for index in [0, 1] {
            if readable[index] {
                match workers[index].control.receive() {
                    Ok((reply, _)) => got[index] = Some(reply),
                    Err(_) => bail!("{} {}", NAMES[index], workers[index].obituary()),
                }
            }
        }
    }
}
