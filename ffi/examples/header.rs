//! Writes `include/npfs.h` anew: `cargo run -p npfs-ffi --example header`.

#[path = "../tests/header/mod.rs"]
mod header;

fn main() {
    let path = header::path();
    std::fs::write(&path, header::generate()).expect("npfs.h cannot be written");
    println!("{} is written", path.display());
}
