//! One server, many clients at once: an instance and a thread for each, and always one more instance that listens, so
//! that a client never finds the name without a listener.
//!
//!     cargo run -p npfs --example many_clients

use std::thread;

use npfs::{BrokerOptions, ClientOptions, Error, PipeType, ReadMode, Server, ServerOptions};

const CLIENTS: usize = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = BrokerOptions::new().start()?;
    let (here, there) = (broker.connect()?, broker.connect()?);

    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message);
    let mut server = options.create(&here, "counter")?;
    let accepting = thread::spawn(move || -> npfs::Result<usize> {
        let mut served = Vec::new();
        for _ in 0..CLIENTS {
            match server.connect() {
                Ok(()) | Err(Error::Closing) => {}
                Err(error) => return Err(error),
            }
            let connected = std::mem::replace(&mut server, options.create(&here, "counter")?);
            served.push(thread::spawn(move || serve(&connected)));
        }
        Ok(served.into_iter().filter_map(|one| one.join().ok()).sum())
    });

    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let there = there.clone();
            thread::spawn(move || -> npfs::Result<()> {
                let client = ClientOptions::new()
                    .read_mode(ReadMode::Message)
                    .wait(Some(std::time::Duration::from_secs(5)))
                    .open(&there, "counter")?;
                let mut reply = [0; 64];
                for turn in 0..100 {
                    let _ = client.transact(format!("{number} {turn}").as_bytes(), &mut reply)?;
                }
                Ok(())
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client")?;
    }
    let calls = accepting.join().expect("the server")?;
    println!("{CLIENTS} clients, {calls} calls");
    assert_eq!(calls, 100 * CLIENTS);
    Ok(())
}

/// Until this client closes; how many calls it made.
fn serve(server: &Server) -> usize {
    let mut buf = [0; 64];
    let mut calls = 0;
    while let Ok(read) = server.read(&mut buf) {
        if server.write(&buf[..read.count()]).is_err() {
            break;
        }
        calls += 1;
    }
    calls
}
