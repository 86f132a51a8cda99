//! How `npfs.h` is made: by cbindgen, and a little by hand.

use std::{fmt::Write as _, path::PathBuf};

/// Where it stands.
pub(crate) fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("include/npfs.h")
}

/// What should stand there.
pub(crate) fn generate() -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut config =
        cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let version = format!(
        "\n\n/**\n * What `npfs_version` answers of the library that this header is of.\n */\n\
         #define NPFS_VERSION UINT32_C(0x{:08X})",
        npfs_ffi::VERSION
    );
    config
        .after_includes
        .get_or_insert_default()
        .push_str(&version);
    let mut builder = cbindgen::Builder::new().with_config(config);
    // In the order of the header.
    for file in ["types", "numbers", "objects", "nt", "win32"] {
        builder = builder.with_src(root.join(format!("src/{file}.rs")));
    }
    let mut made = Vec::new();
    builder
        .generate()
        .expect("cbindgen understands the exports")
        .write(&mut made);
    polish(&String::from_utf8(made).expect("UTF-8"))
}

/// What cbindgen has no words for: numbers as they are written in C headers, and Rust's headings.
fn polish(made: &str) -> String {
    let mut header = String::new();
    let mut rest = made.lines().peekable();
    while let Some(line) = rest.next() {
        // The safety section is the last of a comment, after an empty line.
        if line == " * # Safety" {
            let first = rest.next().unwrap_or_default().trim_start_matches(" * ");
            writeln!(header, " * Memory: {first}").expect("a string");
            continue;
        }
        if let Some(("#define", name, value)) = words(line)
            && let Ok(value) = value.parse::<u32>()
        {
            writeln!(header, "#define {name} {}", number(name, value)).expect("a string");
            continue;
        }
        // A comment of one line takes one.
        let indent = line.len() - line.trim_start().len();
        if line.trim_start() == "/**" {
            let mut ahead = rest.clone();
            let text = ahead
                .next()
                .and_then(|text| text.trim_start().strip_prefix("* "));
            if let (Some(text), Some("*/")) = (text, ahead.next().map(str::trim_start)) {
                writeln!(header, "{:indent$}/** {text} */", "").expect("a string");
                rest = ahead;
                continue;
            }
        }
        // A row of numbers is one.
        let defined = |line: &&str| line.starts_with("#define NPFS_");
        if line.is_empty()
            && header.lines().next_back().as_ref().is_some_and(defined)
            && rest.peek() == Some(&"/**")
        {
            let mut ahead = rest.clone().skip(2);
            if ahead.next() == Some(" */") && ahead.next().as_ref().is_some_and(defined) {
                continue;
            }
        }
        header.push_str(line);
        header.push('\n');
    }
    header
}

fn words(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.splitn(3, ' ');
    Some((words.next()?, words.next()?, words.next()?))
}

fn number(name: &str, value: u32) -> String {
    let long = ["NPFS_STATUS_", "NPFS_FSCTL_"];
    if long.iter().any(|prefix| name.starts_with(prefix)) {
        format!("UINT32_C(0x{value:08X})")
    } else if value > 8 {
        format!("UINT32_C(0x{value:X})")
    } else {
        format!("UINT32_C({value})")
    }
}
