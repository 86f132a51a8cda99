//! Security identifiers, and the ones that stand for users and groups of Linux.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A security identifier: who owns, who asks, who is allowed.
///
/// Revision 1, a 48-bit authority and at most 15 sub-authorities (MS-DTYP 2.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid {
    /// Below 2^48.
    authority: u64,
    /// How many of `subs` count; at most [`Sid::MAX_SUB_AUTHORITIES`].
    len: u8,
    /// Zero from `len` on, so that derived equality and hash are right.
    subs: [u32; Sid::MAX_SUB_AUTHORITIES],
}

/// Why something is not a SID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SidError {
    /// The bytes end before the SID does.
    #[error("the SID is cut short")]
    Truncated,
    /// A revision other than 1.
    #[error("SID revision {0} is not known")]
    Revision(u8),
    /// More than 15 sub-authorities.
    #[error("a SID has at most 15 sub-authorities")]
    TooManySubAuthorities,
    /// An authority of 2^48 or more.
    #[error("the authority of a SID has 48 bits")]
    Authority,
    /// The text is not of the form `S-1-5-32-544`.
    #[error("not of the form S-1-authority-sub-authorities")]
    Syntax,
}

impl Sid {
    /// The most sub-authorities a SID can have.
    pub const MAX_SUB_AUTHORITIES: usize = 15;

    /// S-1-1-0: everybody.
    pub const EVERYONE: Sid = Sid::known(1, [0]);
    /// S-1-5-7: who has not said who they are. No [`Token`](super::Token) has it.
    pub const ANONYMOUS: Sid = Sid::known(5, [7]);
    /// S-1-5-18: the system itself; user 0 has it.
    pub const LOCAL_SYSTEM: Sid = Sid::known(5, [18]);
    /// S-1-5-32-544: the group of administrators; user 0 is a member.
    pub const ADMINISTRATORS: Sid = Sid::known(5, [32, 544]);

    /// A SID from its numbers.
    ///
    /// # Errors
    ///
    /// [`SidError::Authority`] or [`SidError::TooManySubAuthorities`].
    pub fn new(authority: u64, sub_authorities: &[u32]) -> Result<Sid, SidError> {
        if authority >= AUTHORITY_LIMIT {
            return Err(SidError::Authority);
        }
        let mut sid = Sid::known(authority, []);
        for &sub in sub_authorities {
            sid.push(sub)?;
        }
        Ok(sid)
    }

    /// S-1-22-1-`uid`: a user of this machine.
    #[must_use]
    pub const fn user(uid: u32) -> Sid {
        Sid::known(UNIX, [UNIX_USER, uid])
    }

    /// S-1-22-2-`gid`: a group of this machine.
    #[must_use]
    pub const fn group(gid: u32) -> Sid {
        Sid::known(UNIX, [UNIX_GROUP, gid])
    }

    /// The user that [`Sid::user`] made this of.
    #[must_use]
    pub fn as_uid(&self) -> Option<u32> {
        self.unix_id(UNIX_USER)
    }

    /// The group that [`Sid::group`] made this of.
    #[must_use]
    pub fn as_gid(&self) -> Option<u32> {
        self.unix_id(UNIX_GROUP)
    }

    /// The authority, below 2^48.
    #[must_use]
    pub const fn authority(&self) -> u64 {
        self.authority
    }

    /// The sub-authorities, at most 15.
    #[must_use]
    pub fn sub_authorities(&self) -> &[u32] {
        &self.subs[..usize::from(self.len)]
    }

