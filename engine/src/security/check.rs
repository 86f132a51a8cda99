//! The access check: a descriptor, who asks and for what; out comes what the handle may do.

use thiserror::Error;

use super::{Ace, AceKind, Mask, SecurityDescriptor, Sid};

/// Checks a request against a descriptor, in NT's order (MS-DTYP 2.5.3.2), and returns what is
/// granted: never a generic bit nor [`Mask::MAXIMUM_ALLOWED`].
///
/// 1. Generic bits, of the request and of each ACE, stand for file rights (NP-OPEN-11).
/// 2. Privileges: user 0 gets [`Mask::ACCESS_SYSTEM_SECURITY`] and [`Mask::WRITE_OWNER`] when it
///    asks for them by name. Nobody else gets the first one, whatever the DACL says.
/// 3. The owner gets [`Mask::READ_CONTROL`] and [`Mask::WRITE_DAC`]; no ACE takes them away.
/// 4. The ACEs for this token, inherit-only ones aside, first to last: each bit is decided by the
///    first one that names it. A bit that none names is refused. Without a DACL everything is
///    allowed, save what needs the privilege.
///
/// With [`Mask::MAXIMUM_ALLOWED`] the result holds, besides what was asked for by name, every
/// right of [`Mask::FILE_ALL_ACCESS`] that these steps allow. Empty requests get empty masks.
///
/// User 0 is not exempt from step 4; it passes where LocalSystem or Administrators pass.
///
/// The opening of a client end (NP-OPEN-02) removes [`Mask::FILE_CREATE_PIPE_INSTANCE`] from the
/// mapped request before it calls this, and from the result afterwards.
///
/// # Errors
///
/// [`Denied`] if a bit asked for by name is refused, or if MAXIMUM_ALLOWED finds nothing to grant.
pub fn check(
    descriptor: &SecurityDescriptor,
    token: &Token,
    desired: Mask,
) -> Result<Mask, Denied> {
    let mapped = desired.map_generic();
    let asked = mapped.difference(Mask::MAXIMUM_ALLOWED);
    let allowed = allowed(descriptor, token, asked);

    let missing = asked.difference(allowed);
    if !missing.is_empty() {
        return Err(Denied { missing });
    }
    if !mapped.contains(Mask::MAXIMUM_ALLOWED) {
        return Ok(asked);
    }
    let granted = asked | (allowed & Mask::FILE_ALL_ACCESS);
    if granted.is_empty() {
        return Err(Denied {
            missing: Mask::MAXIMUM_ALLOWED,
        });
    }
    Ok(granted)
}

/// All that the token may have; `asked` matters for privileges only, which count when named.
///
/// NT stops at the first deny of a bit that is still wanted. Going on to the end decides the same
/// and tells all that is missing: a bit denied before it was allowed stays out for good.
fn allowed(descriptor: &SecurityDescriptor, token: &Token, asked: Mask) -> Mask {
    let mut allowed = Mask::empty();
    if token.is_privileged() {
        allowed |= asked & (Mask::ACCESS_SYSTEM_SECURITY | Mask::WRITE_OWNER);
    }
    let Some(dacl) = &descriptor.dacl else {
        return allowed | !Mask::ACCESS_SYSTEM_SECURITY;
    };
    if descriptor.owner.is_some_and(|owner| token.has(&owner)) {
        allowed |= Mask::READ_CONTROL | Mask::WRITE_DAC;
    }
    let mut denied = Mask::ACCESS_SYSTEM_SECURITY;
    let applies = |ace: &&Ace| !ace.is_inherit_only() && token.has(&ace.sid);
    for ace in dacl.iter().filter(applies) {
        let mask = ace.mask.map_generic();
        match ace.kind {
            AceKind::Allow => allowed |= mask.difference(denied),
            AceKind::Deny => denied |= mask,
        }
    }
    allowed
}

/// The check refused. In NT: STATUS_ACCESS_DENIED, or STATUS_PRIVILEGE_NOT_HELD if `missing` has
/// [`Mask::ACCESS_SYSTEM_SECURITY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("access denied: rights {missing:#x} are not granted")]
pub struct Denied {
    /// Which of the bits asked for, after generic mapping, are refused; never empty.
    /// [`Mask::MAXIMUM_ALLOWED`] if that was asked and nothing at all is allowed.
    pub missing: Mask,
}

