//! Which rules of the specification have a test: read from the tests themselves.
//!
//! A test covers a rule if its function's name begins with the rule's id (`np_read_09_rest_stays_and_says_part`). The list
//! of ids, with the section each stands in, is `rules.txt`.

use std::collections::BTreeSet;
use std::path::Path;

/// Rules of sections 1 to 17 that speak of calls which do not exist yet, and of what.
const ELSEWHERE: &[(&str, &str)] = &[
    ("NP-NUM-01", "control codes of the native call"),
    ("NP-NUM-02", "control codes of the native call"),
    ("NP-NUM-03", "control codes of the native call"),
    ("NP-LIM-05", "the Win32 layer"),
    ("NP-NAME-09", "volume and root handles"),
    ("NP-NAME-13", "unnamed pipes"),
    ("NP-NAME-14", "the object manager"),
    ("NP-CREATE-01", "arguments of the native call"),
    ("NP-CREATE-02", "arguments of the native call"),
    ("NP-CREATE-03", "arguments of the native call"),
    ("NP-CREATE-04", "arguments of the native call"),
    ("NP-CREATE-05", "arguments of the native call"),
    ("NP-CREATE-14", "IO status blocks"),
    ("NP-CREATE-28", "what Wine does otherwise"),
    ("NP-OPEN-08", "arguments of the native call"),
    ("NP-SEC-07", "the network redirector"),
    ("NP-LISTEN-06", "volume and root handles"),
    ("NP-LISTEN-13", "impersonation"),
    ("NP-DISC-10", "handles as wait objects"),
    ("NP-WAIT-01", "volume and root handles"),
    ("NP-WAIT-02", "buffers of the native call"),
    ("NP-READ-22", "volume and root handles"),
    ("NP-WRITE-15", "an option of a handle"),
    ("NP-WRITE-16", "volume and root handles"),
    ("NP-PEEK-01", "the buffer's form at the native call"),
    ("NP-PEEK-03", "volume and root handles"),
    ("NP-PEEK-10", "the Win32 layer"),
    ("NP-XCV-10", "buffers of the native call"),
    ("NP-CANCEL-05", "file objects and handles"),
    ("NP-CANCEL-06", "IO status blocks"),
    ("NP-CANCEL-07", "threads of the native call"),
    ("NP-CLOSE-01", "several handles of a file object"),
    ("NP-CLOSE-04", "listening"),
];

fn rules() -> Vec<(u32, &'static str)> {
    let parse = |line: &'static str| {
        let (section, id) = line.split_once(' ').expect("section and id");
        (section.parse().expect("a number"), id)
    };
    include_str!("rules.txt").lines().map(parse).collect()
}

/// The rules a test's name begins with: `np_read_09_rest` is NP-READ-09, and
/// `np_disc_01_02_np_wait_08_rest` is NP-DISC-01, NP-DISC-02 and NP-WAIT-08.
fn rules_of(name: &str) -> Vec<String> {
    let mut rules = Vec::new();
    let mut section = None;
    let mut parts = name.split('_').peekable();
    while let Some(part) = parts.next() {
        let number = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        match (part, &section) {
            ("np", _) => section = parts.next().map(str::to_uppercase),
            (number_of, Some(section)) if number => rules.push(format!("NP-{section}-{number_of}")),
            _ => break,
        }
    }
    rules
}

/// The names of all `#[test]` functions under a folder.
fn tests(folder: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                tests(&path, names);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let mut lines = text.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if line == "#[test]"
                    && let Some(name) = lines.next().and_then(|l| l.strip_prefix("fn "))
                {
                    let name = name.split('(').next().expect("a name");
                    names.push(name.to_owned());
                }
            }
        }
    }
}

#[test]
fn rules_have_tests() {
    let mut names = Vec::new();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests(here, &mut names);
    for other in ["ringbuf", "engine", "ffi"] {
        let folder = here.join("..").join(other);
        if folder.is_dir() {
            tests(&folder, &mut names);
        }
    }
    let covered: BTreeSet<String> = names.iter().flat_map(|n| rules_of(n)).collect();
    let rules = rules();
    let known: BTreeSet<&str> = rules.iter().map(|(_, id)| *id).collect();
    for id in &covered {
        assert!(
            known.contains(id.as_str()),
            "{id} is a test's name, but no rule"
        );
    }
    println!("rules covered: {} of {}", covered.len(), known.len());
    let sections: BTreeSet<u32> = rules.iter().map(|(section, _)| *section).collect();
    for section in sections {
        let of: Vec<&str> = rules
            .iter()
            .filter(|(s, _)| *s == section)
            .map(|(_, id)| *id)
            .collect();
        let missing: Vec<&str> = of
            .iter()
            .copied()
            .filter(|id| !covered.contains(*id))
            .collect();
        println!(
            "section {section}: {} of {}",
            of.len() - missing.len(),
            of.len()
        );
        if (1..=17).contains(&section) {
            let unexplained: Vec<&str> = missing
                .into_iter()
                .filter(|id| !ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == id))
                .collect();
            assert!(
                unexplained.is_empty(),
                "section {section}: no test for {unexplained:?}"
            );
        }
    }
    for (id, why) in ELSEWHERE {
        assert!(known.contains(id), "{id} ({why}) is no rule");
        assert!(
            !covered.contains(*id),
            "{id} ({why}) has a test now: take it off the list"
        );
    }
}

#[test]
fn names_are_read_as_rules() {
    assert_eq!(rules_of("np_read_09_rest_stays"), ["NP-READ-09"]);
    let several = rules_of("np_disc_01_02_np_wait_08_rest_12");
    assert_eq!(several, ["NP-DISC-01", "NP-DISC-02", "NP-WAIT-08"]);
    assert!(rules_of("np_read_9_rest").is_empty());
    assert!(rules_of("np_open_a_rule_without_a_number").is_empty());
    assert!(rules_of("memory_is_given_back").is_empty());
}
