//! The commands that talk to a broker, as their user meets them: each test has a broker and a folder of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use npfs::{ClientOptions, Namespace, PipeType, ServerOptions};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// For whatever should take no time at all.
const PATIENCE: Duration = Duration::from_secs(20);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("npfs-cli-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a folder");
        Folder(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("broker.sock")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_npfs"));
        command
            .args(arguments)
            .env("NPFS_SOCKET", self.socket())
            .env_remove("NPFS_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A file with this text, for standard input.
    fn file(&self, name: &str, text: &[u8]) -> Stdio {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        File::open(path).expect("the file").into()
    }

    fn start(&self, arguments: &[&str]) -> Tool {
        Tool::start(&mut self.command(arguments))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.start(arguments).finish()
    }

    /// What it prints, if it does not fail.
    fn printed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Fails with that exit code and one line, which is the answer.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        fails(code, self.run(arguments))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fails(code: i32, output: Output) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(text.lines().count(), 1, "{text}");
    let line = text.strip_prefix("npfs: ").expect("it says who speaks");
    line.trim_end().to_owned()
}

/// A running tool; killed if its test fails.
struct Tool {
    child: Child,
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
}

impl Tool {
    fn start(command: &mut Command) -> Tool {
        let mut child = command.spawn().expect("the tool starts");
        let out = child.stdout.take().map(collect);
        let err = child.stderr.take().map(collect);
        Tool { child, out, err }
    }

    /// Waits for its end.
    fn finish(mut self) -> Output {
        let mut status = None;
        eventually("the tool ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        let text = |thread: Option<JoinHandle<Vec<u8>>>| match thread {
            Some(thread) => thread.join().expect("a reader"),
            None => Vec::new(),
        };
        Output {
            status: status.expect("it has ended"),
            stdout: text(self.out.take()),
            stderr: text(self.err.take()),
        }
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("a pipe");
        all
    })
}

/// A broker in the foreground.
struct Broker {
    tool: Tool,
    said: String,
    rest: BufReader<ChildStderr>,
}

impl Broker {
    fn start(folder: &Folder) -> Broker {
        Broker::with(folder, &["broker", "--workers", "2"])
    }

    fn with(folder: &Folder, arguments: &[&str]) -> Broker {
        let mut child = folder.command(arguments).spawn().expect("the tool starts");
        let mut rest = BufReader::new(child.stderr.take().expect("piped"));
        let (out, err) = (child.stdout.take().map(collect), None);
        let tool = Tool { child, out, err };
        let mut said = String::new();
        // Its end or its line: a broker does neither late.
        rest.read_line(&mut said).expect("a line");
        Broker { tool, said, rest }
    }

    /// Ends it with a signal; whatever else it said.
    fn stop(mut self, signal: Signal) -> String {
        send(self.tool.child.id(), signal);
        let output = self.tool.finish();
        assert!(output.status.success(), "{output:?}");
        let mut rest = String::new();
        self.rest.read_to_string(&mut rest).expect("text");
        rest
    }
}

fn send(process: u32, signal: Signal) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    kill_process(process.expect("a process"), signal).expect("it runs");
}

/// A broker that has left the test's hands, by what its lock says.
fn stop_detached(folder: &Path) {
    let lock = fs::read_to_string(folder.join("broker.sock.lock")).expect("a lock");
    send(lock.trim().parse().expect("a process"), Signal::TERM);
    eventually("the detached broker ends", || {
        !folder.join("broker.sock").exists()
    });
}

