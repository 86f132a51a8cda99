//! Security descriptors: an owner, a group and an ordered list of who may do what.

use thiserror::Error;

use super::{Mask, Sid, SidError, Token};

/// Who owns a pipe and who may do what with it.
///
/// What it does not hold is lost between [`from_bytes`](SecurityDescriptor::from_bytes) and
/// [`to_bytes`](SecurityDescriptor::to_bytes): the SACL, the control bits about defaults and
/// inheritance, and ACEs of types other than allow and deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityDescriptor {
    /// May always read the descriptor and replace its DACL.
    pub owner: Option<Sid>,
    /// Carried for those who ask; the check does not look at it.
    pub group: Option<Sid>,
    /// In order. `None`, the null DACL, allows everything to everybody; an empty one, nothing.
    pub dacl: Option<Vec<Ace>>,
}

/// One entry of a DACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ace {
    /// Whether it allows or denies.
    pub kind: AceKind,
    /// The flags byte (MS-DTYP 2.4.4.1); only [`Ace::INHERIT_ONLY`] means something here.
    pub flags: u8,
    /// Which rights; generic bits are mapped when it is checked.
    pub mask: Mask,
    /// To whom.
    pub sid: Sid,
}

/// What an [`Ace`] does with its rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AceKind {
    /// ACCESS_ALLOWED_ACE, type 0.
    Allow,
    /// ACCESS_DENIED_ACE, type 1.
    Deny,
}

/// Why bytes are not a security descriptor, or a descriptor cannot become bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// More than [`SecurityDescriptor::MAX_BYTES`], or a DACL of more than 65,535 bytes.
    #[error("the security descriptor is larger than 64 KiB")]
    TooLarge,
    /// The header, the DACL or an ACE reaches beyond what holds it.
    #[error("the security descriptor is cut short")]
    Truncated,
    /// A descriptor revision other than 1.
    #[error("security descriptor revision {0} is not known")]
    Revision(u8),
    /// SE_SELF_RELATIVE is not set, so the offsets are pointers of somebody else.
    #[error("the security descriptor is not self-relative")]
    NotSelfRelative,
    /// An offset into the header or beyond the end.
    #[error("offset {0:#x} is outside of the security descriptor")]
    Offset(u32),
    /// A DACL revision other than 2 to 4.
    #[error("ACL revision {0} is not known")]
    AclRevision(u8),
    /// An ACE whose size is no multiple of 4, or too small for its type; counted from 0.
    #[error("ACE {0} has an impossible size")]
    AceSize(u16),
    /// The owner, the group or the SID of an ACE.
    #[error("a SID of the security descriptor is malformed")]
    Sid(#[from] SidError),
}

impl SecurityDescriptor {
    /// The largest binary form that is read or written.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// No owner, no group, and an empty DACL: nobody may do anything.
    #[must_use]
    pub fn new() -> SecurityDescriptor {
        SecurityDescriptor {
            owner: None,
            group: None,
            dacl: Some(Vec::new()),
        }
    }

    /// What CreateNamedPipe installs when it is given no descriptor (NP-SEC-04): everything to
    /// LocalSystem, Administrators and the creator; reading to Everyone and Anonymous.
    #[must_use]
    pub fn npfs_default(creator: &Token) -> SecurityDescriptor {
        SecurityDescriptor::new()
            .with_owner(creator.user_sid())
            .with_group(creator.group_sid())
            .allow(Sid::LOCAL_SYSTEM, Mask::GENERIC_ALL)
            .allow(Sid::ADMINISTRATORS, Mask::GENERIC_ALL)
            .allow(creator.user_sid(), Mask::GENERIC_ALL)
            .allow(Sid::EVERYONE, Mask::GENERIC_READ)
            .allow(Sid::ANONYMOUS, Mask::GENERIC_READ)
    }

    /// What the native call installs when it is given no descriptor (NP-SEC-03), and CreatePipe:
    /// everything to the creator and LocalSystem.
    #[must_use]
    pub fn token_default(creator: &Token) -> SecurityDescriptor {
        SecurityDescriptor::new()
            .with_owner(creator.user_sid())
            .with_group(creator.group_sid())
            .allow(creator.user_sid(), Mask::GENERIC_ALL)
            .allow(Sid::LOCAL_SYSTEM, Mask::GENERIC_ALL)
    }

    /// Sets the owner.
    #[must_use]
    pub fn with_owner(mut self, owner: Sid) -> SecurityDescriptor {
        self.owner = Some(owner);
        self
    }

