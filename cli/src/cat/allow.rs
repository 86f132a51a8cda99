//! `--allow WHO:RIGHTS`: entries of the pipe's security descriptor.

use std::str::FromStr;

use anyhow::Context;
use npfs::security::{Mask, SecurityDescriptor, Sid, Token};
use rustix::process::{getegid, geteuid, getgroups};

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Allow {
    who: Sid,
    rights: Mask,
}

impl FromStr for Allow {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Allow, &'static str> {
        let (who, rights) = text.rsplit_once(':').ok_or("write WHO:RIGHTS")?;
        let who = match who.split_once(':') {
            None if who == "everyone" => Some(Sid::EVERYONE),
            None => who.parse().ok().map(Sid::user),
            Some(("gid", number)) => number.parse().ok().map(Sid::group),
            Some(_) => None,
        };
        // Whoever may write must not thereby be able to pass for the server.
        let write = Mask::FILE_GENERIC_WRITE - Mask::FILE_CREATE_PIPE_INSTANCE;
        Ok(Allow {
            who: who.ok_or("WHO is everyone, a user's number, or gid: and a group's number")?,
            rights: match rights {
                "r" => Mask::FILE_GENERIC_READ,
                "w" => write,
                "rw" => Mask::FILE_GENERIC_READ | write,
                "full" => Mask::GENERIC_ALL,
                _ => return Err("RIGHTS are r, w, rw or full"),
            },
        })
    }
}

/// What a pipe has by itself, and these entries.
pub(super) fn descriptor(entries: &[Allow]) -> anyhow::Result<SecurityDescriptor> {
    let groups = getgroups().context("the groups of this user")?;
    let groups = groups.into_iter().map(rustix::process::Gid::as_raw);
    let creator = Token::new(geteuid().as_raw(), getegid().as_raw(), groups.collect());
    let start = SecurityDescriptor::npfs_default(&creator);
    Ok(entries.iter().fold(start, |descriptor, entry| {
        descriptor.allow(entry.who, entry.rights)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_parsed_or_refused() {
        for (text, who) in [
            ("everyone:rw", Sid::EVERYONE),
            ("1000:r", Sid::user(1000)),
            ("gid:100:full", Sid::group(100)),
        ] {
            assert_eq!(text.parse::<Allow>().expect(text).who, who);
        }
        for text in [
            "", "everyone", "1000:x", "uid:1:r", "gid::r", "-1:r", "bob:r",
        ] {
            assert!(text.parse::<Allow>().is_err(), "{text}");
        }
    }

    #[test]
    fn who_may_write_cannot_add_an_instance() {
        let allow: Allow = "everyone:rw".parse().expect("an entry");
        assert!(!allow.rights.intersects(Mask::FILE_CREATE_PIPE_INSTANCE));
        assert!(
            allow
                .rights
                .contains(Mask::FILE_READ_DATA | Mask::FILE_WRITE_DATA)
        );
    }
}
