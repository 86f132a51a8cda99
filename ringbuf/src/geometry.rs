//! A link's header fields, checked once into private numbers; shared memory is never asked for a size again.

use crate::{
    error::AttachError,
    layout::{
        ABI_VERSION, LinkHeader, MAGIC, MAX_SLOTS, PAGE, SLOT_SIZE, SLOTS_OFF, TABLES_SIZE,
        layout_hash,
    },
    sync::Ordering,
};

/// Where things stand in a link; bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) size: u64,
    pub(crate) slots: u32,
    pub(crate) tables_off: u64,
    pub(crate) data_off: u64,
}

/// The smallest and the largest data area.
pub(crate) const LEAST_AREA: u64 = 64 * 1024;
pub(crate) const MOST_AREA: u64 = 128 * 1024 * 1024;

impl Geometry {
    /// For a link of `size` bytes with `slots` slots. `None`: it does not fit.
    pub(crate) fn new(size: u64, slots: u32) -> Option<Geometry> {
        if slots == 0 || slots > MAX_SLOTS || !size.is_multiple_of(PAGE) {
            return None;
        }
        let tables_off = (SLOTS_OFF + u64::from(slots) * SLOT_SIZE).next_multiple_of(PAGE);
        let data_off = (tables_off + u64::from(slots) * TABLES_SIZE).next_multiple_of(LEAST_AREA);
        (data_off + 2 * LEAST_AREA <= size).then_some(Geometry {
            size,
            slots,
            tables_off,
            data_off,
        })
    }

    /// From the header of a link that is `len` bytes long.
    pub(crate) fn parse(header: &LinkHeader, len: u64) -> Result<Geometry, AttachError> {
        match header.magic.load(Ordering::Acquire) {
            MAGIC => {}
            0 => return Err(AttachError::NotReady),
            other => return Err(AttachError::Magic(other)),
        }
        let found = header.abi_version.load(Ordering::Relaxed);
        if found != ABI_VERSION {
            return Err(AttachError::Version { found });
        }
        let found = header.layout_hash.load(Ordering::Relaxed);
        if found != layout_hash() {
            return Err(AttachError::Layout { found });
        }
        let size = header.size.load(Ordering::Relaxed);
        if size > len {
            return Err(AttachError::TooSmall { len });
        }
        let Some(geometry) = Geometry::new(size, header.slots.load(Ordering::Relaxed)) else {
            return Err(AttachError::Geometry);
        };
        if size != len || header.data_off.load(Ordering::Relaxed) != geometry.data_off {
            return Err(AttachError::Geometry);
        }
        Ok(geometry)
    }

    /// The largest area that a link of this size hands out: a small link (one that a 32-bit process shares) keeps room
    /// for more than a few connections.
    pub(crate) fn most_area(&self) -> u64 {
        if self.size <= 64 << 20 {
            1 << 20
        } else {
            MOST_AREA
        }
    }

    /// Whether a data area may stand there.
    pub(crate) fn area(&self, offset: u64, len: u64) -> bool {
        len.is_power_of_two()
            && (LEAST_AREA..=MOST_AREA).contains(&len)
            && offset.is_multiple_of(LEAST_AREA)
            && offset >= self.data_off
            && offset.checked_add(len).is_some_and(|end| end <= self.size)
    }
}

/// Bytes of address space for one direction with this quota: 32 times as much, so that every mix of writes that the
/// quota admits fits, within limits.
pub(crate) fn area_len(quota: u32) -> u64 {
    (u64::from(quota) * 32)
        .next_power_of_two()
        .clamp(LEAST_AREA, MOST_AREA)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_area_admits_every_mix_that_its_quota_admits() {
        for quota in [0, 1, 2, 512, 4096, 65_536, 1 << 20, 4 << 20] {
            // 24 bytes for each message of one byte, and a skip at the end and at the rock.
            assert!(area_len(quota) >= 26 * u64::from(quota) + 512, "{quota}");
        }
        assert_eq!(area_len(65_536), 2 << 20);
    }

    #[test]
    fn areas_outside_the_link_are_refused() {
        let geometry = Geometry::new(64 << 20, 16).expect("fits");
        assert!(geometry.area(geometry.data_off, LEAST_AREA));
        assert!(!geometry.area(0, LEAST_AREA));
        assert!(!geometry.area(geometry.data_off + 4096, LEAST_AREA));
        assert!(!geometry.area(geometry.data_off, LEAST_AREA + 1));
        assert!(!geometry.area(64 << 20, LEAST_AREA));
        assert!(!geometry.area(!(LEAST_AREA - 1), LEAST_AREA));
    }
}