    /// Sets the group.
    #[must_use]
    pub fn with_group(mut self, group: Sid) -> SecurityDescriptor {
        self.group = Some(group);
        self
    }

    /// Appends an allowing ACE; earlier ACEs win. A null DACL becomes one with this ACE alone.
    #[must_use]
    pub fn allow(self, sid: Sid, mask: Mask) -> SecurityDescriptor {
        self.with_ace(Ace::allow(sid, mask))
    }

    /// Appends a denying ACE; earlier ACEs win, so denials usually come first. A null DACL becomes
    /// one with this ACE alone, which allows nothing.
    #[must_use]
    pub fn deny(self, sid: Sid, mask: Mask) -> SecurityDescriptor {
        self.with_ace(Ace::deny(sid, mask))
    }

    fn with_ace(mut self, ace: Ace) -> SecurityDescriptor {
        self.dacl.get_or_insert_default().push(ace);
        self
    }

    /// The self-relative binary form (MS-DTYP 2.4.6): header, owner, group, DACL, without gaps.
    ///
    /// # Errors
    ///
    /// [`DescriptorError::TooLarge`]; up to 850 ACEs always fit.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DescriptorError> {
        let mut body = Vec::new();
        let owner = place(&mut body, self.owner.map(|sid| sid.to_bytes()))?;
        let group = place(&mut body, self.group.map(|sid| sid.to_bytes()))?;
        let dacl = self.dacl.as_deref().map(acl_to_bytes).transpose()?;
        let dacl = place(&mut body, dacl)?;
        if HEADER + body.len() > SecurityDescriptor::MAX_BYTES {
            return Err(DescriptorError::TooLarge);
        }
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend([REVISION, 0]);
        // Present also when it is null: absent would ask the reader to choose a default.
        bytes.extend((SE_SELF_RELATIVE | SE_DACL_PRESENT).to_le_bytes());
        for offset in [owner, group, 0, dacl] {
            bytes.extend(offset.to_le_bytes());
        }
        bytes.append(&mut body);
        Ok(bytes)
    }

    /// Reads the self-relative binary form. Its parts may lie in any order, with gaps, and more
    /// bytes may follow.
    ///
    /// - ACEs of types other than allow (0) and deny (1) are stepped over, so the check never sees
    ///   them: object, callback and conditional ACEs neither allow nor deny anything here.
    /// - The SACL is not looked at.
    /// - A DACL that is absent (SE_DACL_PRESENT not set) reads as the null DACL, since the check
    ///   treats both alike. For a *new* pipe the two differ: see
    ///   [`for_new`](SecurityDescriptor::for_new).
    ///
    /// # Errors
    ///
    /// Each [`DescriptorError`]: bytes are never trusted, nothing is read outside of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<SecurityDescriptor, DescriptorError> {
        Ok(parse(bytes)?.descriptor)
    }

    /// Reads the binary form as the descriptor of a new pipe: an owner, group or DACL that it does
    /// not have comes from [`token_default`](SecurityDescriptor::token_default). A null DACL that
    /// is there stays null. Whether the creator may name that owner is not asked here.
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](SecurityDescriptor::from_bytes).
    pub fn for_new(bytes: &[u8], creator: &Token) -> Result<SecurityDescriptor, DescriptorError> {
        let Parsed {
            descriptor,
            dacl_present,
        } = parse(bytes)?;
        let default = SecurityDescriptor::token_default(creator);
        Ok(SecurityDescriptor {
            owner: descriptor.owner.or(default.owner),
            group: descriptor.group.or(default.group),
            dacl: if dacl_present {
                descriptor.dacl
            } else {
                default.dacl
            },
        })
    }
}

/// The same as [`SecurityDescriptor::new`]: what is forgotten is refused.
impl Default for SecurityDescriptor {
    fn default() -> SecurityDescriptor {
        SecurityDescriptor::new()
    }
}

impl Ace {
    /// Flag: the ACE is meant for children of the object, and the check passes over it.
    pub const INHERIT_ONLY: u8 = 0x08;

    /// Allows these rights to this SID.
    #[must_use]
    pub fn allow(sid: Sid, mask: Mask) -> Ace {
        Ace {
            kind: AceKind::Allow,
            flags: 0,
            mask,
            sid,
        }
    }

