//! Nothing grows with the number of messages: no descriptor, no mapping, no memory.
//!
//! Ten million messages; in an unoptimised build one million, unless `CI` or `NPFS_LONG` is set. One test in this file, so
//! that nobody else opens anything in this process meanwhile.

use npfs_ringbuf::books::ConnSpec;
use npfs_ringbuf::{CompletionMode, Error, PipeType, Read, ReadMode, Wait};
use npfs_tests::party::Pair;
use npfs_tests::{sys, within};

fn messages() -> u64 {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
    if cfg!(debug_assertions) && !set("CI") && !set("NPFS_LONG") {
        1_000_000
    } else {
        10_000_000
    }
}

/// Bytes of this process's own memory in use (resident, not backed by the link).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status
        .lines()
        .find(|l| l.starts_with("RssAnon:"))
        .expect("RssAnon");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    kib * 1024
}

#[test]
fn nothing_grows_with_messages() {
    let total = messages();
    within(570, move || {
        let pair = Pair::new(&ConnSpec::new(PipeType::Message, 4096));
        pair.server
            .set_modes(ReadMode::Message, CompletionMode::Queue)
            .unwrap();
        let wait = Wait::new();
        let mut buf = [0; 256];
        let mut next = 0_u64;
        // A round of traffic of every kind: lengths that wander, a queue that runs full, reads that pend.
        let mut round = |count: u64| {
            let end = next + count;
            let mut read = next;
            while next < end {
                let len = 8 + usize::try_from(next % 90).expect("small");
                let mut message = [0; 98];
                message[..8].copy_from_slice(&next.to_le_bytes());
                let full = match pair.client.try_write(&message[..len]) {
                    Ok(n) => {
                        assert_eq!(n, len);
                        next += 1;
                        false
                    }
                    Err(Error::WouldBlock) => true,
                    Err(error) => panic!("{error}"),
                };
                if full || next.is_multiple_of(7) {
                    while read < next {
                        assert!(matches!(pair.server.try_read(&mut buf), Ok(Read::Whole(_))));
                        assert_eq!(buf[..8], read.to_le_bytes());
                        read += 1;
                    }
                }
                if next.is_multiple_of(1000) && read == next {
                    let mut pending = pair.server.start_read(&wait, &mut buf).unwrap();
                    assert_eq!(pending.poll(), None);
                    assert_eq!(pair.client.try_write(&next.to_le_bytes()), Ok(8));
                    assert_eq!(pending.poll(), Some(Ok(Read::Whole(8))));
                    next += 1;
                    read += 1;
                }
            }
            while read < next {
                assert!(matches!(pair.server.try_read(&mut buf), Ok(Read::Whole(_))));
                read += 1;
            }
        };
        round(100_000);
        let count = || {
            (
                sys::descriptors(),
                sys::mappings(),
                sys::occupied(pair.books.fd()),
                resident(),
            )
        };
        let before = count();
        round(total);
        let after = count();
        println!("{total} messages: {before:?} before, {after:?} after");
        assert_eq!(
            (after.0, after.1),
            (before.0, before.1),
            "descriptors and mappings"
        );
        assert!(
            after.2 <= before.2,
            "bytes of the link: {} to {}",
            before.2,
            after.2
        );
        // The allocator may touch a few pages that it had before.
        assert!(
            after.3 <= before.3 + (64 << 10),
            "own memory: {} to {}",
            before.3,
            after.3
        );
    });
}
