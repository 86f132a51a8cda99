//! A server for any number of clients on one thread: every call is overlapped, and all completions come to one queue.
//!
//! ```text
//! cargo run --release -p npfs --example event_server -- echo &
//! echo hello | cargo run --release -- cat echo
//! ```
//!
//! `epoll_server` is the same server over unix sockets; `npfs bench --only serve` measures both.

use std::collections::HashMap;

use npfs::{Completion, Completions, Deadline, Done, Error, Namespace, Op, Server, ServerOptions};

/// Bytes that one read takes at most.
const ROOM: usize = 4096;

/// The server's state: its ends by token.
struct Echo<'a> {
    namespace: &'a Namespace,
    name: &'a str,
    options: ServerOptions,
    queue: Completions,
    ends: HashMap<u64, Server>,
    next: u64,
}

impl Echo<'_> {
    /// One more instance that waits for a client, so that none finds the name without one.
    fn listen(&mut self) -> npfs::Result<()> {
        let server = self.options.create(self.namespace, self.name)?;
        server.submit(Op::connect(), &self.queue, self.next);
        self.ends.insert(self.next, server);
        self.next += 1;
        Ok(())
    }

    /// What to do next on an end, now that a call on it has completed.
    fn go_on(&mut self, completion: Completion) -> npfs::Result<()> {
        let Completion {
            token,
            result,
            mut buffer,
        } = completion;
        let Some(end) = self.ends.get(&token) else {
            return Ok(());
        };
        match result {
            Ok(Done::Connected) => {
                end.submit(Op::read(vec![0; ROOM]), &self.queue, token);
                self.listen()?;
            }
            Ok(Done::Read(read)) => {
                // At once, as long as the client keeps up; else it completes later, like a read.
                match end.try_write(&buffer[..read.count()]) {
                    Ok(_) => {
                        end.submit(Op::read(buffer), &self.queue, token);
                    }
                    Err(Error::WouldBlock | Error::Busy) => {
                        buffer.truncate(read.count());
                        end.submit(Op::write(buffer), &self.queue, token);
                    }
                    Err(_) => drop(self.ends.remove(&token)),
                }
            }
            Ok(Done::Wrote(_)) => {
                buffer.resize(ROOM, 0);
                end.submit(Op::read(buffer), &self.queue, token);
            }
            // The client has gone, or the pipe is no more.
            Ok(Done::Flushed) | Err(_) => drop(self.ends.remove(&token)),
        }
        Ok(())
    }
}

/// Serves until `is_over` says so, which is asked after each batch with the number of ends that are left, the listening
/// one among them, and of those that have been.
#[allow(unreachable_pub, reason = "the benchmark includes this file, too")]
pub fn serve(
    namespace: &Namespace,
    name: &str,
    options: ServerOptions,
    is_over: impl Fn(usize, u64) -> bool,
) -> npfs::Result<()> {
    let mut echo = Echo {
        namespace,
        name,
        options,
        queue: Completions::new(),
        ends: HashMap::new(),
        next: 0,
    };
    echo.listen()?;
    let mut batch = Vec::new();
    while !is_over(echo.ends.len(), echo.next) {
        echo.queue.wait(&mut batch, 64, Deadline::NEVER)?;
        for completion in batch.drain(..) {
            echo.go_on(completion)?;
        }
    }
    Ok(())
}

#[allow(dead_code, reason = "the benchmark includes this file for `serve`")]
fn main() -> npfs::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "echo".to_owned());
    let namespace = Namespace::open()?;
    println!("serving {name}");
    serve(&namespace, &name, ServerOptions::new(), |_, _| false)
}
