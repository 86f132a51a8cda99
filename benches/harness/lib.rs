//! npfs measured beside what one would use instead: two real processes, the same loop for every
//! transport, rounds of all of them interleaved in one run.
//!
//! ```text
//! parent: books, deadlines, statistics
//!   │ control socket                │ control socket
//!   ▼                               ▼
//! client on CPU a  ◄── transport ──► server on CPU b        (or both on CPU a)
//! ```
//!
//! The parent starts its own program twice with [`WORKER_COMMAND`], so whoever calls [`run`] must
//! answer that command line with [`worker_main`]. It sleeps while a run is under way.
//!
//! A *run* is one transport doing one workload once: open, probe the machine (two cache lines'
//! round trip), warm up, measure, probe again, close. It counts only if both probes say the same
//! (see `probe`), and only runs of one class are compared. A *round* is one run of each transport.
//! Ratios are also given over all runs. A promise is judged if at least half of its rounds count.

// The harness needs the real atomics: its shared memory is never built under loom.
#![allow(clippy::disallowed_types)]

mod baselines;
mod clock;
mod connect;
mod control;
mod costs;
mod crew;
mod idle;
mod ours;
mod overlapped;
mod payload;
mod placement;
mod plan;
mod probe;
mod promises;
pub mod report;
mod results;
mod run;
mod serve;
mod sys;
mod transport;
mod worker;
mod workloads;

pub use placement::Placement;
pub use plan::{Options, Which, Workload};
pub use results::Report;
pub use run::{Progress, run};
pub use worker::main as worker_main;

/// First argument of a worker process. No user types it.
pub const WORKER_COMMAND: &str = "__bench-worker";
