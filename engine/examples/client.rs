//! Sends each argument as a message to `echo`, and prints the answers.

use std::time::Duration;

use npfs::{ClientOptions, Namespace, ReadMode};

fn main() -> npfs::Result<()> {
    let namespace = Namespace::open()?;
    let client = ClientOptions::new()
        .read_mode(ReadMode::Message)
        .wait(Some(Duration::from_secs(1))) // another client may be there
        .open(&namespace, "echo")?;
    let mut buf = vec![0; 64 << 10];
    for message in std::env::args().skip(1) {
        let read = client.transact(message.as_bytes(), &mut buf)?;
        println!("{}", String::from_utf8_lossy(&buf[..read.count()]));
    }
    Ok(())
}
