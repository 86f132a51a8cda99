//! NtQueryDirectoryFile on the root: section 19 of the specification.

use super::{
    Handle, Nt, NtResult,
    file::{Kind, status},
    info::{Bytes, write_back},
    io::StatusBlock,
};
use crate::{Mask, NtStatus, lock::lock, npfs::PipeInfo};

/// Where a root handle stands in its listing.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Of the first call (NP-DIR-05).
    pattern: Option<Vec<u16>>,
    /// What is left of it, as it was when the listing began.
    left: Option<std::vec::IntoIter<PipeInfo>>,
    /// One that did not fit.
    next: Option<PipeInfo>,
    index: u32,
}

/// Which part of a listing, and in what form.
#[derive(Clone, Copy, Debug)]
pub struct ListPart<'a> {
    /// FileInformationClass: 1, 2, 3 or 12 (NP-DIR-02).
    pub class: u32,
    /// FileName: counts at the first call on a handle; `None`: all.
    pub pattern: Option<&'a [u16]>,
    /// RestartScan.
    pub restart: bool,
    /// ReturnSingleEntry.
    pub single: bool,
}

impl Listing {
    fn take(&mut self) -> Option<PipeInfo> {
        let next = self.next.take();
        next.or_else(|| self.left.as_mut().and_then(Iterator::next))
    }
}

const FILE_ATTRIBUTE_NORMAL: u32 = 0x80;

impl Nt {
    /// NtQueryDirectoryFile.
    pub fn query_directory_file(
        &self,
        handle: Handle,
        io: &StatusBlock,
        part: &ListPart<'_>,
        out: &mut [u8],
    ) -> NtStatus {
        let answer = self.list_into(handle, part, out);
        write_back(io, answer)
    }

    fn list_into(
        &self,
        handle: Handle,
        part: &ListPart<'_>,
        out: &mut [u8],
    ) -> NtResult<(NtStatus, usize)> {
        let entry = self.entry(handle)?;
        let Kind::Root(listing) = &entry.file.kind else {
            return Err(NtStatus::INVALID_PARAMETER); // NP-DIR-01
        };
        // FILE_LIST_DIRECTORY is the bit of FILE_READ_DATA.
        if !entry.granted.contains(Mask::FILE_READ_DATA) {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let form = Form::of(part.class)?;
        let mut listing = lock(listing);
        let first = listing.pattern.is_none();
        if part.restart || listing.left.is_none() {
            let all = status(self.namespace().list())?;
            let given = || {
                part.pattern
                    .map_or_else(|| vec![u16::from(b'*')], <[u16]>::to_vec)
            };
            let pattern = listing.pattern.get_or_insert_with(given).clone();
            let mut of: Vec<PipeInfo> = all;
            of.retain(|pipe| pipe.name.matches(&pattern)); // NP-DIR-05
            listing.left = Some(of.into_iter());
            listing.next = None;
            listing.index = 0;
        }
        let mut begun: Option<usize> = None;
        let mut end = 0_usize;
        while let Some(pipe) = listing.take() {
            let bytes = form.encode(&pipe, listing.index);
            let at = end.next_multiple_of(8);
            let Some(room) = out.get_mut(at..at + bytes.len()) else {
                let nothing = begun.is_none();
                listing.next = Some(pipe);
                if nothing {
                    return Ok((NtStatus::BUFFER_OVERFLOW, 0));
                }
                break;
            };
            room.copy_from_slice(&bytes);
            if let Some(before) = begun {
                let distance = u32::try_from(at - before).unwrap_or(0);
                out[before..before + 4].copy_from_slice(&distance.to_le_bytes());
            }
            begun = Some(at);
            end = at + bytes.len();
            listing.index += 1;
            if part.single {
                break;
            }
        }
        match begun {
            Some(_) => Ok((NtStatus::SUCCESS, end)),
            // NP-DIR-06 (open question): the general convention of NT's file systems.
            None if first => Err(NtStatus::NO_SUCH_FILE),
            None => Err(NtStatus::NO_MORE_FILES),
        }
    }
}

/// Which structure.
#[derive(Clone, Copy, Debug)]
enum Form {
    Directory,
    Full,
    Both,
    Names,
}

impl Form {
    fn of(class: u32) -> NtResult<Form> {
        match class {
            1 => Ok(Form::Directory),
            2 => Ok(Form::Full),
            3 => Ok(Form::Both),
            12 => Ok(Form::Names),
            _ => Err(NtStatus::INVALID_INFO_CLASS), // NP-DIR-02
        }
    }

    /// One pipe (NP-DIR-03, 04); NextEntryOffset is 0.
    fn encode(self, pipe: &PipeInfo, index: u32) -> Vec<u8> {
        let name = pipe.name.units();
        let length = u32::try_from(2 * name.len()).unwrap_or(u32::MAX);
        let mut bytes = Bytes::default();
        bytes.u32(0).u32(index);
        if !matches!(self, Form::Names) {
            bytes
                .zeros(32)
                .u64(u64::from(pipe.instances))
                .u64(u64::from(pipe.max_instances))
                .u32(FILE_ATTRIBUTE_NORMAL);
        }
        bytes.u32(length);
        match self {
            Form::Directory | Form::Names => {}
            Form::Full => {
                bytes.u32(0);
            }
            Form::Both => {
                bytes.u32(0).u8(0).u8(0).zeros(24);
            }
        }
        bytes.units(name);
        bytes.0
    }
}
