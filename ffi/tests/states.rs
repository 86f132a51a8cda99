//! The specification's state tables through `npfs::nt`, from the vectors that `c/states.c` runs through `npfs.h`.

use npfs::nt::*;
use npfs::{BrokerOptions, Mask, NtStatus, npfs::SecurityParts};

/// One line of states.txt, and which of its answers is meant.
struct Vector<'a> {
    end: &'a str,
    state: &'a str,
    operation: &'a str,
    complete: bool,
}

fn answer(nt: &Nt, name: &str, vector: &Vector<'_>) -> NtStatus {
    let path = units(&format!(r"\??\pipe\{name}"));
    let at = Attributes::named(&path);
    let create = CreatePipe {
        in_quota: 64,
        out_quota: 64,
        access: Mask::GENERIC_READ | Mask::GENERIC_WRITE | Mask::SYNCHRONIZE,
        ..CreatePipe::default()
    };
    let (server, _) = nt.create_named_pipe(&at, &create).expect("create");
    let connected = vector.state != "listening";
    let client = connected.then(|| {
        let access = Mask::GENERIC_READ | Mask::GENERIC_WRITE;
        nt.open_file(&at, access, 1, 0).expect("open").0
    });
    let (end, peer) = match (vector.end, client) {
        ("server", client) => (server, client),
        ("client", Some(client)) => (client, Some(server)),
        other => panic!("no such end: {other:?}"),
    };
    let modes = |file| {
        let mode = u32::from(file == end && vector.complete);
        let data = [1_u32.to_le_bytes(), mode.to_le_bytes()].concat();
        let set = nt.set_information_file(file, &StatusBlock::default(), InfoClass::PIPE, &data);
        assert_eq!(set, NtStatus::SUCCESS);
    };
    modes(end);
    let operation = vector.operation.strip_suffix('+');
    if let (Some(_), Some(peer)) = (operation, peer) {
        let written = nt.write_file(peer, &Io::default(), b"x");
        assert_eq!(written, NtStatus::SUCCESS);
    }
    let mut open = vec![end];
    open.extend(peer);
    let control = |file, code, input: &[u8]| {
        nt.fs_control_file(file, &Io::default(), code, input, &Buffer::new(64))
    };
    match vector.state {
        "listening" | "connected" => {}
        "closing" => nt.close(open.pop().expect("a peer")).expect("close"),
        "disconnected" => {
            let disconnected = control(server, Control::DISCONNECT, b"");
            assert_eq!(disconnected, NtStatus::SUCCESS);
        }
        other => panic!("no such state: {other}"),
    }
    let query =
        |class| nt.query_information_file(end, &StatusBlock::default(), class, &mut [0; 128]);
    let answer = match operation.unwrap_or(vector.operation) {
        "read" => nt.read_file(end, &Io::default(), &Buffer::new(16)),
        "write" => nt.write_file(end, &Io::default(), b"y"),
        "write-nothing" => nt.write_file(end, &Io::default(), b""),
        "write-much" => nt.write_file(end, &Io::default(), &[b'y'; 65]),
        "flush" => nt.flush_buffers_file(end, &StatusBlock::default()),
        "peek" => control(end, Control::PEEK, b""),
        "transceive" => control(end, Control::TRANSCEIVE, b"z"),
        "listen" => control(end, Control::LISTEN, b""),
        "disconnect" => control(end, Control::DISCONNECT, b""),
        "impersonate" => control(end, Control::IMPERSONATE, b""),
        "query-pipe" => query(InfoClass::PIPE),
        "query-local" => query(InfoClass::PIPE_LOCAL),
        "query-name" => query(InfoClass::NAME),
        "query-standard" => query(InfoClass::STANDARD),
        "query-remote" => query(InfoClass::PIPE_REMOTE),
        "set-pipe" => {
            nt.set_information_file(end, &StatusBlock::default(), InfoClass::PIPE, &[0; 8])
        }
        "client-id" => control(end, Control::GET_CONNECTION_ATTRIBUTE, b"ClientProcessId\0"),
        "server-id" => control(end, Control::GET_PIPE_ATTRIBUTE, b"ServerProcessId\0"),
        "query-security" => match nt.query_security_object(end, SecurityParts::DACL) {
            Ok(_) => NtStatus::SUCCESS,
            Err(status) => status,
        },
        other => panic!("no such operation: {other}"),
    };
    for file in open {
        nt.close(file).expect("close");
    }
    answer
}

#[test]
fn the_state_tables_hold() {
    let broker = BrokerOptions::new().workers(1).start().expect("a broker");
    let nt = Nt::new(broker.connect().expect("a client"));
    let (mut count, mut wrong) = (0, Vec::new());
    for line in include_str!("states.txt").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [end, state, operation, queue, complete] = words[..] else {
            panic!("not a vector: {line}");
        };
        for (expected, complete) in [(queue, false), (complete, true)] {
            if expected == "-" {
                continue;
            }
            let vector = Vector {
                end,
                state,
                operation,
                complete,
            };
            let answer = answer(&nt, &format!("state-{count}"), &vector).to_string();
            count += 1;
            if answer.strip_prefix("STATUS_") != Some(expected) {
                wrong.push(format!("{line}: {answer} (never waits: {complete})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 200, "{count} vectors");
}