/// Bytes without any pattern that a mistake could keep.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_broker_says_that_it_serves_and_a_second_one_is_refused() {
    let folder = Folder::new();
    let broker = Broker::start(&folder);
    let socket = folder.socket().display().to_string();
    let ready = format!("npfs: serving {socket} with 2 workers over ");
    assert!(broker.said.starts_with(&ready), "{}", broker.said);
    let process = broker.tool.child.id();
    assert_eq!(
        folder.fails(1, &["broker"]),
        format!("a broker already serves {socket} (process {process})")
    );
    assert_eq!(broker.stop(Signal::TERM), "");
    assert!(!folder.socket().exists(), "its socket goes");
    for (signal, io) in [(Signal::INT, "epoll"), (Signal::TERM, "epoll")] {
        let broker = Broker::with(&folder, &["broker", "--io", io, "--workers", "1"]);
        assert!(broker.said.ends_with("with 1 worker over epoll\n"));
        assert_eq!(broker.stop(signal), "");
        assert!(!folder.socket().exists());
    }
}

#[test]
fn a_detached_broker_serves_until_nobody_needs_it() {
    let folder = Folder::new();
    let detach = ["broker", "--detach", "--idle-exit", "0.3"];
    // Two at once: one of them starts it, and both may rely on it.
    let both = [folder.start(&detach), folder.start(&detach)];
    for tool in both {
        let output = tool.finish();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    let client = Namespace::connect(folder.socket()).expect("it serves");
    assert_eq!(folder.printed(&detach), "", "it is there already");
    assert!(client.list().expect("a listing").is_empty());
    drop(client);
    eventually("it ends when idle", || !folder.socket().exists());
}

#[test]
fn a_detached_broker_that_cannot_serve_says_why() {
    let folder = Folder::new();
    let said = folder.fails(
        1,
        &[
            "broker",
            "--detach",
            "--socket",
            "/proc/no/such/broker.sock",
        ],
    );
    assert!(said.starts_with("/proc/no"), "{said}");
}

#[test]
fn a_client_without_a_broker_starts_one() {
    let folder = Folder::new();
    let mut command = folder.command(&["cat", "nothing"]);
    command
        .env_remove("NPFS_SOCKET")
        .env("NPFS_BROKER", env!("CARGO_BIN_EXE_npfs"))
        .env("XDG_RUNTIME_DIR", &folder.0);
    let said = fails(1, Tool::start(&mut command).finish());
    assert_eq!(said, "no pipe has that name: nothing");
    stop_detached(&folder.0.join("npfs"));
}

/// As a service manager does it: the socket is descriptor 3, and two variables say so (sd_listen_fds(3)).
#[test]
fn a_socket_that_is_passed_on_is_served() {
    let folder = Folder::new();
    let address = SocketAddrUnix::new(folder.socket()).expect("a path");
    let socket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    net::bind(&socket, &address).expect("bind");
    net::listen(&socket, 16).expect("listen");
    let script =
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" broker --idle-exit 60";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, env!("CARGO_BIN_EXE_npfs")])
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut broker = Tool::start(&mut shell);
    // It listens already: whoever connects waits until it is served.
    assert!(folder.printed(&["ls"]).starts_with("NAME"));
    let pid = Pid::from_child(&broker.child);
    assert!(broker.runs());
    kill_process(pid, Signal::TERM).expect("our own child");
    let output = broker.finish();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(
        said.contains("serving the socket that was passed on"),
        "{said}"
    );
    assert!(folder.socket().exists(), "whose socket it is takes it away");
}

#[test]
fn a_broker_for_all_users_lets_all_of_them_connect() {
    let folder = Folder::new();
    let socket = folder.0.join("all/broker.sock");
    let text = socket.to_str().expect("text");
    let mut broker = folder.start(&["broker", "--system", "--socket", text]);
    eventually("it serves", || socket.exists());
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    eventually("it is open to all", || mode(&socket) == 0o666);
    assert_eq!(mode(&folder.0.join("all")), 0o755);
    assert!(broker.runs());
    kill_process(Pid::from_child(&broker.child), Signal::TERM).expect("our own child");
    assert!(broker.finish().status.success());
    assert!(!socket.exists());
}

