//! A process that uses pipes through a broker, told what to do line by line.
//!
//! A line is `ID VERB ARGUMENTS`; each runs on a thread of its own, so that a call that blocks holds up no other, and is
//! answered by `ID ok TEXT` or `ID STATUS_NAME`. The verbs are those of `Cast::play`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use npfs::npfs::{EndId, Tag, Wanted};
use npfs::security::Mask;
use npfs::wire::{Reply, Request};
use npfs::{
    BrokerOptions, Client, ClientOptions, EndToken, Name, Namespace, PipeType, Read, ReadMode,
    Server, ServerOptions,
};
use npfs_ringbuf::fault::{Action, Point};
use npfs_ringbuf::{Conn, Grant, Link, ProcessIndex};

use crate::raw::Raw;
use crate::sys;

/// How long an answer may take before the test is over.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running actor. Dropping it kills and reaps it, stopped or not.
pub struct Actor {
    process: Child,
    input: ChildStdin,
    answers: Receiver<(u64, String)>,
    early: HashMap<u64, String>,
    next: u64,
}

impl Actor {
    /// Starts `exe` (see [`crate::child_exe!`]) against the broker at `socket`, as another user if one is given.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(exe: &str, socket: &str, uid: Option<u32>) -> Actor {
        let mut command = Command::new(exe);
        command.args(["actor", socket]);
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child binary runs");
        let input = process.stdin.take().expect("piped");
        let output = process.stdout.take().expect("piped");
        let (told, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let (id, answer) = line.split_once(' ').unwrap_or((&line, ""));
                let id = id.parse().expect("an actor answers by number");
                if told.send((id, answer.to_owned())).is_err() {
                    break;
                }
            }
        });
        Actor {
            process,
            input,
            answers,
            early: HashMap::new(),
            next: 0,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells it to begin something.
    pub fn start(&mut self, line: &str) -> u64 {
        self.next += 1;
        // One that has been killed reads no more: its answer will be missing.
        let _ = writeln!(self.input, "{} {line}", self.next);
        self.next
    }

    /// The answer to what [`Actor::start`] began, within so long.
    pub fn within(&mut self, id: u64, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(answer) = self.early.remove(&id) {
                return Some(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let (other, answer) = self.answers.recv_timeout(left).ok()?;
            self.early.insert(other, answer);
        }
    }

    /// Tells it to do something, and waits for the answer.
    ///
    /// # Panics
    /// If none comes.
    pub fn ask(&mut self, line: &str) -> String {
        let id = self.start(line);
        let answer = self.within(id, PATIENCE);
        answer.unwrap_or_else(|| panic!("no answer to {line:?}"))
    }

    /// As [`Actor::ask`], for what has to succeed; the text of the answer.
    ///
    /// # Panics
    /// If it did not.
    pub fn must(&mut self, line: &str) -> String {
        let answer = self.ask(line);
        match answer.strip_prefix("ok") {
            Some(text) => text.trim_start().to_owned(),
            None => panic!("{line:?} answered {answer}"),
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, signal: i32) {
        sys::signal(self.pid(), signal).expect("our own child");
    }

    /// Kills it and waits until it has gone.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The life of a broker process: serves `socket` with so many workers until it is killed. One line when it is ready.
///
/// # Panics
/// If it cannot be served.
pub fn broker(socket: &str, workers: usize) {
    sys::die_with_parent();
    let broker = BrokerOptions::new().socket(socket).workers(workers).start();
    let broker = broker.expect("a broker");
    println!("ready");
    broker.run().expect("until it is killed");
}

/// The life of an actor.
///
/// # Panics
/// If there is no broker.
pub fn main(socket: &str) {
    sys::die_with_parent();
    let files = open_files();
    let cast = Arc::new(Cast {
        socket: socket.to_owned(),
        files,
        namespace: Namespace::connect(socket).expect("a broker"),
        servers: Mutex::default(),
        clients: Mutex::default(),
    });
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let cast = cast.clone();
        thread::spawn(move || {
            let mut words = line.split(' ');
            let id = words.next().unwrap_or_default();
            let words: Vec<&str> = words.collect();
            match cast.play(&words) {
                Ok(text) => println!("{id} ok {text}"),
                Err(error) => println!("{id} {}", error.status()),
            }
        });
    }
    std::process::exit(0);
}

fn open_files() -> usize {
    let files = std::fs::read_dir("/proc/self/fd").expect("proc");
    // One is this listing's own.
    files.count() - 1
}

/// Sends requests that it does not read the answers of, garbage again and again, or closes of what it does not have.
fn flood(socket: &str, kind: &str) -> ! {
    let close = Request::Close(EndId(5)).encode();
    let list = Request::List(Tag(1), 0, Vec::new()).encode();
    let raw = Raw::greet(socket);
    loop {
        match kind {
            "garbage" => {
                let raw = Raw::greet(socket);
                let _ = raw.send(&[0xff; 64]);
            }
            "deaf" => drop(raw.send(&list)),
            _ => drop(raw.send(&close)),
        }
    }
}

/// What writing answers that the broker did not grant.
fn forge(socket: &str, name: &str) -> String {
    let raw = Raw::greet(socket);
    let name = Name::parse(name).expect("a name");
    let wanted = Wanted::access(Mask::GENERIC_READ | Mask::SYNCHRONIZE);
    let open = Request::Open(Tag(1), name, wanted);
    raw.send(&open.encode()).expect("sent");
    let (reply, fd) = raw.receive().expect("an answer");
    let Ok(Reply::Opened { conn, .. }) = Reply::decode(&reply) else {
        return format!("{:?}", Reply::decode(&reply));
    };
    let mut grant = conn.grant.to_bytes();
    assert_eq!(grant[6], 1, "the client may read");
    grant[6] = 3;
    let grant = Grant::from_bytes(&grant).expect("a grant");
    let index = ProcessIndex::new(conn.process).expect("an index");
    let link = Link::attach(fd.expect("a link"), index).expect("a link");
    let conn = Conn::open(&link, &grant).expect("a connection");
    let written = conn.write(b"injected");
    // Leaves its session open: the broker must not be what ends the connection.
    std::mem::forget(raw);
    format!("{written:?}")
}

struct Cast {
    socket: String,
    /// Descriptors at the start.
    files: usize,
    namespace: Namespace,
    servers: Mutex<HashMap<String, Arc<Server>>>,
    clients: Mutex<HashMap<String, Arc<Client>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! either {
    ($self:ident, $key:expr, $end:ident => $call:expr) => {{
        let server = lock(&$self.servers).get($key).cloned();
        if let Some($end) = server {
            $call
        } else {
            let $end = lock(&$self.clients).get($key).cloned().expect("an end");
            $call
        }
    }};
}

impl Cast {
    fn server(&self, key: &str) -> Arc<Server> {
        lock(&self.servers).get(key).cloned().expect("a server end")
    }

    fn play(&self, words: &[&str]) -> npfs::Result<String> {
        let mut buf = vec![0; 1 << 20];
        let text = |buf: &[u8]| String::from_utf8_lossy(buf).into_owned();
        let none = || Ok(String::new());
        match *words {
            // KEY NAME: a server end of a message pipe
            ["create", key, name] => {
                let server = ServerOptions::new()
                    .pipe_type(PipeType::Message)
                    .create(&self.namespace, name)?;
                lock(&self.servers).insert(key.to_owned(), Arc::new(server));
                none()
            }
            // KEY NAME RIGHTS: a client end; waits for an instance for ten seconds
            ["open", key, name, rights] => {
                let client = ClientOptions::new()
                    .read(rights.contains('r'))
                    .write(rights.contains('w'))
                    .read_mode(ReadMode::Message)
                    .wait(Some(Duration::from_secs(10)))
                    .open(&self.namespace, name)?;
                lock(&self.clients).insert(key.to_owned(), Arc::new(client));
                none()
            }
            // KEY: the token by which another process takes that end, too
            ["give", key] => Ok(either!(self, key, end => end.give())?.to_string()),
            // KEY: the number of the user at the other end of a server end
            ["client", key] => Ok(self.server(key).client()?.uid.to_string()),
            // KEY UID: the same for a process of another user's
            ["give-to", key, uid] => {
                let uid = uid.parse().expect("a number");
                Ok(either!(self, key, end => end.give_to_user(uid))?.to_string())
            }
            // KEY TOKEN
            ["take-server", key, token] => {
                let server = Server::take(&self.namespace, token.parse()?)?;
                lock(&self.servers).insert(key.to_owned(), Arc::new(server));
                none()
            }
            ["take-client", key, token] => {
                let client = Client::take(&self.namespace, token.parse()?)?;
                lock(&self.clients).insert(key.to_owned(), Arc::new(client));
                none()
            }
            // KEY: becomes another program, which has that end under the name `inherited`
            ["exec", key] => {
                let token = either!(self, key, end => end.give())?;
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["actor", &self.socket]);
                token.pass_to(&mut command, "TEST");
                Err(command.exec().into())
            }
            // What a giver has put into the environment
            ["inherit", key] => {
                let token = EndToken::from_env("TEST").ok_or(npfs::Error::Token)?;
                let client = Client::take(&self.namespace, token)?;
                lock(&self.clients).insert(key.to_owned(), Arc::new(client));
                none()
            }
            // Its socket to the broker closes under it
            ["cut"] => {
                sys::shut_sockets();
                none()
            }
            ["state", key] => Ok(either!(self, key, end => end.state()).name().to_owned()),
            ["connect", key] => self.server(key).connect().map(|()| String::new()),
            ["disconnect", key] => self.server(key).disconnect().map(|()| String::new()),
            ["close", key] => {
                lock(&self.servers).remove(key);
                lock(&self.clients).remove(key);
                none()
            }
            ["read", key] => {
                let read = either!(self, key, end => end.read(&mut buf))?;
                Ok(match read {
                    Read::Whole(count) => text(&buf[..count]),
                    Read::Part(count) => format!("{}...", text(&buf[..count])),
                })
            }
            ["write", key, message] => {
                either!(self, key, end => end.write(message.as_bytes()))?;
                none()
            }
            // KEY COUNT: the numbers up to there, one in a message, at odd moments
            ["count", key, count] => {
                let mut spin = 1_u32;
                for number in 0..count.parse::<u32>().expect("a number") {
                    either!(self, key, end => end.write(&number.to_le_bytes()))?;
                    spin = spin.wrapping_mul(0x9e37_79b9).wrapping_add(number);
                    for _ in 0..spin >> 20 {
                        std::hint::spin_loop();
                    }
                }
                none()
            }
            // FROM TO: a message on each of the ends that have these numbers, without anything in between
            ["burst", from, to] => {
                let number = |text: &str| text.parse::<u32>().expect("a number");
                let names = (number(from)..number(to)).map(|number| number.to_string());
                for name in names.collect::<Vec<_>>() {
                    either!(self, &name, end => end.write(b"x"))?;
                }
                none()
            }
            // KEY BYTES: one long message
            ["pour", key, bytes] => {
                let message = vec![b'x'; bytes.parse().expect("a number")];
                either!(self, key, end => end.write(&message))?;
                none()
            }
            ["transact", key, message] => {
                let read = either!(self, key, end => end.transact(message.as_bytes(), &mut buf))?;
                Ok(text(&buf[..read.count()]))
            }
            // KEY: answers every message with itself, until the other end goes
            ["echo", key] => loop {
                let read = either!(self, key, end => end.read(&mut buf))?;
                either!(self, key, end => end.write(&buf[..read.count()]))?;
            },
            // NAME: serves any number of clients, a thread for each, each answered with itself
            ["serve", name] => self.serve(name, &|_, message| Ok(message.to_vec())),
            // NAME NEXT: serves; a call "N" is answered by a call "N-1" to NEXT, down to 0
            ["relay", name, next] => self.serve(name, &|namespace, message| {
                let depth: u64 = text(message).parse().expect("a number");
                if depth == 0 {
                    return Ok(b"0".to_vec());
                }
                let client = ClientOptions::new()
                    .read_mode(ReadMode::Message)
                    .wait(Some(Duration::from_secs(20)))
                    .open(namespace, next)?;
                let mut answer = [0; 32];
                let read = client.transact((depth - 1).to_string().as_bytes(), &mut answer)?;
                let below: u64 = text(&answer[..read.count()]).parse().expect("a number");
                Ok((below + 1).to_string().into_bytes())
            }),
            ["wait", name, milliseconds] => {
                let time = Duration::from_millis(milliseconds.parse().expect("a number"));
                self.namespace
                    .wait(name, Some(time))
                    .map(|()| String::new())
            }
            // Everything a client can do with names, again and again
            ["churn", name] => loop {
                let server = ServerOptions::new()
                    .pipe_type(PipeType::Message)
                    .create(&self.namespace, name)?;
                let client = ClientOptions::new().open(&self.namespace, name)?;
                server.connect()?;
                client.write(b"x")?;
                server.disconnect()?;
                let _ = server.connect_timeout(Duration::from_micros(100));
                drop((server, client));
            },
            // POINT ACTION, by number and by name
            ["arm", point, action] => {
                let point = Point::ALL[point.parse::<usize>().expect("a number")];
                let action = match action {
                    "kill" => Action::Kill,
                    "stop" => Action::Stop,
                    _ => Action::ParkThread,
                };
                npfs_ringbuf::fault::arm(point, action);
                none()
            }
            // Uses a CPU up
            ["burn"] => loop {
                std::hint::spin_loop();
            },
            // KIND: what no client should do, for ever
            ["flood", kind] => flood(&self.socket, kind),
            // NAME: opens for reading, gives itself the right to write, and writes
            ["forge", name] => Ok(forge(&self.socket, name)),
            // Descriptors beyond those that it began with
            ["fds"] => Ok((open_files() - self.files).to_string()),
            ["links"] => {
                let maps = std::fs::read_to_string("/proc/self/maps")?;
                let links = maps.lines().filter(|line| line.contains("npfs-link"));
                Ok(links.count().to_string())
            }
            _ => panic!("an unknown line: {words:?}"),
        }
    }

    fn serve(
        &self,
        name: &str,
        answer: &(impl Fn(&Namespace, &[u8]) -> npfs::Result<Vec<u8>> + Sync),
    ) -> npfs::Result<String> {
        let create = || {
            ServerOptions::new()
                .pipe_type(PipeType::Message)
                .create(&self.namespace, name)
        };
        let mut server = create()?;
        println!("0 serving");
        thread::scope(|scope| {
            loop {
                match server.connect() {
                    Ok(()) | Err(npfs::Error::Closing) => {}
                    Err(error) => return Err(error),
                }
                let connected = std::mem::replace(&mut server, create()?);
                scope.spawn(move || {
                    let mut buf = vec![0; 4096];
                    while let Ok(read) = connected.read(&mut buf) {
                        let Ok(reply) = answer(&self.namespace, &buf[..read.count()]) else {
                            break;
                        };
                        if connected.write(&reply).is_err() {
                            break;
                        }
                    }
                });
            }
        })
    }
}
