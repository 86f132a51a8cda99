//! The fuzz targets without a fuzzer: the kept corpus, and inputs made here, on stable Rust.

use npfs::npfs::{Create, Disposition, EndId, Quality, SecurityParts, Tag, Timeout, Wanted};
use npfs::security::{Mask, SecurityDescriptor, Sid};
use npfs::wire::{Hello, Reply, Request, Words};
use npfs_tests::{Rng, fuzz, pattern, within};
use std::path::Path;

/// Every kept input of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
    {
        inputs.push(std::fs::read(entry.expect("an entry").path()).expect("an input"));
    }
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

#[test]
fn grant() {
    within(120, || {
        for input in corpus("grant") {
            fuzz::grant(&input);
        }
        for seed in 0..5000 {
            fuzz::grant(&pattern(seed, npfs_ringbuf::Grant::SIZE));
        }
    });
}

#[test]
fn wire() {
    within(120, || {
        let mut rng = Rng::new(11);
        for input in corpus("wire") {
            fuzz::wire(&input);
            // Each also with some bytes changed.
            for seed in 0..200 {
                let mut input = input.clone();
                for byte in pattern(seed, 3) {
                    let at = rng.below(input.len());
                    input[at] = byte;
                }
                fuzz::wire(&input);
            }
        }
        for seed in 0..5000 {
            let len = rng.below(400);
            fuzz::wire(&pattern(seed, len));
        }
    });
}

/// The corpus of `wire`: every message there is, as this version writes it. Made with `NPFS_WRITE_CORPUS=1`.
#[test]
fn the_wire_corpus_is_of_this_version() {
    let name = || npfs::Name::parse("name").expect("a name");
    let security = SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::GENERIC_READ);
    let create = Create {
        name: Some(name()),
        access: Mask::GENERIC_ALL,
        direction: npfs::Direction::Duplex,
        disposition: Disposition::OpenIf,
        pipe_type: npfs::PipeType::Message,
        max_instances: 3,
        in_quota: 4,
        out_quota: 5,
        default_timeout: Some(std::time::Duration::from_millis(50)),
        security: Some(security.clone()),
        apart: false,
    };
    let after = std::time::Duration::from_secs(1);
    let words = Words {
        options: 0x20,
        ..Words::default()
    };
    let modes = (npfs::ReadMode::Message, npfs::CompletionMode::Queue);
    let wanted = Wanted {
        access: Mask::GENERIC_ALL,
        quality: Quality::STATIC,
        apart: true,
    };
    let messages = [
        ("hello", Request::Hello(Hello::ours()).encode()),
        ("create", Request::Create(Tag(1), Box::new(create)).encode()),
        (
            "open",
            Request::Open(Tag(2), name(), Wanted::access(Mask::GENERIC_READ)).encode(),
        ),
        ("listen", Request::Listen(Tag(3), EndId(9), true).encode()),
        ("disconnect", Request::Disconnect(Tag(4), EndId(9)).encode()),
        ("close", Request::Close(EndId(9)).encode()),
        (
            "wait",
            Request::Wait(Tag(5), name(), Timeout::After(after)).encode(),
        ),
        ("cancel", Request::Cancel(Tag(5)).encode()),
        ("list", Request::List(Tag(6), 3, vec![65, 66]).encode()),
        ("info", Request::Info(Tag(7), name(), 8).encode()),
        ("openat", Request::OpenAt(Tag(8), EndId(9), wanted).encode()),
        ("describe", Request::Describe(Tag(9), EndId(9)).encode()),
        (
            "setsecurity",
            Request::SetSecurity(
                Tag(10),
                EndId(9),
                SecurityParts::DACL,
                Box::new(security.clone()),
            )
            .encode(),
        ),
        ("rejoin", Request::Rejoin([9, 10], 1).encode()),
        (
            "give",
            Request::Give(
                Tag(11),
                EndId(9),
                Mask::GENERIC_READ,
                modes,
                Some(15),
                words,
            )
            .encode(),
        ),
        ("take", Request::Take(Tag(12), [13, 14]).encode()),
        (
            "setmodes",
            Request::SetModes(Tag(13), EndId(9), modes).encode(),
        ),
        ("given", Reply::Given(Tag(11), [13, 14]).encode()),
        ("refresh", Request::Refresh(Tag(14), EndId(9)).encode()),
        (
            "done",
            Reply::Done(Tag(1), npfs::NtStatus::PIPE_BROKEN).encode(),
        ),
        ("linkgone", Reply::LinkGone(4).encode()),
        ("peerlost", Reply::PeerLost([4, 5], 1, true).encode()),
        ("security", security.to_bytes().expect("short")),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/wire");
    for (file, bytes) in messages {
        let path = folder.join(file);
        if std::env::var_os("NPFS_WRITE_CORPUS").is_some() {
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(&path, &bytes).expect("written");
        }
        // The layout's hash is this build's.
        if file != "hello" {
            assert_eq!(std::fs::read(&path).expect(file), bytes, "{file}");
        }
    }
}

#[test]
fn consumer() {
    within(300, || {
        for input in corpus("consumer") {
            fuzz::consumer(&input);
        }
        let mut rng = Rng::new(7);
        for seed in 0..600 {
            let len = rng.below(900);
            fuzz::consumer(&pattern(seed, len));
        }
    });
}
