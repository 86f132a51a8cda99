//! A client that speaks to the broker in bytes of its own choice.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use npfs::wire::{Hello, Reply, Request};

/// A socket to a broker.
pub struct Raw(OwnedFd);

impl Raw {
    /// Connects, and says nothing.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn connect(path: &str) -> Raw {
        // SAFETY: zero is valid for the address, whose path is filled within its size; the descriptor is ours alone.
        unsafe {
            let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "socket");
            let fd = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_un = std::mem::zeroed();
            address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).expect("small");
            assert!(path.len() < address.sun_path.len());
            for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
                *to = from.cast_signed();
            }
            let length = libc::socklen_t::try_from(size_of_val(&address)).expect("small");
            let address = (&raw const address).cast();
            assert_eq!(libc::connect(fd.as_raw_fd(), address, length), 0);
            Raw(fd)
        }
    }

    /// Connects and says hello.
    ///
    /// # Panics
    /// If that is not answered.
    pub fn greet(path: &str) -> Raw {
        let raw = Raw::connect(path);
        raw.send(&Request::Hello(Hello::ours()).encode())
            .expect("hello");
        let (welcome, _) = raw.receive().expect("a welcome");
        assert!(matches!(
            Reply::decode(&welcome),
            Ok(Reply::Welcome { version: 1, .. })
        ));
        raw
    }

    /// Sends one message; never blocks.
    ///
    /// # Errors
    /// Those of send(2).
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: a live buffer of that length, which the kernel reads.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                flags,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Sends one message with a descriptor beside it.
    ///
    /// # Panics
    /// If that fails.
    pub fn send_with(&self, bytes: &[u8], fd: RawFd) {
        let mut control = [0_u64; 4];
        let mut part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: the header is plain data; the control buffer is aligned and has room for one descriptor.
        unsafe {
            let mut head: libc::msghdr = std::mem::zeroed();
            head.msg_iov = &raw mut part;
            head.msg_iovlen = 1;
            head.msg_control = control.as_mut_ptr().cast();
            head.msg_controllen = libc::CMSG_SPACE(4) as usize;
            let first = libc::CMSG_FIRSTHDR(&raw const head);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(fd);
            assert!(libc::sendmsg(self.0.as_raw_fd(), &raw const head, libc::MSG_NOSIGNAL) > 0);
        }
    }

    /// The next message and the descriptor beside it; `None`: cut off, or nothing for ten seconds.
    pub fn receive(&self) -> Option<(Vec<u8>, Option<OwnedFd>)> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let patience = i32::try_from(Duration::from_secs(10).as_millis()).expect("small");
        let mut buf = vec![0_u8; 1 << 18];
        let mut control = [0_u64; 4];
        let mut part = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        // SAFETY: live buffers of the lengths given; a descriptor that comes is fresh and ours.
        unsafe {
            if libc::poll(&raw mut poll, 1, patience) <= 0 {
                return None;
            }
            let mut head: libc::msghdr = std::mem::zeroed();
            head.msg_iov = &raw mut part;
            head.msg_iovlen = 1;
            head.msg_control = control.as_mut_ptr().cast();
            head.msg_controllen = size_of_val(&control);
            let flags = libc::MSG_CMSG_CLOEXEC;
            let length = libc::recvmsg(self.0.as_raw_fd(), &raw mut head, flags);
            let length = usize::try_from(length).ok().filter(|&length| length != 0)?;
            buf.truncate(length);
            let first = libc::CMSG_FIRSTHDR(&raw const head);
            let fd = (!first.is_null()).then(|| {
                OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned())
            });
            Some((buf, fd))
        }
    }

    /// Whether the broker has cut it off: the end comes, after whatever else comes.
    pub fn is_cut_off(&self) -> bool {
        let begin = std::time::Instant::now();
        while self.receive().is_some() {
            if begin.elapsed() > Duration::from_secs(10) {
                return false;
            }
        }
        true
    }
}