    /// How many bytes the binary form takes: 8 to 68, a multiple of 4.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        HEADER + 4 * usize::from(self.len)
    }

    /// The binary form (MS-DTYP 2.4.2.2): revision, count, authority with its high byte first,
    /// sub-authorities with their low byte first.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.byte_len());
        bytes.extend([REVISION, self.len]);
        bytes.extend_from_slice(&self.authority.to_be_bytes()[2..]);
        for sub in self.sub_authorities() {
            bytes.extend(sub.to_le_bytes());
        }
        bytes
    }

    /// Reads the binary form from the front of `bytes`; what follows it is not looked at, and
    /// [`byte_len`](Sid::byte_len) of the result says where that begins.
    ///
    /// # Errors
    ///
    /// [`SidError::Truncated`], [`SidError::Revision`] or [`SidError::TooManySubAuthorities`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Sid, SidError> {
        let (&[revision, count, a, b, c, d, e, f], rest) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(SidError::Truncated)?;
        if revision != REVISION {
            return Err(SidError::Revision(revision));
        }
        if usize::from(count) > Sid::MAX_SUB_AUTHORITIES {
            return Err(SidError::TooManySubAuthorities);
        }
        let rest = rest
            .get(..4 * usize::from(count))
            .ok_or(SidError::Truncated)?;
        let mut sid = Sid::known(u64::from_be_bytes([0, 0, a, b, c, d, e, f]), []);
        let (subs, _) = rest.as_chunks::<4>();
        for &sub in subs {
            sid.push(u32::from_le_bytes(sub))?;
        }
        Ok(sid)
    }

    /// Only for `authority` below 2^48 and `N` up to 15; all callers are in this file.
    const fn known<const N: usize>(authority: u64, sub_authorities: [u32; N]) -> Sid {
        const { assert!(N <= Sid::MAX_SUB_AUTHORITIES) };
        let mut sid = Sid {
            authority,
            len: 0,
            subs: [0; Sid::MAX_SUB_AUTHORITIES],
        };
        let mut i = 0;
        while i < N {
            sid.subs[i] = sub_authorities[i];
            sid.len += 1;
            i += 1;
        }
        sid
    }

    fn push(&mut self, sub: u32) -> Result<(), SidError> {
        *self
            .subs
            .get_mut(usize::from(self.len))
            .ok_or(SidError::TooManySubAuthorities)? = sub;
        self.len += 1;
        Ok(())
    }

    fn unix_id(&self, kind: u32) -> Option<u32> {
        match (self.authority, self.sub_authorities()) {
            (UNIX, &[k, id]) if k == kind => Some(id),
            _ => None,
        }
    }
}

/// `S-1-5-32-544`; an authority of 2^32 or more is written in hex (MS-DTYP 2.4.2.1).
impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.authority >> 32 == 0 {
            write!(f, "S-1-{}", self.authority)?;
        } else {
            write!(f, "S-1-{:#014x}", self.authority)?;
        }
        self.sub_authorities()
            .iter()
            .try_for_each(|sub| write!(f, "-{sub}"))
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid({self})")
    }
}

/// Reads what [`Display`](fmt::Display) writes. Also accepted: a small `s`, and an authority of any
/// size in either base.
impl FromStr for Sid {
    type Err = SidError;

    fn from_str(text: &str) -> Result<Sid, SidError> {
        let mut fields = text.split('-');
        if !matches!(fields.next(), Some("S" | "s")) {
            return Err(SidError::Syntax);
        }
        let revision = number(fields.next().ok_or(SidError::Syntax)?, 10)?;
        if revision != u64::from(REVISION) {
            return Err(u8::try_from(revision).map_or(SidError::Syntax, SidError::Revision));
        }
        let authority = fields.next().ok_or(SidError::Syntax)?;
        let authority = match authority
            .strip_prefix("0x")
            .or_else(|| authority.strip_prefix("0X"))
        {
            Some(hex) => number(hex, 16)?,
            None => number(authority, 10)?,
        };
        let mut sid = Sid::new(authority, &[])?;
        for field in fields {
            let sub = u32::try_from(number(field, 10)?).map_err(|_| SidError::Syntax)?;
            sid.push(sub)?;
        }
        Ok(sid)
    }
}

/// Digits only: `from_str_radix` alone would take a sign as well.
fn number(digits: &str, radix: u32) -> Result<u64, SidError> {
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(SidError::Syntax);
    }
    u64::from_str_radix(digits, radix).map_err(|_| SidError::Syntax)
}

