//! The event loop on a thread of the host's.

use npfs_ringbuf::Deadline;

use crate::{jobs, reactor::REACTOR};

/// For a host that has threads of its own and wants none of ours: whoever has this moves on what pends in this process, and
/// runs its callbacks, where the event loop's thread would.
///
/// ```no_run
/// use npfs::{Deadline, Pump};
///
/// let pump = Pump::take_over();
/// std::thread::spawn(move || {
///     loop {
///         pump.wait(Deadline::NEVER);
///         pump.run();
///     }
/// });
/// ```
///
/// Threads in [`crate::nt::Nt::wait`] and the like go on moving on by themselves what they wait for.
#[derive(Debug)]
pub struct Pump(());

impl Pump {
    /// From now on the host pumps. A loop that runs already ends its work, and no other begins; that is so until the
    /// process ends. A child of fork(2) pumps for itself.
    #[must_use]
    pub fn take_over() -> Pump {
        REACTOR.is_hosted_now();
        Pump(())
    }

    /// Sleeps until there may be something to run, [`Pump::kick`], or the deadline, which answers `false`. On a thread
    /// that waits for others' completions as well this is what it sleeps in.
    #[must_use = "false: the deadline has passed"]
    pub fn wait(&self, deadline: Deadline) -> bool {
        REACTOR.pump_wait(deadline)
    }

    /// Moves on what is ready, and calls the callbacks that are due; never waits. Says whether there was anything.
    pub fn run(&self) -> bool {
        let ran = REACTOR.pump_run();
        jobs::run_the_line() != 0 || ran
    }

    /// Ends a [`Pump::wait`], this one's or the next. Any thread may call it.
    pub fn kick(&self) {
        REACTOR.kick();
    }
}
