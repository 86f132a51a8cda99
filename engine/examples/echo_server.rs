//! Answers every message with itself, one client after the other.
//!
//!     cargo run -p npfs --example echo_server
//!     cargo run -p npfs --example client -- hello world

use npfs::{Error, Namespace, PipeType, Read, ServerOptions};

fn main() -> npfs::Result<()> {
    let namespace = Namespace::open()?;
    let server = ServerOptions::new()
        .pipe_type(PipeType::Message)
        .create(&namespace, r"\\.\pipe\echo")?;
    eprintln!(r"serving \\.\pipe\echo");
    let mut buf = vec![0; 64 << 10];
    loop {
        match server.connect() {
            // Closing: the client has come and gone, and may have left a message.
            Ok(()) | Err(Error::Closing) => {}
            Err(error) => return Err(error),
        }
        eprintln!("process {} is here", server.client()?.pid);
        loop {
            match server.read(&mut buf) {
                Ok(Read::Whole(count)) => {
                    if server.write(&buf[..count]).is_err() {
                        break;
                    }
                }
                Ok(Read::Part(_)) => {
                    eprintln!("a message of more than 64 KiB: cut off");
                    break;
                }
                Err(Error::Broken) => break,
                Err(error) => return Err(error),
            }
        }
        server.disconnect()?;
    }
}
