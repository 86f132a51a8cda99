//! The second process of the tests: see `npfs_tests::child`.

fn main() {
    npfs_tests::child::main();
}