#[test]
fn listings_start_no_broker() {
    let folder = Folder::new();
    let socket = folder.socket().display().to_string();
    let expected = format!("no broker at {socket} (start one with: npfs broker)");
    assert_eq!(folder.fails(1, &["ls"]), expected);
    assert_eq!(folder.fails(1, &["info", "a"]), expected);
    let elsewhere = folder.fails(1, &["--socket", "/nowhere/b.sock", "cat", "a"]);
    assert!(elsewhere.starts_with("no broker at /nowhere/b.sock ("));
    let elsewhere = folder.fails(1, &["ls", "--socket", "/nowhere/b.sock"]);
    assert!(elsewhere.starts_with("no broker at /nowhere/b.sock ("));
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).expect("an object a line")
}

#[test]
fn pipes_are_listed() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    assert_eq!(folder.printed(&["ls", "--json"]), "");
    let empty = folder.printed(&["ls"]);
    assert!(empty.starts_with("NAME") && empty.lines().count() == 1);

    let namespace = Namespace::connect(folder.socket()).expect("the broker");
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message).max_instances(4);
    let spool = [
        options.create(&namespace, "Spool").expect("the pipe"),
        options.create(&namespace, "spool").expect("an instance"),
    ];
    let _other = ServerOptions::new().create(&namespace, "other\u{1b}[2J\n");
    let _client = ClientOptions::new()
        .open(&namespace, "SPOOL")
        .expect("the client");
    spool[0].connect().expect("a client has come");

    let table = folder.printed(&["ls"]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert_eq!(rows[1][0], r"other\u{1b}[2J\n", "no control characters");
    assert_eq!(rows[1][3], "1/unlimited");
    let uid = rustix::process::geteuid().as_raw().to_string();
    assert_eq!(
        rows[2],
        [
            "Spool", "message", "duplex", "2/4", "1", "1", "0", "uid", &uid
        ]
    );

    let found = folder.printed(&["ls", "--json", "sP?o*"]);
    assert_eq!(found.lines().count(), 1);
    let spool = json(&found);
    assert_eq!(spool["name"], "Spool");
    assert_eq!(spool["type"], "message");
    assert_eq!(spool["instances"], 2);
    assert_eq!(spool["max_instances"], 4);
    assert_eq!(spool["owner_uid"].to_string(), uid);
    assert_eq!(folder.printed(&["ls", "--json", "spoo"]), "");

    let info = folder.printed(&["info", r"\\.\pipe\spool"]);
    let process = std::process::id().to_string();
    let connected = info.lines().find(|line| line.starts_with("1 "));
    let fields: Vec<&str> = connected.expect("a row").split_whitespace().collect();
    assert_eq!(
        fields,
        ["1", "connected", &process, &process, "65536", "65536"]
    );
    let info = json(&folder.printed(&["info", "--json", "spool"]));
    assert_eq!(info["name"], "Spool");
    let list = info["instance_list"].as_array().expect("a list");
    assert_eq!(list[0]["client"]["pid"].to_string(), process);
    assert_eq!(list[1]["state"], "listening");
    assert!(list[1]["client"].is_null());
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    for arguments in [&["ls"][..], &["man"], &["completions", "bash"]] {
        let mut command = folder.command(arguments);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        command.stdout(writer);
        let output = Tool::start(&mut command).finish();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn errors_are_one_line() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    for command in ["cat", "info"] {
        assert_eq!(
            folder.fails(1, &[command, "nope"]),
            "no pipe has that name: nope"
        );
        let bad = folder.fails(1, &[command, r"\\.\pipe\"]);
        assert_eq!(bad, r"the name of a pipe is empty: \\.\pipe\");
    }
    let namespace = Namespace::connect(folder.socket()).expect("the broker");
    let mut options = ServerOptions::new();
    let server = options.max_instances(1).create(&namespace, "one");
    let _client = ClientOptions::new().open(&namespace, "one").expect("open");
    let one = "every instance of the pipe is busy: one";
    assert_eq!(folder.fails(1, &["cat", "one"]), one);
    assert_eq!(
        folder.fails(1, &["cat", "--wait", "0.05", "one"]),
        "timed out: one"
    );
    assert_eq!(
        folder.fails(1, &["cat", "-l", "one"]),
        "the pipe has all the instances that it may have: one"
    );
    drop(server);
    let _bytes = ServerOptions::new().create(&namespace, "bytes");
    assert_eq!(
        folder.fails(1, &["cat", "--lines", "bytes"]),
        "message read mode needs a message pipe: bytes"
    );
    let folder_as_input = File::open(&folder.0).expect("the folder");
    let _reader = ServerOptions::new().create(&namespace, "reader");
    let mut command = folder.command(&["cat", "reader"]);
    let said = fails(1, Tool::start(command.stdin(folder_as_input)).finish());
    assert!(said.starts_with("standard input: "), "{said}");
    for mistake in [
        &["cat"][..],
        &["cat", "--read-only", "--write-only", "a"],
        &["cat", "--keep", "a"],
        &["cat", "-l", "--allow", "bob:rw", "a"],
        &["cat", "--wait", "soon", "a"],
        &["cat", "--linger", "-1", "a"],
        &["info"],
        &["broker", "--workers", "1000"],
        &["broker", "--io", "select"],
        &["completions", "dos"],
    ] {
        folder.fails(2, mistake);
    }
    let mut command = folder.command(&["ls"]);
    let log = command.env("NPFS_LOG", "npfs=loud");
    assert!(fails(2, Tool::start(log).finish()).starts_with("NPFS_LOG: "));
}

/// What the server and the client printed, if neither failed.
fn talk(folder: &Folder, server: Talker, client: Talker) -> (Vec<u8>, Vec<u8>) {
    let start = |talker: Talker, name: &str, first: &[&str]| {
        let arguments = [&["cat"], first, talker.0, &["demo"]].concat();
        let mut command = folder.command(&arguments);
        Tool::start(command.stdin(folder.file(name, talker.1)))
    };
    let server = start(server, "server", &["--serve"]);
    let client = start(client, "client", &["--wait", "20"]);
    let [server, client] = [server.finish(), client.finish()];
    for output in [&server, &client] {
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    (server.stdout, client.stdout)
}

/// Arguments, and standard input.
type Talker<'a> = (&'a [&'a str], &'a [u8]);

#[test]
fn bytes_go_both_ways() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    let (heard, answered) = talk(&folder, (&[], b""), (&[], b"hello\n"));
    assert_eq!((&heard[..], &answered[..]), (&b"hello\n"[..], &b""[..]));

    let (up, down) = (noise(1 << 20), noise((1 << 20) - 7));
    let (heard, answered) = talk(&folder, (&[], &down), (&[], &up));
    assert!(heard == up && answered == down, "both megabytes arrive");

    let small = ["--quota", "512"];
    let (heard, _) = talk(&folder, (&small, b""), (&["--linger", "0"], &up));
    assert!(heard == up, "through a small quota, too");
}

#[test]
fn one_way_pipes_end_when_everything_was_read() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    let data = noise(1 << 20);
    let (_, copy) = talk(&folder, (&["--write-only"], &data), (&["--read-only"], b""));
    assert!(copy == data);
    let (copy, _) = talk(&folder, (&["--read-only"], b""), (&["--write-only"], &data));
    assert!(copy == data);
    // Nothing to say is as good.
    let (_, copy) = talk(&folder, (&["--write-only"], b""), (&["--read-only"], b""));
    assert!(copy.is_empty());
}

#[test]
fn lines_are_messages() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    let long = "x".repeat(200_000);
    let questions = format!("one\n\nthree\n{long}\nlast, without its newline");
    let answers = format!("{long}\n\nforty-two\n\n");
    let lines: &[&str] = &["--lines"];
    let (heard, answered) = talk(
        &folder,
        (lines, answers.as_bytes()),
        (lines, questions.as_bytes()),
    );
    assert!(
        heard == (questions + "\n").as_bytes(),
        "what the server heard"
    );
    assert!(answered == answers.as_bytes(), "what the client heard");
    // A client that has nothing to say hears all that there is.
    let (_, answered) = talk(&folder, (lines, answers.as_bytes()), (lines, b""));
    assert!(answered == answers.as_bytes());
}

#[test]
fn a_server_that_keeps_on_serves_one_after_the_other() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    let mut server = folder.start(&["cat", "-l", "--keep", "--lines", "log"]);
    for text in ["first\n", "second\n", "", "third\n"] {
        let arguments = ["cat", "--lines", "--linger", "0", "--wait", "20", "log"];
        let mut command = folder.command(&arguments);
        let client = Tool::start(command.stdin(folder.file("line", text.as_bytes())));
        let output = client.finish();
        assert!(output.status.success(), "{output:?}");
    }
    // A further client can come only after the last one's messages were printed.
    let mut options = ClientOptions::new();
    let namespace = Namespace::connect(folder.socket()).expect("the broker");
    let waiting = options.wait(Some(PATIENCE)).open(&namespace, "log");
    drop(waiting.expect("it listens again"));
    assert!(server.runs());
    send(server.child.id(), Signal::INT);
    assert_eq!(server.finish().stdout, b"first\nsecond\nthird\n");
}

#[test]
fn what_could_not_be_sent_is_a_failure() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    let namespace = Namespace::connect(folder.socket()).expect("the broker");
    let server = ServerOptions::new().create(&namespace, "short");
    let server = server.expect("the pipe");
    let mut command = folder.command(&["cat", "short"]);
    let client = Tool::start(command.stdin(folder.file("long", &noise(1 << 20))));
    server.connect().expect("a client");
    let first = server.read(&mut [0; 16]).expect("its first bytes");
    assert_eq!(first.count(), 16);
    drop(server);
    assert_eq!(
        fails(1, client.finish()),
        "the other end closed before everything was sent"
    );
}

