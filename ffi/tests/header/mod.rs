//! How `npfs.h` and `npfs_host.h` are made: by cbindgen, and a little by hand.

use std::{fmt::Write as _, path::PathBuf};

/// One of the headers.
pub(crate) struct Header {
    pub(crate) name: &'static str,
    config: &'static str,
    /// In the order of the header.
    sources: &'static [&'static str],
}

/// All that there are.
pub(crate) const ALL: [Header; 2] = [
    Header {
        name: "npfs.h",
        config: "cbindgen.toml",
        sources: &["types", "numbers", "objects", "nt", "win32"],
    },
    Header {
        name: "npfs_host.h",
        config: "cbindgen_host.toml",
        sources: &["host/types", "host/server", "host/client"],
    },
];

impl Header {
    /// Where it stands.
    pub(crate) fn path(&self) -> PathBuf {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        root.join("include").join(self.name)
    }
}

/// What should stand there.
pub(crate) fn generate(header: &Header) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(root.join(header.config)).expect(header.config);
    if header.name == "npfs.h" {
        let version = format!(
            "\n\n/**\n * What `npfs_version` answers of the library that this header is of.\n */\n\
             #define NPFS_VERSION UINT32_C(0x{:08X})",
            npfs_ffi::VERSION
        );
        config
            .after_includes
            .get_or_insert_default()
            .push_str(&version);
    }
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in header.sources {
        builder = builder.with_src(root.join(format!("src/{source}.rs")));
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
        if let Some(("#define", name, value)) = words(line) {
            if let Ok(value) = value.parse::<u32>() {
                writeln!(header, "#define {name} {}", number(name, value)).expect("a string");
                continue;
            }
            if let Ok(value) = value.parse::<i32>() {
                writeln!(header, "#define {name} INT32_C({value})").expect("a string");
                continue;
            }
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
    // The statuses that are no errors have the type of those that are.
    if HOST_STATUSES.contains(&name) {
        format!("INT32_C({value})")
    } else if long.iter().any(|prefix| name.starts_with(prefix)) {
        format!("UINT32_C(0x{value:08X})")
    } else if value > 8 {
        format!("UINT32_C(0x{value:X})")
    } else {
        format!("UINT32_C({value})")
    }
}

const HOST_STATUSES: [&str; 4] = [
    "NPFS_HOST_OK",
    "NPFS_HOST_MORE_DATA",
    "NPFS_HOST_WOULD_BLOCK",
    "NPFS_HOST_PENDING",
];