    /// Denies these rights to this SID.
    #[must_use]
    pub fn deny(sid: Sid, mask: Mask) -> Ace {
        Ace {
            kind: AceKind::Deny,
            ..Ace::allow(sid, mask)
        }
    }

    /// Whether [`Ace::INHERIT_ONLY`] is set.
    #[must_use]
    pub fn is_inherit_only(&self) -> bool {
        self.flags & Ace::INHERIT_ONLY != 0
    }
}

struct Parsed {
    descriptor: SecurityDescriptor,
    dacl_present: bool,
}

fn parse(bytes: &[u8]) -> Result<Parsed, DescriptorError> {
    if bytes.len() > SecurityDescriptor::MAX_BYTES {
        return Err(DescriptorError::TooLarge);
    }
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Err(DescriptorError::Truncated);
    };
    if header[0] != REVISION {
        return Err(DescriptorError::Revision(header[0]));
    }
    let control = u16_at(header, 2)?;
    if control & SE_SELF_RELATIVE == 0 {
        return Err(DescriptorError::NotSelfRelative);
    }
    let owner = part(bytes, u32_at(header, 4)?)?;
    let group = part(bytes, u32_at(header, 8)?)?;
    let dacl_present = control & SE_DACL_PRESENT != 0;
    let dacl = if dacl_present {
        part(bytes, u32_at(header, 16)?)?
    } else {
        None
    };
    Ok(Parsed {
        descriptor: SecurityDescriptor {
            owner: owner.map(Sid::from_bytes).transpose()?,
            group: group.map(Sid::from_bytes).transpose()?,
            dacl: dacl.map(acl_from_bytes).transpose()?,
        },
        dacl_present,
    })
}

/// From `offset` to the end; `None` for offset 0, which says that there is no such part.
fn part(bytes: &[u8], offset: u32) -> Result<Option<&[u8]>, DescriptorError> {
    if offset == 0 {
        return Ok(None);
    }
    usize::try_from(offset)
        .ok()
        .filter(|&start| start >= HEADER && start < bytes.len())
        .and_then(|start| bytes.get(start..))
        .map(Some)
        .ok_or(DescriptorError::Offset(offset))
}

/// An ACL (MS-DTYP 2.4.5) at the front of `bytes`.
fn acl_from_bytes(bytes: &[u8]) -> Result<Vec<Ace>, DescriptorError> {
    let Some(
        &[
            revision,
            _,
            size_low,
            size_high,
            count_low,
            count_high,
            _,
            _,
        ],
    ) = bytes.first_chunk::<ACL_HEADER>()
    else {
        return Err(DescriptorError::Truncated);
    };
    if !ACL_REVISIONS.contains(&revision) {
        return Err(DescriptorError::AclRevision(revision));
    }
    let size = usize::from(u16::from_le_bytes([size_low, size_high]));
    let mut rest = bytes
        .get(ACL_HEADER..size)
        .ok_or(DescriptorError::Truncated)?;
    // Not reserved ahead: the count is a claim, and the bytes set the limit.
    let mut aces = Vec::new();
    for index in 0..u16::from_le_bytes([count_low, count_high]) {
        let size = usize::from(u16_at(rest, 2)?);
        let (ace, after) = rest
            .split_at_checked(size)
            .ok_or(DescriptorError::Truncated)?;
        rest = after;
        let [kind, flags, _, _, body @ ..] = ace else {
            return Err(DescriptorError::AceSize(index));
        };
        if !size.is_multiple_of(4) {
            return Err(DescriptorError::AceSize(index));
        }
        let kind = match *kind {
            ACCESS_ALLOWED_ACE => AceKind::Allow,
            ACCESS_DENIED_ACE => AceKind::Deny,
            _ => continue,
        };
        let (mask, sid) = body
            .split_first_chunk::<4>()
            .ok_or(DescriptorError::AceSize(index))?;
        aces.push(Ace {
            kind,
            flags: *flags,
            mask: Mask::from_bits_retain(u32::from_le_bytes(*mask)),
            sid: Sid::from_bytes(sid)?,
        });
    }
    Ok(aces)
}