#[test]
fn an_end_that_only_writes_notices_that_the_other_has_closed() {
    let folder = Folder::new();
    let _broker = Broker::start(&folder);
    let namespace = Namespace::connect(folder.socket()).expect("the broker");
    let server = ServerOptions::new().create(&namespace, "gone");
    let server = server.expect("the pipe");
    let mut command = folder.command(&["cat", "--write-only", "gone"]);
    let mut client = Tool::start(command.stdin(Stdio::piped()));
    server.connect().expect("a client");
    drop(server);
    // Kept open: a terminal at which nobody types.
    let silent = client.child.stdin.take();
    let output = client.finish();
    assert!(output.status.success(), "{output:?}");
    drop(silent);
}

#[test]
fn pages_and_completions_are_written() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(folder.printed(&["completions", shell]).contains("npfs"));
    }
    assert!(folder.printed(&["man"]).contains(".TH npfs"));
    let pages = folder.0.join("man/man1");
    folder.printed(&["man", "--out", pages.to_str().expect("text")]);
    let mut names: Vec<_> = fs::read_dir(&pages)
        .expect("the folder")
        .map(|page| page.expect("a page").file_name())
        .collect();
    names.sort();
    let expected = [
        "npfs-bench.1",
        "npfs-broker.1",
        "npfs-cat.1",
        "npfs-completions.1",
        "npfs-info.1",
        "npfs-ls.1",
        "npfs-man.1",
        "npfs.1",
    ];
    assert_eq!(names, expected.map(OsStr::new));
}

#[test]
fn help_has_examples() {
    let folder = Folder::new();
    for command in ["broker", "ls", "info", "cat", "completions", "man"] {
        let help = folder.printed(&[command, "--help"]);
        assert!(help.contains("Examples:\n  npfs"), "{command}: {help}");
    }
}
