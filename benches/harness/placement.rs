//! Which CPUs the two ends run on.

use anyhow::{Context, Result, bail};

use crate::sys;

/// The CPUs of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Sends first.
    pub client: usize,
    /// Echoes, or receives.
    pub server: usize,
}

impl Placement {
    /// Both ends share one.
    pub fn is_one_cpu(self) -> bool {
        self.client == self.server
    }

    /// `0,1`
    pub fn name(self) -> String {
        format!("{},{}", self.client, self.server)
    }

    /// Parses `a,b`.
    pub fn parse(text: &str) -> Result<Placement, String> {
        let numbers: Option<Vec<usize>> = text
            .split(',')
            .map(|number| number.trim().parse().ok())
            .collect();
        match numbers.as_deref() {
            Some(&[client, server]) => Ok(Placement { client, server }),
            _ => Err("two CPU numbers are due, as in 0,1".to_owned()),
        }
    }

    /// What is measured unless told otherwise: two CPUs and one, of those this process may use;
    /// with a single one, only that.
    pub fn defaults() -> Result<Vec<Placement>> {
        let allowed = sys::allowed_cpus().context("sched_getaffinity")?;
        let &[first, ref rest @ ..] = allowed.as_slice() else {
            bail!("this process may run on no CPU");
        };
        let both = rest.first().map(|&second| Placement {
            client: first,
            server: second,
        });
        let one = Placement {
            client: first,
            server: first,
        };
        Ok(both.into_iter().chain([one]).collect())
    }

    /// Refuses a CPU that this process may not use, with a sentence for its user.
    pub fn check(self) -> Result<Placement, String> {
        let allowed = sys::allowed_cpus().map_err(|error| error.to_string())?;
        for cpu in [self.client, self.server] {
            if !allowed.contains(&cpu) {
                let list: Vec<String> = allowed.iter().map(usize::to_string).collect();
                let list = list.join(",");
                return Err(format!(
                    "CPU {cpu} is not among those that this process may use: {list}"
                ));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_make_a_placement() {
        assert_eq!(
            Placement::parse("0,1"),
            Ok(Placement {
                client: 0,
                server: 1
            })
        );
        assert_eq!(
            Placement::parse("3, 3"),
            Ok(Placement {
                client: 3,
                server: 3
            })
        );
        for bad in ["", "0", "0,1,2", "a,b", "-1,0", "0,99999999999999999999"] {
            assert!(Placement::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_absent_cpu_is_refused() {
        assert!(
            Placement {
                client: 0,
                server: 100_000
            }
            .check()
            .is_err()
        );
        for placement in Placement::defaults().unwrap() {
            assert_eq!(placement.check(), Ok(placement));
        }
    }
}
