//! The C interface as C programs meet it: the header, its numbers, the library's symbols, and programs that are compiled, linked and
//! run, under the sanitizers and under valgrind.
//!
//! What a machine lacks is said on a line that begins with SKIPPED, and does not fail.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use npfs::{Broker, BrokerOptions};
use npfs_ffi::types;

mod header;

const REGENERATE: &str = "cargo run -p npfs-ffi --example header";

#[test]
fn the_headers_are_those_of_the_exports() {
    for header in &header::ALL {
        let stands = fs::read_to_string(header.path()).unwrap_or_default();
        assert!(
            stands == header::generate(header),
            "include/{} is not what the exports make it: {REGENERATE}",
            header.name
        );
    }
}

#[test]
fn statuses_are_the_engines() {
    let numbers = include_str!("../src/numbers.rs");
    let mut missing: Vec<npfs::NtStatus> = npfs::NtStatus::ALL.to_vec();
    for line in numbers.lines() {
        let Some(line) = line.strip_prefix("pub const NPFS_STATUS_") else {
            continue;
        };
        let (name, value) = line.split_once(": npfs_status = ").expect("a status");
        let value = value.trim_end_matches(';').replace('_', "");
        let value = value.strip_prefix("0x").expect("a hexadecimal number");
        let status = npfs::NtStatus(u32::from_str_radix(value, 16).expect("a number"));
        if let Some(known) = status.name() {
            assert_eq!(known, format!("STATUS_{name}"));
            missing.retain(|status| status.name() != Some(known));
        }
    }
    assert_eq!(missing, []);
}

#[test]
fn c_and_rust_have_one_layout() {
    let Some(cc) = compiler("cc") else { return };
    let out = build(&cc, &["tests/c/layout.c"], "layout", &[], Link::Nothing);
    let printed = run(&mut Command::new(out));
    let mut expected = String::new();
    for (name, size, fields) in types::LAYOUT {
        expected += &format!("{name} {size}\n");
        for (field, offset) in *fields {
            expected += &format!("{name}.{field} {offset}\n");
        }
    }
    for (name, size) in [
        ("io_status_block", size_of::<types::npfs_io_status_block>()),
        (
            "object_attributes",
            size_of::<types::npfs_object_attributes>(),
        ),
        ("port_packet", size_of::<types::npfs_port_packet>()),
        ("broker_options", size_of::<types::npfs_broker_options>()),
        ("identity", size_of::<types::npfs_identity>()),
    ] {
        expected += &format!("npfs_{name} {size}\n");
    }
    assert_eq!(printed, expected);
}

#[test]
fn c_and_rust_have_one_layout_of_the_host_level() {
    let Some(cc) = compiler("cc") else { return };
    let source = "tests/c/layout_host.c";
    let out = build(&cc, &[source], "layout_host", &[], Link::Nothing);
    let printed = run(&mut Command::new(out));
    let mut expected = String::new();
    for (name, size, fields) in npfs_ffi::host::LAYOUT {
        expected += &format!("{name} {size}\n");
        for (field, offset) in *fields {
            expected += &format!("{name}.{field} {offset}\n");
        }
    }
    assert_eq!(printed, expected);
}

#[test]
fn the_headers_are_clean_in_c11_and_in_cpp17() {
    for file in ["tests/c/layout.c", "tests/c/layout_host.c"] {
        is_clean(file);
    }
}

fn is_clean(file: &str) {
    for (compiler_name, language, standard) in [
        ("cc", "c", "c11"),
        ("c++", "c++", "c++17"),
        ("clang", "c", "c11"),
        ("clang++", "c++", "c++17"),
    ] {
        let Some(compiler) = compiler(compiler_name) else {
            continue;
        };
        run(Command::new(compiler)
            .args(["-x", language, &format!("-std={standard}")])
            .args(STRICT)
            .args(["-fsyntax-only", "-Iinclude", file])
            .current_dir(crate_folder()));
    }
}

#[test]
fn only_npfs_is_exported_and_all_that_the_header_says() {
    let library = library("libnpfs_ffi.so");
    let Some(nm) = tool("nm") else { return };
    let listed = run(Command::new(nm).args(["-D", "--defined-only"]).arg(library));
    let exported: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    let headers: Vec<String> = header::ALL
        .iter()
        .map(|header| fs::read_to_string(header.path()).expect(header.name))
        .collect();
    let declared: BTreeSet<&str> = headers
        .iter()
        .flat_map(|header| header.lines())
        .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
        .filter_map(|line| {
            let name = line.split_once('(')?.0.rsplit([' ', '*']).next()?;
            name.starts_with("npfs_").then_some(name)
        })
        .collect();
    assert!(declared.len() > 60, "{declared:?}");
    assert_eq!(exported, declared);
}