fn acl_to_bytes(aces: &[Ace]) -> Result<Vec<u8>, DescriptorError> {
    let ace_size = |ace: &Ace| ACE_BEFORE_SID + ace.sid.byte_len();
    let size = u16_or_too_large(ACL_HEADER + aces.iter().map(ace_size).sum::<usize>())?;
    let mut bytes = Vec::with_capacity(usize::from(size));
    bytes.extend([ACL_REVISION, 0]);
    bytes.extend(size.to_le_bytes());
    bytes.extend(u16_or_too_large(aces.len())?.to_le_bytes());
    bytes.extend([0, 0]);
    for ace in aces {
        let kind = match ace.kind {
            AceKind::Allow => ACCESS_ALLOWED_ACE,
            AceKind::Deny => ACCESS_DENIED_ACE,
        };
        bytes.extend([kind, ace.flags]);
        bytes.extend(u16_or_too_large(ace_size(ace))?.to_le_bytes());
        bytes.extend(ace.mask.bits().to_le_bytes());
        bytes.extend(ace.sid.to_bytes());
    }
    Ok(bytes)
}

/// Appends a part behind the header; returns its offset in the descriptor, 0 for none.
fn place(body: &mut Vec<u8>, part: Option<Vec<u8>>) -> Result<u32, DescriptorError> {
    let Some(part) = part else {
        return Ok(0);
    };
    let offset = u32::try_from(HEADER + body.len()).map_err(|_| DescriptorError::TooLarge)?;
    body.extend(part);
    Ok(offset)
}

