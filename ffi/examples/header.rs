//! Writes `include/npfs.h` and `include/npfs_host.h` anew: `cargo run -p npfs-ffi --example header`.

#[path = "../tests/header/mod.rs"]
mod header;

fn main() {
    for header in &header::ALL {
        let path = header.path();
        std::fs::write(&path, header::generate(header)).expect(header.name);
        println!("{} is written", path.display());
    }
}
