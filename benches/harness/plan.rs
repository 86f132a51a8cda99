//! What is to be measured: workloads, contenders, how long.

use std::time::Duration;

use crate::costs::MANY;
use crate::placement::Placement;
use crate::serve::CLIENTS;
use crate::transport::{DEFAULT_QUOTA, Kind, size_name};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Request and answer of this many bytes each.
    RoundTrip(usize),
    /// A stream of messages of this many bytes.
    OneWay(usize),
    /// Round trips of overlapped calls, beside blocking ones.
    Overlapped,
    /// The same while reads pend on many other pipes.
    Pending,
    /// The same while many other processes are connected to the server.
    Clients,
    /// Round trips of many clients with a server of one thread.
    Serve,
    /// Open and close, against listen and disconnect.
    Connect,
    /// The same among many connected instances, and without them.
    ConnectAmong,
    /// Both ends asleep in a read.
    Idle,
    /// Memory of pipes that carry nothing.
    Many,
    /// Descriptors.
    Fds,
}

impl Workload {
    /// Every one, in the order in which they run.
    pub const ALL: [Workload; 16] = [
        Workload::RoundTrip(48),
        Workload::RoundTrip(64),
        Workload::RoundTrip(4 << 10),
        Workload::OneWay(64),
        Workload::OneWay(4 << 10),
        Workload::OneWay(64 << 10),
        Workload::OneWay(1 << 20),
        Workload::Overlapped,
        Workload::Pending,
        Workload::Clients,
        Workload::Serve,
        Workload::Connect,
        Workload::ConnectAmong,
        Workload::Idle,
        Workload::Many,
        Workload::Fds,
    ];

    /// Counted, which no placement changes: once is enough.
    pub(crate) fn counts(self) -> bool {
        matches!(self, Workload::Many | Workload::Fds)
    }

    /// As on the command line: `roundtrip-64`, `oneway-4k`, `idle`.
    pub fn name(self) -> String {
        let size = |bytes: usize| match bytes {
            0..1024 => bytes.to_string(),
            1024..0x10_0000 => format!("{}k", bytes >> 10),
            _ => format!("{}m", bytes >> 20),
        };
        match self {
            Workload::RoundTrip(bytes) => format!("roundtrip-{}", size(bytes)),
            Workload::OneWay(bytes) => format!("oneway-{}", size(bytes)),
            Workload::Overlapped => "overlapped".to_owned(),
            Workload::Pending => "pending".to_owned(),
            Workload::Clients => "clients".to_owned(),
            Workload::Serve => "serve".to_owned(),
            Workload::Connect => "connect".to_owned(),
            Workload::ConnectAmong => "connect-among".to_owned(),
            Workload::Idle => "idle".to_owned(),
            Workload::Many => "many".to_owned(),
            Workload::Fds => "fds".to_owned(),
        }
    }

    /// As a headline: `round trip, 64 B`.
    pub fn title(self) -> String {
        match self {
            Workload::RoundTrip(bytes) => format!("round trip, {}", size_name(bytes)),
            Workload::OneWay(bytes) => format!("one way, {}", size_name(bytes)),
            Workload::Overlapped => "overlapped round trip, 64 B".to_owned(),
            Workload::Pending => "the same, with reads pending on many pipes".to_owned(),
            Workload::Clients => format!("the same, with {PROCESSES} client processes"),
            Workload::Serve => format!("{CLIENTS} clients of a server on one thread, 64 B"),
            Workload::Connect => "open and close, against listen and disconnect".to_owned(),
            Workload::ConnectAmong => "the same among many connected instances".to_owned(),
            Workload::Idle => "idle".to_owned(),
            Workload::Many => "memory".to_owned(),
            Workload::Fds => "descriptors".to_owned(),
        }
    }

    /// Bytes of a message.
    pub fn size(self) -> usize {
        match self {
            Workload::RoundTrip(bytes) | Workload::OneWay(bytes) => bytes,
            Workload::Overlapped
            | Workload::Pending
            | Workload::Clients
            | Workload::Serve
            | Workload::Connect
            | Workload::ConnectAmong
            | Workload::Idle
            | Workload::Many
            | Workload::Fds => 64,
        }
    }
}

/// Which contenders run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// All: only then are there ratios.
    #[default]
    Both,
    /// npfs alone.
    Ours,
    /// Everything else.
    Baselines,
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// CPUs of the two ends, one suite for each.
    pub placements: Vec<Placement>,
    /// In the order in which they run.
    pub workloads: Vec<Workload>,
    /// Short rounds and few: everything within 40 seconds.
    pub quick: bool,
    /// Contenders.
    pub which: Which,
}

/// One line of a section: a transport and the size of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Contender {
    /// The transport.
    pub(crate) kind: Kind,
    /// Bytes; differs from the workload's only for the one-line ping-pong beside `roundtrip-64`.
    pub(crate) size: usize,
}

impl Contender {
    /// For tables and rows.
    pub(crate) fn name(self) -> String {
        match self {
            Contender {
                kind: Kind::RawLine,
                size: 0..=ONE_LINE,
            } => "raw line, one line".to_owned(),
            Contender {
                kind: Kind::RawLine,
                size,
            } => {
                format!("raw line, {} lines", (size + 8).div_ceil(64))
            }
            Contender { kind, .. } => kind.name(),
        }
    }
}

/// Processes of `clients`.
pub(crate) const PROCESSES: u32 = 1000;

/// Bytes that fit into one cache line beside the raw line's flag.
pub(crate) const ONE_LINE: usize = 48;

