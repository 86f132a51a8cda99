//! The second process of the tests: see `npfs_tests::child`, `npfs_tests::actor` and `npfs_tests::table`.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words {
        ["actor", socket] => npfs_tests::actor::main(socket),
        ["table", socket] => npfs_tests::table::main(socket),
        ["broker", socket, workers] => {
            npfs_tests::actor::broker(socket, workers.parse().expect("a number"));
        }
        _ => npfs_tests::child::main(),
    }
}