fn u16_or_too_large(n: usize) -> Result<u16, DescriptorError> {
    u16::try_from(n).map_err(|_| DescriptorError::TooLarge)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, DescriptorError> {
    chunk_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, DescriptorError> {
    chunk_at(bytes, at).map(u32::from_le_bytes)
}

fn chunk_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], DescriptorError> {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .ok_or(DescriptorError::Truncated)
}

const REVISION: u8 = 1;
/// Revision, reserved byte, control, and the offsets of owner, group, SACL and DACL.
const HEADER: usize = 20;
const SE_DACL_PRESENT: u16 = 0x0004;
const SE_SELF_RELATIVE: u16 = 0x8000;

/// What is written; 3 and 4 only say that ACEs of further types may occur.
const ACL_REVISION: u8 = 2;
const ACL_REVISIONS: std::ops::RangeInclusive<u8> = 2..=4;
const ACL_HEADER: usize = 8;
const ACCESS_ALLOWED_ACE: u8 = 0;
const ACCESS_DENIED_ACE: u8 = 1;
/// Type, flags, size and mask.
const ACE_BEFORE_SID: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand from MS-DTYP 2.4.6: the DACL before owner and group, three ACEs of which the second
    /// (type 5, an object ACE) is stepped over, and a SACL offset that leads nowhere.
    #[rustfmt::skip]
    const BY_HAND: [u8; 104] = [
        0x01, 0x00, 0x14, 0x80,                         // revision; DACL, SACL, self-relative
        0x4C, 0x00, 0x00, 0x00,                         // owner at 76
        0x5C, 0x00, 0x00, 0x00,                         // group at 92
        0xFF, 0xFF, 0xFF, 0x7F,                         // SACL
        0x14, 0x00, 0x00, 0x00,                         // DACL at 20

        0x04, 0x00, 0x38, 0x00, 0x03, 0x00, 0x00, 0x00, // ACL revision 4, 56 bytes, 3 ACEs
        0x01, 0x08, 0x14, 0x00, 0x02, 0x00, 0x00, 0x00, // deny, inherit only, 20 bytes, 0x2 ...
        0x01, 0x01, 0, 0, 0, 0, 0, 0x05, 7, 0, 0, 0,    // ... S-1-5-7
        0x05, 0x00, 0x08, 0x00, 0xAA, 0xBB, 0xCC, 0xDD, // object ACE, 8 bytes
        0x00, 0x00, 0x14, 0x00, 0xFF, 0x00, 0x12, 0x00, // allow, 20 bytes, 0x1200FF ...
        0x01, 0x01, 0, 0, 0, 0, 0, 0x01, 0, 0, 0, 0,    // ... S-1-1-0

        0x01, 0x02, 0, 0, 0, 0, 0, 0x05,                // S-1-5-32-544
        0x20, 0x00, 0x00, 0x00, 0x20, 0x02, 0x00, 0x00,
        0x01, 0x01, 0, 0, 0, 0, 0, 0x05, 18, 0, 0, 0,   // S-1-5-18
    ];

    fn by_hand() -> SecurityDescriptor {
        let mut descriptor = SecurityDescriptor::new()
            .with_owner(Sid::ADMINISTRATORS)
            .with_group(Sid::LOCAL_SYSTEM)
            .deny(Sid::ANONYMOUS, Mask::FILE_WRITE_DATA)
            .allow(Sid::EVERYONE, Mask::from_bits_retain(0x12_00FF));
        if let Some([first, ..]) = descriptor.dacl.as_deref_mut() {
            first.flags = Ace::INHERIT_ONLY;
        }
        descriptor
    }

    fn samples() -> Vec<SecurityDescriptor> {
        let token = Token::new(1000, 100, vec![]);
        let mut null = SecurityDescriptor::new().with_owner(Sid::user(7));
        null.dacl = None;
        vec![
            SecurityDescriptor::new(),
            null,
            SecurityDescriptor::npfs_default(&token),
            SecurityDescriptor::token_default(&token),
            by_hand(),
        ]
    }

    fn edited(at: usize, byte: u8) -> Result<SecurityDescriptor, DescriptorError> {
        let mut bytes = BY_HAND;
        bytes[at] = byte;
        SecurityDescriptor::from_bytes(&bytes)
    }

    #[test]
    fn np_sec_04_the_default_lists_its_five_aces() {
        let descriptor = SecurityDescriptor::npfs_default(&Token::new(1000, 100, vec![]));
        assert_eq!(descriptor.owner, Some(Sid::user(1000)));
        assert_eq!(descriptor.group, Some(Sid::group(100)));
        assert_eq!(
            descriptor.dacl,
            Some(vec![
                Ace::allow(Sid::LOCAL_SYSTEM, Mask::GENERIC_ALL),
                Ace::allow(Sid::ADMINISTRATORS, Mask::GENERIC_ALL),
                Ace::allow(Sid::user(1000), Mask::GENERIC_ALL),
                Ace::allow(Sid::EVERYONE, Mask::GENERIC_READ),
                Ace::allow(Sid::ANONYMOUS, Mask::GENERIC_READ),
            ])
        );
    }

    #[test]
    fn a_descriptor_made_by_hand_is_read() {
        assert_eq!(SecurityDescriptor::from_bytes(&BY_HAND), Ok(by_hand()));
        let mut longer = BY_HAND.to_vec();
        longer.extend([0xFF; 9]);
        assert_eq!(SecurityDescriptor::from_bytes(&longer), Ok(by_hand()));
    }

    #[test]
    fn what_is_written_has_the_layout_of_ms_dtyp() {
        let descriptor = SecurityDescriptor::new()
            .with_owner(Sid::LOCAL_SYSTEM)
            .allow(Sid::EVERYONE, Mask::GENERIC_READ);
        #[rustfmt::skip]
        let expected = [
            1, 0, 0x04, 0x80,
            20, 0, 0, 0,    0, 0, 0, 0,    0, 0, 0, 0,    32, 0, 0, 0,
            1, 1, 0, 0, 0, 0, 0, 5,    18, 0, 0, 0,
            2, 0, 28, 0, 1, 0, 0, 0,
            0, 0, 20, 0,    0, 0, 0, 0x80,    1, 1, 0, 0, 0, 0, 0, 1,    0, 0, 0, 0,
        ];
        assert_eq!(descriptor.to_bytes().as_deref(), Ok(&expected[..]));
    }

    #[test]
    fn the_binary_form_round_trips() {
        for descriptor in samples() {
            let bytes = descriptor.to_bytes().unwrap();
            assert_eq!(SecurityDescriptor::from_bytes(&bytes), Ok(descriptor));
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        let mut all: Vec<Vec<u8>> = samples().iter().map(|d| d.to_bytes().unwrap()).collect();
        all.push(BY_HAND.to_vec());
        for bytes in all {
            for cut in 0..bytes.len() {
                let found = SecurityDescriptor::from_bytes(&bytes[..cut]);
                assert!(found.is_err(), "{cut} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn any_wrong_byte_is_an_error_or_another_descriptor() {
        for at in 0..BY_HAND.len() {
            for byte in 0..=u8::MAX {
                let Ok(found) = edited(at, byte) else {
                    continue;
                };
                let again = SecurityDescriptor::from_bytes(&found.to_bytes().unwrap());
                assert_eq!(again, Ok(found), "byte {at} = {byte:#x}");
            }
        }
    }

    #[test]
    fn noise_of_every_length_is_survived() {
        let mut state = 0x9E37_79B9_u32;
        for len in 0..300 {
            let mut bytes: Vec<u8> = (0..len)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    state.to_le_bytes()[1]
                })
                .collect();
            assert!(SecurityDescriptor::from_bytes(&bytes).is_err());
            // With a plausible header the noise is taken for SIDs and ACLs.
            let header = BY_HAND[..HEADER.min(len)].to_vec();
            bytes[..header.len()].copy_from_slice(&header);
            assert!(SecurityDescriptor::from_bytes(&bytes).is_err());
        }
    }

    #[test]
    fn each_refusal_has_its_error() {
        assert_eq!(edited(0, 2), Err(DescriptorError::Revision(2)));
        assert_eq!(edited(3, 0), Err(DescriptorError::NotSelfRelative));
        assert_eq!(edited(4, 19), Err(DescriptorError::Offset(19)));
        assert_eq!(edited(4, 104), Err(DescriptorError::Offset(104)));
        assert_eq!(edited(11, 0xFF), Err(DescriptorError::Offset(0xFF00_005C)));
        assert_eq!(edited(20, 1), Err(DescriptorError::AclRevision(1)));
        assert_eq!(edited(22, 7), Err(DescriptorError::Truncated));
        assert_eq!(edited(22, 55), Err(DescriptorError::Truncated));
        assert_eq!(edited(24, 4), Err(DescriptorError::Truncated));
        assert_eq!(edited(30, 0), Err(DescriptorError::AceSize(0)));
        assert_eq!(edited(30, 4), Err(DescriptorError::AceSize(0)));
        assert_eq!(edited(50, 7), Err(DescriptorError::AceSize(1)));
        assert_eq!(edited(30, 16), Err(SidError::Truncated.into()));
        assert_eq!(edited(76, 0), Err(SidError::Revision(0).into()));
        assert_eq!(edited(93, 2), Err(SidError::Truncated.into()));
    }

    #[test]
    fn sizes_are_bounded() {
        let mut bytes = BY_HAND.to_vec();
        bytes.resize(SecurityDescriptor::MAX_BYTES, 0);
        assert_eq!(SecurityDescriptor::from_bytes(&bytes), Ok(by_hand()));
        bytes.push(0);
        assert_eq!(
            SecurityDescriptor::from_bytes(&bytes),
            Err(DescriptorError::TooLarge)
        );

        let longest = Sid::new(5, &[9; 15]).unwrap();
        let mut descriptor = SecurityDescriptor::new()
            .with_owner(longest)
            .with_group(longest);
        descriptor.dacl = Some(vec![Ace::allow(longest, Mask::DELETE); 850]);
        let bytes = descriptor.to_bytes().unwrap();
        assert_eq!(
            SecurityDescriptor::from_bytes(&bytes),
            Ok(descriptor.clone())
        );
        descriptor.dacl = Some(vec![Ace::allow(longest, Mask::DELETE); 863]);
        assert_eq!(descriptor.to_bytes(), Err(DescriptorError::TooLarge));
    }

    #[test]
    fn an_absent_dacl_is_null_to_the_check_and_the_default_for_a_new_pipe() {
        let creator = Token::new(1000, 100, vec![]);
        let default = SecurityDescriptor::token_default(&creator);
        let mut bytes = BY_HAND;
        bytes[2] = 0; // SE_DACL_PRESENT
        let read = SecurityDescriptor::from_bytes(&bytes).unwrap();
        assert_eq!(read.dacl, None);
        let new = SecurityDescriptor::for_new(&bytes, &creator).unwrap();
        assert_eq!(new.owner, Some(Sid::ADMINISTRATORS));
        assert_eq!(new.dacl, default.dacl);

        let mut null = SecurityDescriptor::new();
        null.dacl = None;
        let bytes = null.to_bytes().unwrap();
        let new = SecurityDescriptor::for_new(&bytes, &creator).unwrap();
        assert_eq!(new.dacl, None, "a null DACL that is present stays");
        assert_eq!((new.owner, new.group), (default.owner, default.group));
    }

    #[test]
    fn an_ace_on_a_null_dacl_starts_a_list() {
        let mut descriptor = SecurityDescriptor::new();
        descriptor.dacl = None;
        let descriptor = descriptor.deny(Sid::ANONYMOUS, Mask::GENERIC_ALL);
        assert_eq!(
            descriptor.dacl,
            Some(vec![Ace::deny(Sid::ANONYMOUS, Mask::GENERIC_ALL)])
        );
        assert_eq!(SecurityDescriptor::default(), SecurityDescriptor::new());
    }
}
