//! What the fuzz targets do, shared with the replay in `cargo test`.

use crate::party::Pair;
use crate::sys::Map;
use npfs::security::{Mask, SecurityDescriptor, Token, check};
use npfs::wire::{Reply, Request};
use npfs_ringbuf::books::{ConnSpec, LinkConfig};
use npfs_ringbuf::{Conn, Error, Grant, PipeType, ReadMode, Wait};
use std::sync::atomic::Ordering::Relaxed;

/// Any bytes as a grant: refused, or a grant that gives back its bytes and opens an end that answers at once.
pub fn grant(bytes: &[u8]) {
    let Ok(grant) = Grant::from_bytes(bytes) else {
        return;
    };
    let again = Grant::from_bytes(&grant.to_bytes()).expect("what it wrote itself");
    assert_eq!(again, grant);
    thread_local! {
        static PAIR: Pair = Pair::with(&ConnSpec::new(PipeType::Message, 512), &small());
    }
    PAIR.with(|pair| {
        if let Ok(conn) = Conn::open(&pair.link, &grant) {
            let mut buf = [0; 64];
            let _ = conn.peek(&mut buf);
            let _ = conn.try_read(&mut buf);
            let _ = conn.info();
            conn.close();
        }
    });
}

/// Any bytes as a request, a reply or a security descriptor: refused, or something that survives being written again.
pub fn wire(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        let written = request.encode();
        let again = Request::decode(&written).expect("what it wrote itself");
        assert_eq!(again.encode(), written);
    }
    if let Ok(reply) = Reply::decode(bytes) {
        let again = Reply::decode(&reply.encode()).expect("what it wrote itself");
        assert_eq!(again, reply);
    }
    if let Ok(security) = SecurityDescriptor::from_bytes(bytes)
        && let Ok(written) = security.to_bytes()
    {
        let again = SecurityDescriptor::from_bytes(&written).expect("what it wrote itself");
        assert_eq!(again, security);
        let token = Token::new(1000, 1000, vec![4]);
        let _ = check(&security, &token, Mask::MAXIMUM_ALLOWED);
    }
}

/// A link small enough to be made for every input.
pub fn small() -> LinkConfig {
    LinkConfig {
        size: 4 << 20,
        slots: 4,
    }
}

/// The input is a program: stores of the peer (place, size, value) and calls of the victim. Every call answers at once,
/// whatever the memory says; none panics; none writes outside its buffer.
pub fn consumer(input: &[u8]) {
    let Some((first, mut rest)) = input.split_first() else {
        return;
    };
    let pipe_type = if first & 1 == 0 {
        PipeType::Byte
    } else {
        PipeType::Message
    };
    let mut pair = Pair::with(&ConnSpec::new(pipe_type, 512), &small());
    if first & 2 != 0 {
        let _ = pair
            .server
            .set_modes(ReadMode::Message, pair.server.completion_mode());
    }
    let map = {
        use std::os::fd::AsFd as _;
        let memory = pair.books.share().expect("a duplicate");
        Map::new(memory.as_fd()).expect("a mapping")
    };
    let hot: Vec<(usize, usize)> = crate::sys::extents(pair.books.fd());
    let hot_len: usize = hot.iter().map(|e| e.1).sum();
    let (wait, other) = (Wait::new(), Wait::new());
    let mut buf = vec![0xc5; 4096 + 16];
    while let Some((code, tail)) = rest.split_first() {
        rest = tail;
        let (server, client) = (&pair.server, &pair.client);
        match code & 15 {
            // A store into the pages in use, most of the time; the areas get theirs by the last kind.
            0..=6 if rest.len() >= 7 => {
                let place = usize::from(u16::from_le_bytes([rest[0], rest[1]])) * 4;
                let value = u32::from_le_bytes([rest[2], rest[3], rest[4], rest[5]]);
                let mut offset = place % hot_len.max(4);
                for (start, len) in &hot {
                    if offset < *len {
                        map.word((start + offset) & !3).store(value, Relaxed);
                        break;
                    }
                    offset -= len;
                }
                rest = &rest[7..];
            }
            7 if rest.len() >= 8 => {
                let place = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let value = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
                map.word((place % map.len()) & !3).store(value, Relaxed);
                rest = &rest[8..];
            }
            8 => {
                let _ = server.try_read(&mut buf[..4096]);
            }
            9 => {
                let _ = server.peek(&mut buf[..4096]);
            }
            10 => {
                let _ = server.info();
                let _ = client.info();
            }
            11 => {
                let _ = server.try_write(&[7; 100]);
            }
            12 => {
                let _ = client.try_write(&[9; 100]);
            }
            13 => {
                // Pends, meets a write, is polled a bounded number of times, and is dropped.
                if let Ok(mut read) = server.start_read(&wait, &mut buf[..4096]) {
                    let _ = client.try_write(&[1; 30]);
                    let _ = read.poll();
                    let _ = read.cancel();
                }
            }
            14 => {
                if let Ok(mut write) = server.start_write(&other, &[3; 700]) {
                    let _ = write.poll();
                }
            }
            _ => {
                let _: Result<usize, Error> = client.try_read(&mut buf[..64]).map(|r| r.count());
            }
        }
        assert!(
            buf[4096..].iter().all(|b| *b == 0xc5),
            "a byte outside the buffer"
        );
    }
    // The books, too, meet whatever stands there.
    let _ = pair.books.close(pair.id, npfs_ringbuf::End::Client);
    pair.books.sweep(pair.index, None);
}
