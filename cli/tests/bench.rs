//! `npfs bench` as its user meets it: exit codes, lines, and workers that die or hang.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Starts the tool; what it prints is kept for `finish`.
fn start(arguments: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_npfs"))
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts")
}

fn run(arguments: &str) -> Output {
    start(arguments).wait_with_output().expect("the tool ends")
}

/// The workload that costs least: no spinning, one CPU.
const SMALL: &str = "bench --quick --baselines-only --only roundtrip-48";

fn one_cpu() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list
        .expect("a list")
        .trim()
        .split([',', '-'])
        .next()
        .expect("a CPU")
        .to_owned();
    format!("--cpus {first},{first}")
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn mistakes_are_one_line_and_exit_code_2() {
    for mistake in [
        "bench --only frobnicate",
        "bench --cpus 0",
        "bench --cpus 0,100000",
        "bench --cpus x,y",
        "bench --ours-only --baselines-only",
        "bench --frobnicate",
        "frobnicate",
    ] {
        let output = run(mistake);
        assert_eq!(output.status.code(), Some(2), "{mistake}");
        assert_eq!(
            lines(&output.stderr).len(),
            1,
            "{mistake}: {:?}",
            lines(&output.stderr)
        );
        assert!(output.stdout.is_empty(), "{mistake}");
    }
}

#[test]
fn a_page_that_cannot_be_written_is_refused_before_the_work() {
    let began = Instant::now();
    let output = run("bench --html /proc/no/such/folder/page.html");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&output.stderr).len(), 1);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn help_has_examples() {
    let output = run("bench --help");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("npfs bench --quick"));
}

#[test]
fn json_is_one_object_a_line_and_the_page_is_written() {
    let page = std::env::temp_dir().join(format!("npfs-bench-{}.html", std::process::id()));
    let output = run(&format!(
        "{SMALL} {} --json --html {}",
        one_cpu(),
        page.display()
    ));
    assert!(output.status.success(), "{:?}", lines(&output.stderr));
    let objects: Vec<serde_json::Value> = lines(&output.stdout)
        .iter()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    let [row] = objects.as_slice() else {
        panic!("one promise, not {objects:?}")
    };
    assert_eq!(
        (&row["id"], &row["name"]),
        (&"P2".into(), &"roundtrip-48".into())
    );
    assert!(
        row["baseline"].as_f64().is_some_and(|nanos| nanos > 0.0),
        "{row}"
    );
    assert!(
        row["ours"].is_null() && row["ratio"].is_null() && row["holds"].is_null(),
        "{row}"
    );
    assert!(
        row["rounds_kept"].as_u64().is_some_and(|rounds| rounds > 0),
        "{row}"
    );
    let text = fs::read_to_string(&page).expect("the page");
    fs::remove_file(&page).expect("the page was ours");
    assert!(text.contains("<svg") && text.trim_end().ends_with("</html>"));
}

/// Process ids of the tool's two workers, once both run.
fn workers(tool: &Child) -> Vec<String> {
    let id = tool.id();
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children: Vec<String> = children
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        if children.len() == 2 {
            return children;
        }
        assert!(Instant::now() < patience, "no two workers: {children:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn signal(name: &str, process: &str) {
    let sent = Command::new("kill")
        .args([name, process])
        .status()
        .expect("kill(1)");
    assert!(sent.success());
}

/// Sends `name` to one worker in the midst of the work; the tool's end and what it said.
fn with_a_lost_worker(name: &str) -> (ExitStatus, Vec<String>) {
    let mut tool = start(&format!("{SMALL} {}", one_cpu()));
    let mut said = BufReader::new(tool.stderr.take().expect("piped"));
    // Both work once the tool says at what.
    let mut progress = String::new();
    while !progress.starts_with("[1/") {
        progress.clear();
        assert_ne!(said.read_line(&mut progress).expect("text"), 0);
    }
    thread::sleep(Duration::from_millis(100));
    signal(name, &workers(&tool)[1]);
    let began = Instant::now();
    let said: Vec<String> = said.lines().map(|line| line.expect("text")).collect();
    let output = tool.wait_with_output().expect("the tool ends");
    assert!(began.elapsed() < Duration::from_secs(20));
    // Whoever's turn it was may have had no other: a slow machine gets through one round.
    let table = String::from_utf8_lossy(&output.stdout);
    let rest = [
        "raw futex",
        "index",
        "in-frame",
        "pipe(2)",
        "stream",
        "seqpacket",
    ];
    let rest = rest.iter().filter(|name| table.contains(**name));
    assert!(rest.count() >= 5, "the rest is reported: {table}");
    (output.status, said)
}

#[test]
fn a_worker_that_dies_is_reported_and_replaced() {
    let (status, said) = with_a_lost_worker("-KILL");
    assert_eq!(status.code(), Some(1), "{said:?}");
    assert!(
        said.iter().any(|line| line.contains("died of signal 9")),
        "{said:?}"
    );
}

#[test]
fn a_worker_that_hangs_is_reported_and_replaced() {
    let (status, said) = with_a_lost_worker("-STOP");
    assert_eq!(status.code(), Some(1), "{said:?}");
    assert!(
        said.iter().any(|line| line.contains("no answer from")),
        "{said:?}"
    );
}

#[test]
fn workers_do_not_outlive_the_tool() {
    let mut tool = start(&format!("{SMALL} {}", one_cpu()));
    let left = workers(&tool);
    tool.kill().expect("it runs");
    tool.wait().expect("it ends");
    let patience = Instant::now() + Duration::from_secs(10);
    // Reaped by whoever adopts them; until then a dead one is a zombie, whose command is empty.
    let alive = |id: &String| {
        fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|command| !command.is_empty())
    };
    while left.iter().any(alive) {
        assert!(Instant::now() < patience, "still there: {left:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