/// The quota of P4's second row, and the sizes of the rings that it is measured against.
pub(crate) const BIG_QUOTA: u32 = 4 << 20;
const BIG_RINGS: [u32; 4] = [1 << 20, 2 << 20, 4 << 20, 8 << 20];

/// Bytes of the messages that are also read in place.
pub(crate) const IN_PLACE: usize = 64 << 10;

/// Who takes part in `workload`.
pub(crate) fn contenders(workload: Workload, place: Placement, which: Which) -> Vec<Contender> {
    let size = workload.size();
    let two_cpus = !place.is_one_cpu();
    let quota = DEFAULT_QUOTA;
    let mut kinds = vec![Kind::Ours { quota }];
    match workload {
        Workload::RoundTrip(_) => {
            if two_cpus {
                // With one CPU a spinning reader would wait for its own time slice to end.
                kinds.extend([Kind::RawLine, Kind::RawLinePaused]);
            }
            kinds.push(Kind::RawFutex);
            kinds.extend(rings(quota));
            kinds.extend([Kind::Pipe, Kind::UnixStream, Kind::UnixSeqpacket]);
        }
        Workload::OneWay(_) => {
            let streams_in_quotas = size > 64;
            if streams_in_quotas {
                kinds.push(Kind::Ours { quota: BIG_QUOTA });
            }
            if size == IN_PLACE {
                kinds.extend([quota, BIG_QUOTA].map(|quota| Kind::OursInPlace { quota }));
            }
            if size <= quota as usize {
                kinds.extend(rings(quota));
            }
            if streams_in_quotas {
                // One CPU needs no search for the best size: they are all alike.
                let sizes = if two_cpus {
                    &BIG_RINGS[..]
                } else {
                    &[BIG_QUOTA]
                };
                kinds.extend(sizes.iter().flat_map(|&capacity| rings(capacity)));
            }
            kinds.extend([Kind::Pipe, Kind::UnixStream]);
            if size < 128 << 10 {
                // A packet must fit the socket's buffer, 208 KiB by default.
                kinds.push(Kind::UnixSeqpacket);
            }
            kinds.push(Kind::Memcpy);
        }
        Workload::Connect => kinds.push(Kind::UnixStream),
        Workload::ConnectAmong => kinds.insert(0, Kind::OursAmong { others: MANY - 1 }),
        Workload::Serve => kinds.push(Kind::UnixStream),
        Workload::Overlapped => kinds.push(Kind::Overlapped),
        Workload::Pending => {
            kinds = vec![Kind::OverlappedAmong { others: MANY - 1 }, Kind::Overlapped];
        }
        Workload::Clients => {
            let others = PROCESSES - 1;
            kinds = vec![Kind::OverlappedOfClients { others }, Kind::Overlapped];
        }
        Workload::Idle => kinds.push(Kind::Pipe),
        Workload::Many | Workload::Fds => {}
    }
    let mut all: Vec<Contender> = kinds
        .into_iter()
        .map(|kind| Contender { kind, size })
        .collect();
    if workload == Workload::RoundTrip(64) && two_cpus {
        all.insert(
            1,
            Contender {
                kind: Kind::RawLine,
                size: ONE_LINE,
            },
        );
    }
    all.retain(|one| match which {
        Which::Both => true,
        Which::Ours => one.kind.is_ours(),
        Which::Baselines => !one.kind.is_ours(),
    });
    all
}

fn rings(capacity: u32) -> [Kind; 2] {
    [Kind::RingIndex { capacity }, Kind::RingInFrame { capacity }]
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm: Duration,
    pub(crate) warm_most: Duration,
    pub(crate) run: Duration,
    /// of a section, for each contender
    pub(crate) share: Duration,
    /// of one idle measurement
    pub(crate) idle: Duration,
    /// beyond its own time, before a run counts as hung
    pub(crate) grace: Duration,
    /// when no further round starts, whatever is missing
    pub(crate) stop: Duration,
}

impl Timing {
    pub(crate) fn new(quick: bool) -> Timing {
        let millis = Duration::from_millis;
        if quick {
            Timing {
                warm: millis(5),
                warm_most: millis(300),
                run: millis(20),
                share: millis(250),
                idle: millis(700),
                grace: millis(2000),
                stop: millis(36_000),
            }
        } else {
            Timing {
                warm: millis(8),
                warm_most: millis(600),
                run: millis(60),
                share: millis(1600),
                idle: millis(3000),
                grace: millis(5000),
                stop: Duration::MAX,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        let names: Vec<String> = Workload::ALL.into_iter().map(Workload::name).collect();
        let list = "roundtrip-48 roundtrip-64 roundtrip-4k oneway-64 oneway-4k oneway-64k \
                    oneway-1m overlapped pending clients serve connect connect-among idle many fds";
        assert_eq!(names.join(" "), list);
    }

    #[test]
    fn a_spinning_line_never_meets_one_cpu() {
        let one = Placement {
            client: 0,
            server: 0,
        };
        for workload in Workload::ALL {
            let all = contenders(workload, one, Which::Both);
            assert!(all.iter().all(|c| c.kind != Kind::RawLine), "{workload:?}");
            assert!(all.iter().any(|c| c.kind.is_ours()));
            let ours = [
                Workload::Overlapped,
                Workload::Pending,
                Workload::Clients,
                Workload::ConnectAmong,
            ];
            let alone = workload.counts() || ours.contains(&workload);
            assert_eq!(alone, all.iter().all(|c| c.kind.is_ours()));
        }
    }
}