// ---- programs ------------------------------------------------------------------------------------------------------

#[test]
fn the_readme_has_the_greeting() {
    let readme = include_str!("../../README.md");
    let program = include_str!("../examples/greeting.c");
    assert!(
        readme.contains(program.trim_end()),
        "README.md has another greeting.c"
    );
    assert!(program.lines().count() <= 70);
}

#[test]
fn programs_run_under_the_sanitizers() {
    let Some(cc) = compiler("cc") else { return };
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let probe = folder().join("probe.c");
    fs::write(&probe, "int main(void) { return 0; }").expect("a file");
    let probe = probe.to_str().expect("a path");
    let has = Command::new(&cc)
        .args(flags)
        .args([probe, "-o", "/dev/null"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has {
        skipped("no sanitizers with this compiler");
        return;
    }
    all_programs(&Programs::build(&cc, "sanitized", &flags), &[]);
}

#[test]
fn programs_run_against_the_shared_library() {
    let Some(cc) = compiler("cc") else { return };
    all_programs(&Programs::build(&cc, "shared", &["-DSHARED"]), &[]);
}

#[test]
fn programs_run_under_valgrind() {
    let Some(cc) = compiler("cc") else { return };
    let Some(valgrind) = tool("valgrind") else {
        return;
    };
    let valgrind = valgrind.to_str().expect("a path").to_owned();
    // No search for leaks: it would read all of a link's sparse memory. The sanitizers look for them.
    let under = [
        &valgrind,
        "-q",
        "--error-exitcode=9",
        "--leak-check=no",
        "--fair-sched=yes",
    ];
    all_programs(&Programs::build(&cc, "checked", &["-g"]), &under);
}

/// The C programs, compiled one way.
struct Programs(PathBuf);

impl Programs {
    fn build(cc: &Path, name: &str, flags: &[&str]) -> Programs {
        let link = match flags.contains(&"-DSHARED") {
            true => Link::Shared,
            false => Link::Static,
        };
        let examples = ["greeting", "echo_server", "echo_client", "port_server"];
        for program in examples {
            let source = format!("examples/{program}.c");
            build(cc, &[&source], &format!("{name}-{program}"), flags, link);
        }
        for program in ["states", "smoke", "toy_host"] {
            let source = format!("tests/c/{program}.c");
            build(cc, &[&source], &format!("{name}-{program}"), flags, link);
        }
        Programs(folder().join(format!("{name}-")))
    }

    /// One that talks to that broker, under something else perhaps.
    fn command(&self, program: &str, site: &Site, under: &[&str]) -> Command {
        let mut path = self.0.clone().into_os_string();
        path.push(program);
        let mut command = match under {
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(path);
                // futex_waitv(2) is missing there, which is found out. io_uring_enter(2) is not, but whoever sleeps in it
                // keeps valgrind's one lock, and all other threads wait.
                command
                    .env("NPFS_LOOP", "futex")
                    .env("NPFS_BROKER_IO", "epoll");
                command
            }
            [] => Command::new(path),
        };
        command.env("NPFS_SOCKET", &site.socket).env(
            "LD_LIBRARY_PATH",
            library("libnpfs_ffi.so").parent().expect("a folder"),
        );
        command
    }
}

fn all_programs(programs: &Programs, under: &[&str]) {
    let site = Site::new();
    let said = run(&mut programs.command("greeting", &site, under));
    assert_eq!(said, "hello, world\n");

    let one = |server: &str, clients: usize| {
        let mut server = programs.command(server, &site, under);
        let server = Process::spawn(server.args(["echo", &clients.to_string()]));
        let clients: Vec<Process> = (0..clients)
            .map(|number| {
                let mut client = programs.command("echo_client", &site, under);
                let messages = ["one", "two", &format!("number {number}")];
                Process::spawn(client.arg("echo").args(messages))
            })
            .collect();
        for (number, client) in clients.into_iter().enumerate() {
            assert_eq!(client.end(), format!("one\ntwo\nnumber {number}\n"));
        }
        server.end();
    };
    one("echo_server", 2);
    one("port_server", 6);

    let vectors = crate_folder().join("tests/states.txt");
    let said = run(programs.command("states", &site, under).arg(vectors));
    assert!(said.ends_with(", 0 wrong\n"), "{said}");
    let said = run(&mut programs.command("smoke", &site, under));
    assert_eq!(said, "smoke: all as it should be\n");
    let said = run(&mut programs.command("toy_host", &site, under));
    assert_eq!(said, "toy host: 8 scenarios as they should be\n");
}

// ---- tools ---------------------------------------------------------------------------------------------------------

/// A broker on a socket of its own.
struct Site {
    socket: PathBuf,
    _broker: Broker,
}

impl Site {
    fn new() -> Site {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // A socket's path is short.
        let folder = env::temp_dir().join(format!("npfs-c-{}-{number}", std::process::id()));
        let socket = folder.join("broker.sock");
        let broker = BrokerOptions::new().socket(&socket).workers(2).start();
        Site {
            socket,
            _broker: broker.expect("a broker"),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.socket.parent().expect("a folder"));
    }
}

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];
const PATIENCE: Duration = Duration::from_secs(120);

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Beside this test.
fn library(name: &str) -> PathBuf {
    let test = env::current_exe().expect("this test");
    test.parent().expect("a folder").join(name)
}

