//! Who may do what with a pipe: SIDs, security descriptors and NT's access check.
//!
//! Pure code: it asks no kernel and knows no pipe. The broker learns the ids of the process that
//! asks, makes a [`Token`] of them, and calls [`check`] with the descriptor of the name.
//!
//! ```
//! use npfs::security::{Mask, SecurityDescriptor, Token, check};
//!
//! let creator = Token::new(1000, 1000, vec![]);
//! let stranger = Token::new(1001, 1001, vec![]);
//! let descriptor = SecurityDescriptor::npfs_default(&creator);
//!
//! assert!(check(&descriptor, &creator, Mask::GENERIC_WRITE).is_ok());
//! assert!(check(&descriptor, &stranger, Mask::GENERIC_READ).is_ok());
//! let denied = check(&descriptor, &stranger, Mask::FILE_WRITE_DATA).unwrap_err();
//! assert_eq!(denied.missing, Mask::FILE_WRITE_DATA);
//! ```
//!
//! Ids of Linux become SIDs as Samba maps them: user 1000 is S-1-22-1-1000, group 100 is
//! S-1-22-2-100. User 0 is also LocalSystem and a member of Administrators.
//!
//! Not here, since a pipe on one machine does without: audit (SACL), mandatory labels, restricted
//! tokens, object and conditional ACEs, inheritance, and the OWNER RIGHTS SID.
//!
//! Source: MS-DTYP 2.4 (formats) and 2.5.3 (the check); rules NP-OPEN and NP-SEC.

mod check;
mod descriptor;
mod mask;
mod sid;

pub use check::{Denied, Token, check};
pub use descriptor::{Ace, AceKind, DescriptorError, SecurityDescriptor};
pub use mask::Mask;
pub use sid::{Sid, SidError};
