//! One of the two processes: opens what it is told to, runs a loop, reports, and waits for more.

use std::any::Any;
use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use npfs::Namespace;

use crate::baselines::{mailbox, memcpy, ring_in_frame, ring_index, stream};
use crate::clock::Clock;
use crate::connect::{self, Crowd, Held};
use crate::control::{Control, Order, Probes, Reply, Task};
use crate::ours;
use crate::overlapped::{self, Reading};
use crate::payload::{FULL, Writer};
use crate::probe::{self, probe};
use crate::serve;
use crate::sys::{self, Shared};
use crate::transport::{Kind, Parts, Role, Rx, Ticket, Tx};
use crate::workloads::{Outcome, Pace, alone, drain, echo, ping, pour, sleep_and_answer};

/// The whole life of a worker. Its standard input is the control socket; the end of that is the
/// end of it.
pub fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(2).collect();
    let done = match &words[..] {
        [socket, name] => hold(Path::new(socket), name),
        _ => serve(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("npfs bench worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The life of a client that does nothing: it has a pipe open until its standard input ends.
fn hold(socket: &Path, name: &str) -> Result<()> {
    sys::die_with_parent().context("prctl")?;
    let namespace = Namespace::connect(socket).context("broker")?;
    let _pipe = ours::dial(&namespace, &connect::ticket(name))?;
    io::copy(&mut io::stdin(), &mut io::sink()).context("standard input")?;
    Ok(())
}

fn serve() -> Result<()> {
    sys::die_with_parent().context("prctl")?;
    if io::stdin().is_terminal() {
        bail!("is started by `npfs bench`, not by hand");
    }
    let control = Control::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    // A panic becomes an answer, told once, by the parent.
    panic::set_hook(Box::new(|_| {}));
    let (hello, mut fds) = control.receive().context("hello")?;
    let Order::Hello {
        role,
        cpu,
        clock,
        socket,
    } = hello
    else {
        bail!("hello was due");
    };
    sys::pin(&[cpu]).with_context(|| format!("no permission to run on CPU {cpu}"))?;
    let line = Shared::map(&fds.pop().context("no cache lines came")?, probe::LEN)?;
    control.send(&Reply::Ready, &[])?;
    let worker = Worker {
        control,
        role,
        clock,
        line,
        socket,
        namespace: OnceLock::new(),
        crowd: Mutex::default(),
        reading: Mutex::default(),
    };
    loop {
        let (order, fds) = match worker.control.receive() {
            Ok(order) => order,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("control socket"),
        };
        let answer = panic::catch_unwind(AssertUnwindSafe(|| match order {
            Order::Run {
                lines,
                kind,
                ticket,
                task,
                pace,
            } => worker
                .run(lines, kind, Parts { fds, ticket }, task, &pace)
                .map(|(outcome, probes)| Reply::Done(outcome, probes)),
            Order::Hold { count, name, reads } => {
                let held = if reads {
                    worker.hold(&worker.reading, &name, count)
                } else {
                    worker.hold(&worker.crowd, &name, count)
                };
                held.map(|()| Reply::Ready)
            }
            Order::Hello { .. } | Order::Go => Err(anyhow!("order out of turn")),
        }));
        let reply = match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => Reply::Failed(format!("{error:#}")),
            Err(panic) => Reply::Failed(format!("panic: {}", panic_text(&*panic))),
        };
        worker.control.send(&reply, &[]).context("control socket")?;
    }
}

struct Worker {
    control: Control,
    role: Role,
    clock: Clock,
    line: Shared,
    socket: PathBuf,
    namespace: OnceLock<Namespace>,
    crowd: Mutex<Crowd>,
    reading: Mutex<Reading>,
}

/// What to do once a transport is open.
struct Job<'a> {
    lines: Option<u64>,
    task: Task,
    pace: &'a Pace,
}

impl Worker {
    fn run(
        &self,
        lines: Option<u64>,
        kind: Kind,
        parts: Parts,
        task: Task,
        pace: &Pace,
    ) -> Result<(Outcome, Option<Probes>)> {
        let job = Job { lines, task, pace };
        match task {
            Task::Connect => return self.connect(kind, &parts.ticket, job),
            Task::Serve => return self.serve(kind, &parts.ticket, job),
            _ => {}
        }
        match (kind, self.role) {
            (Kind::Ours { .. }, Role::Server) => {
                return self.act(ours::serve(self.namespace()?, &parts.ticket)?, job);
            }
            (Kind::Ours { .. }, Role::Client) => {
                return self.act(ours::open(self.namespace()?, &parts.ticket)?, job);
            }
            (Kind::OursInPlace { .. }, Role::Server) => {
                let halves = ours::serve(self.namespace()?, &parts.ticket)?;
                return self.act(ours::in_place(halves), job);
            }
            (Kind::OursInPlace { .. }, Role::Client) => {
                let halves = ours::open(self.namespace()?, &parts.ticket)?;
                return self.act(ours::in_place(halves), job);
            }
            (
                Kind::Overlapped | Kind::OverlappedAmong { .. } | Kind::OverlappedOfClients { .. },
                role,
            ) => {
                let ends = overlapped::ends(self.namespace()?, &parts.ticket, role)?;
                return self.act(ends, job);
            }
            _ => {}
        }
        match kind {
            Kind::Ours { .. }
            | Kind::OursInPlace { .. }
            | Kind::OursAmong { .. }
            | Kind::Overlapped
            | Kind::OverlappedAmong { .. }
            | Kind::OverlappedOfClients { .. } => {
                bail!("for another workload")
            }
            Kind::RawLine => self.act(mailbox::open_spin(parts, self.role)?, job),
            Kind::RawLinePaused => self.act(mailbox::open_paused(parts, self.role)?, job),
            Kind::RawFutex => self.act(mailbox::open_sleep(parts, self.role)?, job),
            Kind::RingIndex { .. } => self.act(ring_index::open(parts, self.role)?, job),
            Kind::RingInFrame { .. } => self.act(ring_in_frame::open(parts, self.role)?, job),
            Kind::Pipe | Kind::UnixStream | Kind::UnixSeqpacket => {
                self.act(stream::open(parts)?, job)
            }
            Kind::Memcpy => {
                self.start()?;
                self.between_probes(lines, || match self.role {
                    Role::Server => alone(&mut memcpy::open(pace.size), pace).map(Outcome::Flow),
                    // Out of the way: it may share a core with the server.
                    Role::Client => {
                        thread::sleep(pace.run);
                        Ok(Outcome::Served)
                    }
                })
            }
        }
    }

    /// The broker's names; connected to when first needed.
    fn namespace(&self) -> Result<&Namespace> {
        if let Some(namespace) = self.namespace.get() {
            return Ok(namespace);
        }
        let namespace = Namespace::connect(&self.socket).context("broker")?;
        Ok(self.namespace.get_or_init(|| namespace))
    }

    /// Holds so many pipes, in place of those that it held.
    fn hold<H: Held>(&self, held: &Mutex<H>, name: &str, count: u32) -> Result<()> {
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is(name, count as usize) {
            if self.role == Role::Server {
                self.control.send(&Reply::Ready, &[])?;
            }
            return Ok(());
        }
        // Closed first.
        *held = H::default();
        let namespace = self.namespace()?;
        *held = match self.role {
            Role::Server => {
                let made = H::create(namespace, name, count)?;
                self.control.send(&Reply::Ready, &[])?;
                made.connect()?;
                made
            }
            Role::Client => H::open(namespace, name, count)?,
        };
        held.begin()
    }

    fn connect(
        &self,
        kind: Kind,
        ticket: &Ticket,
        job: Job<'_>,
    ) -> Result<(Outcome, Option<Probes>)> {
        if kind.is_ours() {
            let namespace = self.namespace()?;
            let server = match self.role {
                Role::Server => Some(ours::create(namespace, ticket)?),
                Role::Client => None,
            };
            self.start()?;
            return self.between_probes(job.lines, || match &server {
                Some(server) => connect::serve(server).map(|()| Outcome::Served),
                None => connect::open(namespace, ticket, job.pace).map(Outcome::Trips),
            });
        }
        match self.role {
            Role::Server => {
                let listener = connect::Listener::bind(&ticket.name)?;
                self.start()?;
                self.between_probes(job.lines, || listener.serve().map(|()| Outcome::Served))
            }
            Role::Client => {
                self.start()?;
                self.between_probes(job.lines, || {
                    connect::open_socket(&ticket.name, job.pace).map(Outcome::Trips)
                })
            }
        }
    }

    fn serve(
        &self,
        kind: Kind,
        ticket: &Ticket,
        job: Job<'_>,
    ) -> Result<(Outcome, Option<Probes>)> {
        let namespace = self.namespace()?;
        self.start()?;
        self.between_probes(job.lines, || match (kind.is_ours(), self.role) {
            (true, Role::Server) => serve::pipes(namespace, ticket),
            (true, Role::Client) => serve::ask_pipes(namespace, ticket, job.pace),
            (false, Role::Server) => serve::sockets(ticket),
            (false, Role::Client) => serve::ask_sockets(ticket, job.pace),
        })
    }

    fn act<T: Tx, R: Rx>(&self, halves: (T, R), job: Job) -> Result<(Outcome, Option<Probes>)> {
        let (mut tx, mut rx) = halves;
        let Job { lines, task, pace } = job;
        if task == Task::Idle {
            return Ok((self.idle(tx, rx, pace.size)?, None));
        }
        self.start()?;
        self.between_probes(lines, || match (task, self.role) {
            (Task::OneWay, Role::Server) => drain(&mut tx, &mut rx, pace).map(Outcome::Flow),
            (Task::OneWay, Role::Client) => pour(&mut tx, &mut rx, pace).map(|()| Outcome::Served),
            (_, Role::Server) => echo(&mut tx, &mut rx, pace).map(|()| Outcome::Served),
            (_, Role::Client) => ping(&mut tx, &mut rx, pace).map(Outcome::Trips),
        })
    }

    /// Probes, runs and probes again without a sleep of its own in between: a CPU that sleeps may
    /// wake up elsewhere.
    fn between_probes(
        &self,
        lines: Option<u64>,
        run: impl FnOnce() -> Result<Outcome>,
    ) -> Result<(Outcome, Option<Probes>)> {
        let Some(lines) = lines else {
            return Ok((run()?, None));
        };
        let before = probe(&self.line, self.role, lines, self.clock);
        let outcome = run()?;
        let after = probe(&self.line, self.role, lines + probe::STEP, self.clock);
        Ok((outcome, Some([before, after])))
    }

    /// Sleeps in a read. The server answers what wakes it; the client's second thread, asleep
    /// until then on the control socket, sends it.
    fn idle<T: Tx, R: Rx>(&self, mut tx: T, mut rx: R, size: usize) -> Result<Outcome> {
        if self.role == Role::Server {
            self.control.send(&Reply::Ready, &[])?;
            return sleep_and_answer(&mut tx, &mut rx, size).map(|()| Outcome::Served);
        }
        thread::scope(|scope| {
            let waker = scope.spawn(|| -> Result<()> {
                self.start()?;
                tx.send(Writer::new(size).next(FULL))
            });
            let mut unheard = Mute;
            sleep_and_answer(&mut unheard, &mut rx, size)?;
            waker
                .join()
                .map_err(|panic| anyhow!("panic: {}", panic_text(&*panic)))??;
            Ok(Outcome::Served)
        })
    }

    /// Says that this end is open, and waits for the word to start.
    fn start(&self) -> Result<()> {
        self.control.send(&Reply::Ready, &[])?;
        match self.control.receive().context("waiting to start")? {
            (Order::Go, _) => Ok(()),
            _ => bail!("order out of turn"),
        }
    }
}

/// The end of the exchange: the client answers nothing.
struct Mute;

impl Tx for Mute {
    fn send(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}