const REVISION: u8 = 1;
/// Bytes before the first sub-authority.
const HEADER: usize = 8;
const AUTHORITY_LIMIT: u64 = 1 << 48;
/// Samba's authority for users and groups of Unix, with the first sub-authority of each.
const UNIX: u64 = 22;
const UNIX_USER: u32 = 1;
const UNIX_GROUP: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Sid> {
        vec![
            Sid::EVERYONE,
            Sid::ANONYMOUS,
            Sid::LOCAL_SYSTEM,
            Sid::ADMINISTRATORS,
            Sid::user(0),
            Sid::group(u32::MAX),
            Sid::new(0, &[]).unwrap(),
            Sid::new(AUTHORITY_LIMIT - 1, &[7; 15]).unwrap(),
            Sid::new(1 << 32, &[1]).unwrap(),
        ]
    }

    #[test]
    fn both_forms_round_trip() {
        for sid in samples() {
            assert_eq!(sid.to_string().parse(), Ok(sid));
            let mut bytes = sid.to_bytes();
            assert_eq!(bytes.len(), sid.byte_len());
            for cut in 0..bytes.len() {
                assert_eq!(Sid::from_bytes(&bytes[..cut]), Err(SidError::Truncated));
            }
            bytes.push(0xFF);
            assert_eq!(
                Sid::from_bytes(&bytes),
                Ok(sid),
                "bytes after it do not matter"
            );
        }
    }

    #[test]
    fn well_known_sids_have_their_text_and_bytes() {
        let text: Vec<String> = samples()[..6].iter().map(Sid::to_string).collect();
        assert_eq!(
            text,
            [
                "S-1-1-0",
                "S-1-5-7",
                "S-1-5-18",
                "S-1-5-32-544",
                "S-1-22-1-0",
                "S-1-22-2-4294967295",
            ]
        );
        assert_eq!(
            Sid::ADMINISTRATORS.to_bytes(),
            [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0]
        );
        assert_eq!(
            Sid::new(1 << 32, &[1]).unwrap().to_string(),
            "S-1-0x000100000000-1"
        );
    }

    #[test]
    fn ids_of_linux_come_back_and_others_do_not() {
        assert_eq!(Sid::user(1000).as_uid(), Some(1000));
        assert_eq!(Sid::user(1000).as_gid(), None);
        assert_eq!(Sid::group(100).as_gid(), Some(100));
        assert_eq!(Sid::group(100).as_uid(), None);
        assert_eq!(Sid::new(22, &[1, 2, 3]).unwrap().as_uid(), None);
        assert_eq!(Sid::new(5, &[1, 1000]).unwrap().as_uid(), None);
    }

    #[test]
    fn text_that_is_no_sid_is_refused() {
        for text in [
            "",
            "S",
            "S-",
            "S-1",
            "S-1-",
            "T-1-5",
            "S-1-5-",
            "S-1-5--1",
            "S-1-+5",
            "S-1-5-+1",
            "S-1-5-1 ",
            " S-1-5",
            "S-1-0x",
            "S-1-5-0x1",
            "S-1-5-4294967296",
            "S-300-5",
            "S-1-é",
            "S-1-99999999999999999999",
        ] {
            assert_eq!(text.parse::<Sid>(), Err(SidError::Syntax), "{text:?}");
        }
        assert_eq!("S-2-5-1".parse::<Sid>(), Err(SidError::Revision(2)));
        assert_eq!(
            "S-1-281474976710656".parse::<Sid>(),
            Err(SidError::Authority)
        );
        let long = format!("S-1-5{}", "-1".repeat(16));
        assert_eq!(long.parse::<Sid>(), Err(SidError::TooManySubAuthorities));
        assert_eq!("s-1-0X5-18".parse(), Ok(Sid::LOCAL_SYSTEM));
    }

    #[test]
    fn bytes_that_are_no_sid_are_refused() {
        let mut bytes = [0; 80];
        assert_eq!(Sid::from_bytes(&bytes), Err(SidError::Revision(0)));
        bytes[0] = 1;
        bytes[1] = 16;
        assert_eq!(
            Sid::from_bytes(&bytes),
            Err(SidError::TooManySubAuthorities)
        );
        assert_eq!(Sid::new(AUTHORITY_LIMIT, &[]), Err(SidError::Authority));
        assert_eq!(Sid::new(5, &[0; 16]), Err(SidError::TooManySubAuthorities));
    }
}
