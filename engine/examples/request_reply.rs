//! A service and its caller in one program, with a broker of their own: each call is one `transact`.
//!
//!     cargo run --release -p npfs --example request_reply

use std::thread;
use std::time::Instant;

use npfs::{BrokerOptions, ClientOptions, PipeType, ReadMode, ServerOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = BrokerOptions::new().start()?;
    let (here, there) = (broker.connect()?, broker.connect()?);

    let server = ServerOptions::new()
        .pipe_type(PipeType::Message)
        .first_instance(true)
        .create(&here, "squares")?;
    let service = thread::spawn(move || -> npfs::Result<()> {
        server.connect()?;
        let mut request = [0; 8];
        // Ends when the caller closes.
        while server.read(&mut request).is_ok() {
            let number = u64::from_le_bytes(request);
            server.write(&(number * number).to_le_bytes())?;
        }
        Ok(())
    });

    let client = ClientOptions::new()
        .read_mode(ReadMode::Message)
        .open(&there, "squares")?;
    let (calls, begin) = (100_000_u64, Instant::now());
    for number in 0..calls {
        let mut reply = [0; 8];
        let read = client.transact(&number.to_le_bytes(), &mut reply)?;
        assert_eq!(
            (read.count(), u64::from_le_bytes(reply)),
            (8, number * number)
        );
    }
    let each = begin.elapsed() / u32::try_from(calls)?;
    println!(
        "{calls} calls, {each:?} each; the broker was asked {} times",
        broker.stats().requests
    );
    drop(client);
    service.join().expect("the service ends")?;
    Ok(())
}