fn skipped(why: &str) {
    // Past the capture of the tests' output, so that it is seen.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIPPED c_abi: {why}");
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn tool(name: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skipped(&format!("no {name}"));
    }
    found
}

/// A compiler; clang is one more, and not missed.
fn compiler(name: &str) -> Option<PathBuf> {
    if name.starts_with("clang") {
        return find(name);
    }
    tool(name)
}

#[derive(Clone, Copy)]
enum Link {
    Nothing,
    Static,
    Shared,
}

fn build(cc: &Path, sources: &[&str], name: &str, flags: &[&str], link: Link) -> PathBuf {
    let out = folder().join(name);
    let mut command = Command::new(cc);
    command
        .current_dir(crate_folder())
        // usleep and the like.
        .args(["-std=c11", "-D_DEFAULT_SOURCE", "-g", "-Iinclude"])
        .args(STRICT)
        .args(flags)
        .args(sources)
        .arg("-o")
        .arg(&out);
    match link {
        Link::Nothing => {}
        Link::Static => {
            // What Rust's own library needs (rustc --print native-static-libs).
            let system = [
                "-lgcc_s",
                "-lutil",
                "-lrt",
                "-lpthread",
                "-lm",
                "-ldl",
                "-lc",
            ];
            command.arg(library("libnpfs_ffi.a")).args(system);
        }
        Link::Shared => {
            command.arg(library("libnpfs_ffi.so")).arg("-lpthread");
        }
    }
    run(&mut command);
    out
}

/// Runs it to its end: what it has printed.
fn run(command: &mut Command) -> String {
    Process::spawn(command).end()
}

/// A process that does not outlive its test.
struct Process {
    child: Option<Child>,
    out: Option<Reader>,
    err: Option<Reader>,
    what: String,
}

type Reader = JoinHandle<String>;

fn reader(mut from: impl Read + Send + 'static) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Process {
    fn spawn(command: &mut Command) -> Process {
        let what = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{what}: {error}"));
        Process {
            // All along: a full pipe would hold it up.
            out: child.stdout.take().map(reader),
            err: child.stderr.take().map(reader),
            child: Some(child),
            what,
        }
    }

    /// Waits for its end, which is a good one.
    fn end(mut self) -> String {
        let start = Instant::now();
        let child = self.child.as_mut().expect("running");
        while child.try_wait().expect("a child").is_none() {
            assert!(start.elapsed() < PATIENCE, "does not end: {}", self.what);
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = child.wait().expect("a child");
        let [stdout, stderr] = [&mut self.out, &mut self.err].map(|reader| {
            let reader = reader.take().expect("read once");
            reader.join().expect("a reader")
        });
        assert!(
            status.success(),
            "{}: {status}\n{stdout}{stderr}",
            self.what
        );
        static LOUD: OnceLock<bool> = OnceLock::new();
        if *LOUD.get_or_init(|| env::var_os("NPFS_LOUD").is_some()) {
            eprint!("{}\n{stdout}{stderr}", self.what);
        }
        stdout
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
