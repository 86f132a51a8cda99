//! Access masks: the rights of a handle, of a request and of an ACE.

use bitflags::bitflags;

bitflags! {
    /// Rights to a pipe, 32 bits (MS-DTYP 2.4.3).
    ///
    /// Every bit pattern is a valid mask: bits without a name here are kept, and can be granted by
    /// an ACE that carries them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Mask: u32 {
        /// Read from the pipe.
        const FILE_READ_DATA = 0x1;
        /// Write to the pipe.
        const FILE_WRITE_DATA = 0x2;
        /// Add an instance to the name; for other files this bit is FILE_APPEND_DATA.
        const FILE_CREATE_PIPE_INSTANCE = 0x4;
        /// Read extended attributes, of which a pipe has none.
        const FILE_READ_EA = 0x8;
        /// Write extended attributes.
        const FILE_WRITE_EA = 0x10;
        /// Query state, modes and quotas.
        const FILE_READ_ATTRIBUTES = 0x80;
        /// Set the read and completion modes.
        const FILE_WRITE_ATTRIBUTES = 0x100;
        /// Delete the object, which has no meaning for a pipe.
        const DELETE = 0x1_0000;
        /// Read the security descriptor.
        const READ_CONTROL = 0x2_0000;
        /// Replace the DACL.
        const WRITE_DAC = 0x4_0000;
        /// Replace owner and group.
        const WRITE_OWNER = 0x8_0000;
        /// Wait on the handle.
        const SYNCHRONIZE = 0x10_0000;
        /// Read and write the SACL; a privilege, which no DACL can grant.
        const ACCESS_SYSTEM_SECURITY = 0x100_0000;
        /// In a request: whatever the descriptor allows.
        const MAXIMUM_ALLOWED = 0x200_0000;
        /// Stands for [`Mask::FILE_ALL_ACCESS`].
        const GENERIC_ALL = 0x1000_0000;
        /// Stands for [`Mask::FILE_GENERIC_EXECUTE`].
        const GENERIC_EXECUTE = 0x2000_0000;
        /// Stands for [`Mask::FILE_GENERIC_WRITE`].
        const GENERIC_WRITE = 0x4000_0000;
        /// Stands for [`Mask::FILE_GENERIC_READ`].
        const GENERIC_READ = 0x8000_0000;

        // All other bits count as known, or `!` would drop them.
        const _ = !0;
    }
}

impl Mask {
    /// What [`Mask::GENERIC_READ`] means for files and pipes.
    pub const FILE_GENERIC_READ: Mask = Mask::from_bits_retain(0x12_0089);
    /// What [`Mask::GENERIC_WRITE`] means; includes [`Mask::FILE_CREATE_PIPE_INSTANCE`].
    pub const FILE_GENERIC_WRITE: Mask = Mask::from_bits_retain(0x12_0116);
    /// What [`Mask::GENERIC_EXECUTE`] means.
    pub const FILE_GENERIC_EXECUTE: Mask = Mask::from_bits_retain(0x12_00A0);
    /// What [`Mask::GENERIC_ALL`] means: every right that a pipe has.
    pub const FILE_ALL_ACCESS: Mask = Mask::from_bits_retain(0x1F_01FF);

    /// The same rights with each generic bit replaced by the file rights it stands for
    /// (NP-OPEN-11). All other bits stay, [`Mask::MAXIMUM_ALLOWED`] too.
    ///
    /// Whoever opens a client end maps first and removes [`Mask::FILE_CREATE_PIPE_INSTANCE`] then
    /// (NP-OPEN-02): in the other order GENERIC_WRITE would bring it back.
    #[must_use]
    pub const fn map_generic(self) -> Mask {
        let generics = [
            (Mask::GENERIC_READ, Mask::FILE_GENERIC_READ),
            (Mask::GENERIC_WRITE, Mask::FILE_GENERIC_WRITE),
            (Mask::GENERIC_EXECUTE, Mask::FILE_GENERIC_EXECUTE),
            (Mask::GENERIC_ALL, Mask::FILE_ALL_ACCESS),
        ];
        let mut mapped = self;
        let mut i = 0;
        while i < generics.len() {
            let (generic, rights) = generics[i];
            if self.contains(generic) {
                mapped = mapped.difference(generic).union(rights);
            }
            i += 1;
        }
        mapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn np_open_11_generic_mapping() {
        for (generic, rights) in [
            (0x8000_0000, 0x12_0089),
            (0x4000_0000, 0x12_0116),
            (0x2000_0000, 0x12_00A0),
            (0x1000_0000, 0x1F_01FF),
            (0xC000_0000, 0x12_019F),
            (0, 0),
        ] {
            assert_eq!(
                Mask::from_bits_retain(generic).map_generic().bits(),
                rights,
                "{generic:#x}"
            );
        }
    }

    #[test]
    fn mapping_keeps_every_bit_that_is_not_generic() {
        let rest = Mask::from_bits_retain(0x0FFF_FFFF);
        assert_eq!(rest.map_generic(), rest);
        assert_eq!((rest | Mask::GENERIC_READ).map_generic(), rest);
    }

    #[test]
    fn np_sec_08_a_duplex_server_asks_for_0x12019f() {
        let duplex = Mask::FILE_GENERIC_READ | Mask::FILE_GENERIC_WRITE;
        assert_eq!(duplex.bits(), 0x12_019F);
    }

    #[test]
    fn a_complement_keeps_bits_without_a_name() {
        assert_eq!((!Mask::FILE_READ_DATA).bits(), 0xFFFF_FFFE);
    }
}