/// Who asks: a user and their groups, as the kernel names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Token {
    /// A user, their primary group and their supplementary groups (in any order; the primary one
    /// may be among them).
    #[must_use]
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Token {
        Token { uid, gid, groups }
    }

    /// The user's id.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The primary group's id.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The supplementary groups' ids, as given.
    #[must_use]
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// The user as a SID: the owner of what this token creates.
    #[must_use]
    pub fn user_sid(&self) -> Sid {
        Sid::user(self.uid)
    }

    /// The primary group as a SID.
    #[must_use]
    pub fn group_sid(&self) -> Sid {
        Sid::group(self.gid)
    }

    /// Whether an ACE for this SID is about this token: its user, one of its groups, Everyone, and
    /// for user 0 LocalSystem and Administrators. Never Anonymous: there is always a user.
    #[must_use]
    pub fn has(&self, sid: &Sid) -> bool {
        if let Some(uid) = sid.as_uid() {
            return uid == self.uid;
        }
        if let Some(gid) = sid.as_gid() {
            return gid == self.gid || self.groups.contains(&gid);
        }
        match *sid {
            Sid::EVERYONE => true,
            Sid::LOCAL_SYSTEM | Sid::ADMINISTRATORS => self.is_privileged(),
            _ => false,
        }
    }

    /// User 0, which stands for a holder of SeSecurityPrivilege and SeTakeOwnershipPrivilege.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.uid == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Token {
        Token::new(0, 0, vec![])
    }

    fn alice() -> Token {
        Token::new(1000, 1000, vec![27, 100])
    }

    fn bob() -> Token {
        Token::new(1001, 1001, vec![])
    }

    fn missing(descriptor: &SecurityDescriptor, token: &Token, desired: Mask) -> Mask {
        check(descriptor, token, desired).unwrap_err().missing
    }

    /// What the opening of a client end asks for (NP-OPEN-02).
    fn client(desired: Mask) -> Mask {
        desired
            .map_generic()
            .difference(Mask::FILE_CREATE_PIPE_INSTANCE)
    }

    #[test]
    fn np_sec_03_without_a_descriptor_only_owner_and_system_get_in() {
        let descriptor = SecurityDescriptor::token_default(&alice());
        assert_eq!(descriptor.owner, Some(Sid::user(1000)));
        assert_eq!(descriptor.group, Some(Sid::group(1000)));
        for token in [alice(), root()] {
            let granted = check(&descriptor, &token, Mask::GENERIC_ALL);
            assert_eq!(granted, Ok(Mask::FILE_ALL_ACCESS));
        }
        assert_eq!(
            missing(&descriptor, &bob(), Mask::SYNCHRONIZE),
            Mask::SYNCHRONIZE
        );
    }

    #[test]
    fn np_sec_04_the_creator_and_user_0_get_everything_by_default() {
        let descriptor = SecurityDescriptor::npfs_default(&alice());
        for token in [alice(), root()] {
            let granted = check(&descriptor, &token, Mask::MAXIMUM_ALLOWED);
            assert_eq!(granted, Ok(Mask::FILE_ALL_ACCESS));
        }
    }

    #[test]
    fn np_sec_05_a_stranger_may_read_but_neither_write_nor_add_an_instance() {
        let descriptor = SecurityDescriptor::npfs_default(&alice());
        assert_eq!(
            check(&descriptor, &bob(), client(Mask::GENERIC_READ)),
            Ok(Mask::FILE_GENERIC_READ)
        );
        assert_eq!(
            missing(&descriptor, &bob(), client(Mask::GENERIC_WRITE)),
            Mask::FILE_WRITE_DATA | Mask::FILE_WRITE_EA | Mask::FILE_WRITE_ATTRIBUTES
        );
        let server = Mask::GENERIC_READ | Mask::FILE_CREATE_PIPE_INSTANCE;
        assert_eq!(
            missing(&descriptor, &bob(), server),
            Mask::FILE_CREATE_PIPE_INSTANCE
        );
        assert_eq!(
            check(&descriptor, &bob(), Mask::MAXIMUM_ALLOWED),
            Ok(Mask::FILE_GENERIC_READ)
        );
    }

    #[test]
    fn np_sec_06_without_write_attributes_a_generic_read_write_open_is_refused() {
        let descriptor =
            SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::from_bits_retain(0x12_00FF));
        let desired = client(Mask::GENERIC_READ | Mask::GENERIC_WRITE);
        assert_eq!(
            missing(&descriptor, &bob(), desired),
            Mask::FILE_WRITE_ATTRIBUTES
        );
        let without = desired.difference(Mask::FILE_WRITE_ATTRIBUTES);
        assert_eq!(check(&descriptor, &bob(), without), Ok(without));
    }

    #[test]
    fn np_open_02_a_client_may_write_without_the_right_to_add_instances() {
        let rights = Mask::FILE_ALL_ACCESS.difference(Mask::FILE_CREATE_PIPE_INSTANCE);
        let descriptor = SecurityDescriptor::new().allow(Sid::EVERYONE, rights);
        assert!(check(&descriptor, &bob(), client(Mask::GENERIC_WRITE)).is_ok());
        assert_eq!(
            missing(&descriptor, &bob(), Mask::GENERIC_WRITE),
            Mask::FILE_CREATE_PIPE_INSTANCE
        );
    }

    #[test]
    fn a_token_has_its_user_its_groups_and_everyone() {
        for sid in [
            Sid::user(1000),
            Sid::group(1000),
            Sid::group(27),
            Sid::EVERYONE,
        ] {
            assert!(alice().has(&sid), "{sid}");
        }
        for sid in [
            Sid::user(27),
            Sid::group(28),
            Sid::ANONYMOUS,
            Sid::LOCAL_SYSTEM,
            Sid::ADMINISTRATORS,
        ] {
            assert!(!alice().has(&sid), "{sid}");
        }
        assert!(root().has(&Sid::LOCAL_SYSTEM) && root().has(&Sid::ADMINISTRATORS));
        assert!(!root().has(&Sid::ANONYMOUS) && !root().has(&Sid::user(1000)));
        let staff = Token::new(1000, 0, vec![0]);
        assert!(!staff.has(&Sid::LOCAL_SYSTEM), "group 0 is not user 0");
    }

    #[test]
    fn the_first_ace_that_names_a_bit_decides_it() {
        let read = Mask::FILE_READ_DATA;
        let deny_first = SecurityDescriptor::new()
            .deny(Sid::user(1000), Mask::GENERIC_READ)
            .allow(Sid::EVERYONE, Mask::GENERIC_ALL);
        assert_eq!(missing(&deny_first, &alice(), read), read);
        assert_eq!(check(&deny_first, &bob(), read), Ok(read));
        let left = Mask::FILE_ALL_ACCESS.difference(Mask::FILE_GENERIC_READ);
        assert_eq!(
            check(&deny_first, &alice(), Mask::MAXIMUM_ALLOWED),
            Ok(left)
        );

        let allow_first = SecurityDescriptor::new()
            .allow(Sid::group(27), read)
            .deny(Sid::EVERYONE, Mask::GENERIC_ALL);
        assert_eq!(check(&allow_first, &alice(), read), Ok(read));
        assert_eq!(
            check(&allow_first, &alice(), Mask::MAXIMUM_ALLOWED),
            Ok(read)
        );
        assert_eq!(missing(&allow_first, &bob(), read), read);
    }

    #[test]
    fn rights_may_come_from_several_aces() {
        let descriptor = SecurityDescriptor::new()
            .allow(Sid::group(27), Mask::FILE_READ_DATA)
            .allow(Sid::user(1000), Mask::FILE_WRITE_DATA);
        let both = Mask::FILE_READ_DATA | Mask::FILE_WRITE_DATA;
        assert_eq!(check(&descriptor, &alice(), both), Ok(both));
    }

    #[test]
    fn no_dacl_allows_everything_and_an_empty_one_nothing() {
        let mut descriptor = SecurityDescriptor::new();
        assert_eq!(
            missing(&descriptor, &root(), Mask::GENERIC_EXECUTE),
            Mask::FILE_GENERIC_EXECUTE
        );
        assert_eq!(
            missing(&descriptor, &bob(), Mask::MAXIMUM_ALLOWED),
            Mask::MAXIMUM_ALLOWED
        );
        descriptor.dacl = None;
        for desired in [Mask::GENERIC_ALL, Mask::MAXIMUM_ALLOWED] {
            let granted = check(&descriptor, &bob(), desired);
            assert_eq!(granted, Ok(Mask::FILE_ALL_ACCESS));
        }
        let system = Mask::ACCESS_SYSTEM_SECURITY;
        assert_eq!(missing(&descriptor, &bob(), system), system);
    }

    #[test]
    fn asking_for_nothing_is_granted() {
        let granted = check(&SecurityDescriptor::new(), &bob(), Mask::empty());
        assert_eq!(granted, Ok(Mask::empty()));
    }

    #[test]
    fn the_owner_can_always_repair_the_dacl() {
        let descriptor = SecurityDescriptor::new()
            .with_owner(Sid::user(1000))
            .deny(Sid::EVERYONE, Mask::GENERIC_ALL);
        let repair = Mask::READ_CONTROL | Mask::WRITE_DAC;
        assert_eq!(check(&descriptor, &alice(), repair), Ok(repair));
        assert_eq!(
            check(&descriptor, &alice(), Mask::MAXIMUM_ALLOWED),
            Ok(repair)
        );
        assert_eq!(missing(&descriptor, &bob(), repair), repair);
    }

    #[test]
    fn privileges_of_user_0_count_when_named() {
        let descriptor = SecurityDescriptor::new().deny(Sid::EVERYONE, Mask::GENERIC_ALL);
        let named = Mask::ACCESS_SYSTEM_SECURITY | Mask::WRITE_OWNER;
        assert_eq!(check(&descriptor, &root(), named), Ok(named));
        assert_eq!(
            check(&descriptor, &root(), named | Mask::MAXIMUM_ALLOWED),
            Ok(named)
        );
        assert_eq!(
            missing(&descriptor, &root(), Mask::MAXIMUM_ALLOWED),
            Mask::MAXIMUM_ALLOWED
        );
        assert_eq!(
            missing(&descriptor, &root(), Mask::GENERIC_READ),
            Mask::FILE_GENERIC_READ
        );
    }

    #[test]
    fn no_ace_grants_what_needs_a_privilege() {
        let descriptor = SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::all());
        let system = Mask::ACCESS_SYSTEM_SECURITY;
        assert_eq!(missing(&descriptor, &bob(), system), system);
        assert_eq!(
            check(&descriptor, &bob(), Mask::MAXIMUM_ALLOWED),
            Ok(Mask::FILE_ALL_ACCESS)
        );
    }

    #[test]
    fn maximum_allowed_does_not_excuse_a_bit_asked_by_name() {
        let descriptor = SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::GENERIC_READ);
        let desired = Mask::MAXIMUM_ALLOWED | Mask::FILE_WRITE_DATA;
        assert_eq!(missing(&descriptor, &bob(), desired), Mask::FILE_WRITE_DATA);
    }

    #[test]
    fn an_inherit_only_ace_decides_nothing() {
        let mut deny = Ace::deny(Sid::EVERYONE, Mask::GENERIC_ALL);
        deny.flags |= Ace::INHERIT_ONLY;
        let mut descriptor = SecurityDescriptor::new();
        descriptor.dacl = Some(vec![deny, Ace::allow(Sid::EVERYONE, Mask::GENERIC_READ)]);
        assert!(check(&descriptor, &bob(), Mask::GENERIC_READ).is_ok());

        let mut allow = Ace::allow(Sid::EVERYONE, Mask::GENERIC_ALL);
        allow.flags |= Ace::INHERIT_ONLY;
        descriptor.dacl = Some(vec![allow]);
        assert!(check(&descriptor, &bob(), Mask::GENERIC_READ).is_err());
    }

    /// Every order of three ACEs over two bits, against NT's own formulation with its early exit.
    #[test]
    fn going_on_after_a_deny_decides_as_stopping_there_does() {
        let aces: Vec<Ace> = (0..3)
            .flat_map(|bits| {
                let mask = Mask::from_bits_retain(bits + 1);
                [
                    Ace::allow(Sid::EVERYONE, mask),
                    Ace::deny(Sid::EVERYONE, mask),
                ]
            })
            .collect();
        for a in &aces {
            for b in &aces {
                for c in &aces {
                    let dacl = vec![a.clone(), b.clone(), c.clone()];
                    for desired in (1..4).map(Mask::from_bits_retain) {
                        let expected = stops_at_a_deny(&dacl, desired);
                        let mut descriptor = SecurityDescriptor::new();
                        descriptor.dacl = Some(dacl.clone());
                        let found = check(&descriptor, &bob(), desired).is_ok();
                        assert_eq!(found, expected, "{dacl:?} {desired:?}");
                    }
                }
            }
        }
    }

    fn stops_at_a_deny(dacl: &[Ace], desired: Mask) -> bool {
        let mut wanted = desired;
        for ace in dacl {
            match ace.kind {
                AceKind::Allow => wanted.remove(ace.mask),
                AceKind::Deny if wanted.intersects(ace.mask) => return false,
                AceKind::Deny => {}
            }
        }
        wanted.is_empty()
    }
}
