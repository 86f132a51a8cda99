//! Which rules of the specification have a test: read from the tests themselves.
//!
//! A test covers a rule if its function's name begins with the rule's id (`np_read_09_rest_stays_and_says_part`). The list
//! of ids, with the section each stands in, is `rules.txt`.
//!
//! Of the rules by which the naive model decides, `inverted.txt` says whether anything notices when the model decides the
//! opposite. `invert.sh` finds that out, which takes longer than a test may; here it is only seen that what it found is
//! about the model as it is now.

use std::collections::BTreeSet;
use std::path::Path;

/// Rules without a test, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("NP-LIM-05", "Win32 layer"),
    ("NP-NAME-14", "object manager"),
    ("NP-CREATE-28", "Win32 layer: what Wine does otherwise"),
    ("NP-LISTEN-13", "open question"),
    ("NP-PEEK-10", "Win32 layer"),
    ("NP-DIR-08", "open question"),
    ("NP-IMP-05", "a thread of Linux has no token of its own"),
    ("NP-IMP-06", "a thread of Linux has no token of its own"),
    ("NP-IO-06", "user APCs"),
    ("NP-IO-11", "user APCs"),
    ("NP-WIN-01", "Win32 layer"),
    ("NP-WIN-02", "Win32 layer"),
    ("NP-WINE-02", "Win32 layer"),
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
        let unexplained: Vec<&str> = missing
            .into_iter()
            .filter(|id| !ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == id))
            .collect();
        assert!(
            unexplained.is_empty(),
            "section {section}: no test for {unexplained:?}"
        );
    }
    for (id, why) in ELSEWHERE {
        println!("not covered: {id} ({why})");
        assert!(known.contains(id), "{id} ({why}) is no rule");
        assert!(
            !covered.contains(*id),
            "{id} ({why}) has a test now: take it off the list"
        );
    }
}

/// FNV-1a, 64 bits: enough to notice a change.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    })
}

/// The first line of `inverted.txt`, as it should be.
fn model() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("model");
    let read = |name| std::fs::read(folder.join(name)).expect("a source file");
    let text = [read("mod.rs"), read("whole.rs")].concat();
    format!("model {:016x}", fnv(&text))
}

/// `invert.sh` reads what this prints.
#[test]
fn model_hash() {
    assert_eq!(fnv(b""), 0xCBF2_9CE4_8422_2325);
    assert_eq!(fnv(b"a"), 0xAF63_DC4C_8601_EC8C);
    println!("\n{}", model());
}

#[test]
fn inversions_are_of_this_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("inverted.txt");
    let text = std::fs::read_to_string(path).expect("inverted.txt, which tests/invert.sh writes");
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some(model().as_str()),
        "the model has changed: run tests/invert.sh"
    );
    let rules = rules();
    let (mut caught, mut survived) = (Vec::new(), Vec::new());
    for line in lines {
        let (id, verdict) = line.split_once(' ').expect("rule and verdict");
        assert!(rules.iter().any(|(_, rule)| *rule == id), "{id} is no rule");
        match verdict {
            "caught" => caught.push(id),
            "survived" => survived.push(id),
            _ => panic!("{line}: neither caught nor survived"),
        }
    }
    println!(
        "rules whose inversion in the model is caught: {} of {} in the model",
        caught.len(),
        caught.len() + survived.len()
    );
    for id in survived {
        println!("survived: {id}");
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
