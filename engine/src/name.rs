//! Names of pipes: what callers write, what the broker compares.

use std::{fmt, sync::Arc};

/// The name of a pipe: UTF-16 units, at least one, without any prefix. Every unit is an ordinary character, backslashes
/// and dots included (NP-NAME-03 to 06).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Vec<u16>);

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing stands after the prefix (NP-NAME-07).
    #[error("the name of a pipe is empty")]
    Empty,
    /// Longer than Win32 (256 characters with its prefix) or a counted string (32,766 units) allows (NP-LIM-03).
    #[error("the name of a pipe is too long")]
    TooLong,
    /// A path that does not lead to pipes (NP-NAME-10, 17).
    #[error(r"not a path of a pipe: write NAME or \\.\pipe\NAME")]
    NotAPipe,
    /// `\\HOST\pipe\NAME`: other machines' pipes cannot be reached yet.
    #[error("pipes of other machines cannot be reached")]
    Remote,
    /// A half of a surrogate pair where text is needed.
    #[error("the name of a pipe is not text")]
    NotText,
    /// The broker says so.
    #[error("the name of a pipe was refused")]
    Refused,
}

/// Prefixes that lead to the same objects (NP-NAME-01).
const PREFIXES: [&str; 5] = [
    r"\\.\pipe\",
    r"\\?\pipe\",
    r"\??\pipe\",
    r"\DosDevices\pipe\",
    r"\Device\NamedPipe\",
];
/// Characters of a whole Win32 path.
const WIN32_LIMIT: usize = 256;
/// Units of a counted string of 65,534 bytes, less the leading backslash.
const NATIVE_LIMIT: usize = 32_766;

impl Name {
    /// From what a caller writes: `NAME`, `\\.\pipe\NAME` or one of NT's own paths.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Name, NameError> {
        for prefix in PREFIXES {
            let Some(head) = text.get(..prefix.len()) else {
                continue;
            };
            if head.eq_ignore_ascii_case(prefix) {
                let win32 = prefix.starts_with(r"\\");
                if win32 && text.encode_utf16().count() > WIN32_LIMIT {
                    return Err(NameError::TooLong);
                }
                return Name::from_units(text[prefix.len()..].encode_utf16().collect());
            }
        }
        if let Some(host) = text.strip_prefix(r"\\") {
            let mut parts = host.splitn(3, '\\').skip(1);
            return Err(match parts.next() {
                Some(share) if share.eq_ignore_ascii_case("pipe") => NameError::Remote,
                _ => NameError::NotAPipe,
            });
        }
        if text.starts_with('\\') {
            return Err(NameError::NotAPipe);
        }
        Name::from_units(text.encode_utf16().collect())
    }

    /// From UTF-16 units without a prefix.
    ///
    /// # Errors
    /// [`NameError::Empty`], [`NameError::TooLong`].
    pub fn from_units(units: Vec<u16>) -> Result<Name, NameError> {
        match units.len() {
            0 => Err(NameError::Empty),
            1..=NATIVE_LIMIT => Ok(Name(units)),
            _ => Err(NameError::TooLong),
        }
    }

    /// What a pipe without a name answers when it is asked for one; not a name to ask for.
    pub(crate) fn none() -> Name {
        Name(Vec::new())
    }

    /// The units.
    #[must_use]
    pub fn units(&self) -> &[u16] {
        &self.0
    }

    /// Whether it matches a pattern, whatever the case of its letters (NP-NAME-02): `*` stands for any characters, `?` for one,
    /// and so do DOS's `<` and `>`, which mean nearly the same here. Takes no more steps than both lengths multiplied.
    #[must_use]
    pub fn matches(&self, pattern: &[u16]) -> bool {
        let is = |unit: u16, one: u8, other: u8| unit == u16::from(one) || unit == u16::from(other);
        let (mut at, mut seen) = (0, 0);
        // Only the last star that was met is tried again: where the pattern goes on behind it, and how much it has taken.
        let mut retry = None;
        while let Some(&unit) = self.0.get(seen) {
            match pattern.get(at) {
                Some(&star) if is(star, b'*', b'<') => {
                    at += 1;
                    retry = Some((at, seen));
                }
                Some(&one) if is(one, b'?', b'>') || upcase(one) == upcase(unit) => {
                    at += 1;
                    seen += 1;
                }
                _ => {
                    let Some((behind, taken)) = retry else {
                        return false;
                    };
                    (at, seen) = (behind, taken + 1);
                    retry = Some((behind, seen));
                }
            }
        }
        pattern[at..].iter().all(|&rest| is(rest, b'*', b'<'))
    }

    /// What names are compared by (NP-NAME-02).
    #[must_use]
    pub(crate) fn folded(&self) -> Key {
        Key {
            units: self.0.iter().map(|&unit| upcase(unit)).collect(),
            unnamed: 0,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf16_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// A name as it is compared: each unit in upper case. Ten thousand instances share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    units: Arc<[u16]>,
    /// Of a pipe without a name: a number that no other has (NP-NAME-11); 0 for names.
    unnamed: u64,
}

impl Key {
    pub(crate) fn units(&self) -> &[u16] {
        &self.units
    }

    pub(crate) fn from_units(units: &[u16]) -> Key {
        Key {
            units: units.into(),
            unnamed: 0,
        }
    }

    /// Of a pipe that no name leads to.
    pub(crate) fn unnamed(number: u64) -> Key {
        Key {
            units: Arc::default(),
            unnamed: number,
        }
    }

    pub(crate) fn is_unnamed(&self) -> bool {
        self.unnamed != 0
    }
}

/// One unit in upper case, as NT does it: unit by unit, to one unit, and nothing outside ASCII becomes ASCII.
pub(crate) fn upcase(unit: u16) -> u16 {
    let Some(letter) = char::from_u32(u32::from(unit)) else {
        return unit; // half of a pair
    };
    let mut upper = letter.to_uppercase();
    match (upper.next().map(u32::from), upper.next()) {
        (Some(upper), None) if letter.is_ascii() || upper > 0x7F => {
            u16::try_from(upper).unwrap_or(unit)
        }
        _ => unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect(text)
    }

    #[test]
    fn np_dir_05_patterns_match_whatever_the_case() {
        for (pattern, name, does) in [
            ("*", "anything", true),
            ("*", r"a\b", true),
            ("", "a", false),
            ("abc", "ABC", true),
            ("abc", "abcd", false),
            ("spool*", "SPOOLSS", true),
            ("*SS", "spoolss", true),
            ("s*o*s", "spoolss", true),
            ("s*o*x", "spoolss", false),
            ("*ab", "aab", true),
            ("a*", "ba", false),
            ("?", "ä", true),
            ("Ä", "ä", true),
            ("??", "a", false),
            ("a?c", "abc", true),
            ("a**", "a", true),
            ("a>c<", "abcd", true),
        ] {
            let pattern_units: Vec<u16> = pattern.encode_utf16().collect();
            let name = Name::parse(name).expect("a name");
            assert_eq!(name.matches(&pattern_units), does, "{pattern} {name}");
        }
    }

    #[test]
    fn np_name_01_every_prefix_leads_to_the_same_name() {
        for path in [
            r"\\.\pipe\rpc\echo",
            r"\\.\PIPE\rpc\echo",
            r"\??\pipe\rpc\echo",
            r"\DosDevices\pipe\rpc\echo",
            r"\Device\NamedPipe\rpc\echo",
            r"rpc\echo",
        ] {
            assert_eq!(name(path), name(r"rpc\echo"), "{path}");
        }
    }

    #[test]
    fn np_name_02_case_does_not_matter() {
        assert_eq!(name("Straße-ÄÖ").folded(), name("sTRAßE-äö").folded());
        assert_ne!(name("a").folded(), name("b").folded());
        // To one unit, and never into ASCII.
        assert_ne!(name("ß").folded(), name("SS").folded());
        assert_ne!(name("ı").folded(), name("I").folded());
    }

    #[test]
    fn np_name_03_04_05_06_15_every_character_is_literal() {
        let names = [
            r"a\.\b", r"a\..\b", r"..\a", "a/b", "a:b", r"a\b", "b", "a", r"x\", "x", "<>*?|\"/",
        ];
        for (i, one) in names.iter().enumerate() {
            for other in &names[i + 1..] {
                assert_ne!(name(one).folded(), name(other).folded());
            }
        }
    }

    #[test]
    fn np_name_07_08_10_17_np_create_07_what_is_not_a_name() {
        for (text, error) in [
            ("", NameError::Empty),
            (r"\\.\pipe\", NameError::Empty),
            (r"\Device\NamedPipe\", NameError::Empty),
            (r"\Device\NamedPipe", NameError::NotAPipe),
            (r"\leading", NameError::NotAPipe),
            (r"\\.\mailslot\x", NameError::NotAPipe),
            (r"\\HOST\pipe\x", NameError::Remote),
            (r"\\", NameError::NotAPipe),
        ] {
            assert_eq!(Name::parse(text), Err(error), "{text}");
        }
        assert_eq!(name(r"\Device\NamedPipe\\").units(), [u16::from(b'\\')]);
    }

    #[test]
    fn np_lim_03_lengths() {
        let most = format!(r"\\.\pipe\{}", "x".repeat(247));
        assert_eq!(name(&most).units().len(), 247);
        assert_eq!(Name::parse(&format!("{most}x")), Err(NameError::TooLong));
        assert_eq!(name(&"x".repeat(NATIVE_LIMIT)).units().len(), NATIVE_LIMIT);
        let long = "x".repeat(NATIVE_LIMIT + 1);
        assert_eq!(Name::parse(&long), Err(NameError::TooLong));
    }
}
