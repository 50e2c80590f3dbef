//! The mbarrier object: counts, phases and their rules (PTX ISA 9.0, 9.7.13.15).
//!
//! The object is 64 opaque bits in shared memory. Here, from the lowest bit: pending arrivals (20),
//! expected arrivals (20), tx-count in two's complement (21), parity of the phase (1), stamp (2).

use std::fmt;

/// Largest arrival count and largest magnitude of the tx-count.
pub const MAX_COUNT: u32 = (1 << 20) - 1;

/// Zeroed memory, and most other memory, is no mbarrier.
const STAMP: u64 = 0b10;

/// A rule of the mbarrier that an operation broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MbarrierError {
    /// The memory holds no mbarrier.
    NotInitialized,
    /// A count outside 1 to 2^20 - 1.
    Count(u32),
    /// More arrivals than the phase still expects.
    TooManyArrivals {
        /// Arrivals of this operation.
        count: u32,
        /// Arrivals that the phase was still waiting for.
        pending: u32,
    },
    /// Pending arrivals raised above 2^20 - 1.
    PendingOverflow,
    /// tx-count outside plus or minus 2^20 - 1.
    TxRange(i64),
    /// `.noComplete` arrival that completes the phase.
    Completed,
    /// The last participant dropped out: no later phase can complete.
    NoneExpected,
}

impl fmt::Display for MbarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitialized => write!(f, "no mbarrier was initialised here"),
            Self::Count(n) => write!(f, "count must be 1 to 2^20 - 1, got {n}"),
            Self::TooManyArrivals { count, pending } => {
                write!(
                    f,
                    "arrival with count {count} where the phase expects {pending} more"
                )
            }
            Self::PendingOverflow => write!(f, "pending count must stay below 2^20"),
            Self::TxRange(n) => write!(f, "tx-count must stay within 2^20 - 1 of zero, got {n}"),
            Self::Completed => write!(f, "a .noComplete arrival completes the phase"),
            Self::NoneExpected => write!(f, "arrival at an mbarrier that every participant left"),
        }
    }
}

/// An mbarrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mbarrier {
    /// Parity of the current phase, which is incomplete.
    pub parity: bool,
    /// Arrivals that the current phase still waits for.
    pub pending: u32,
    /// Arrivals of later phases.
    pub expected: u32,
    /// Bytes expected minus bytes completed.
    pub tx: i32,
}

/// Result of an operation that may complete the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// State token: the phase and the pending count before the arrival.
    pub token: u64,
    /// The phase completed.
    pub completed: bool,
}

impl Mbarrier {
    /// `mbarrier.init`.
    ///
    /// # Errors
    /// `count` is out of range.
    pub fn new(count: u32) -> Result<Self, MbarrierError> {
        check_count(count)?;
        Ok(Mbarrier {
            parity: false,
            pending: count,
            expected: count,
            tx: 0,
        })
    }

    /// Reads the object from memory.
    ///
    /// # Errors
    /// The bits are no mbarrier.
    pub fn from_bits(bits: u64) -> Result<Self, MbarrierError> {
        if bits >> 62 != STAMP {
            return Err(MbarrierError::NotInitialized);
        }
        // Sign-extends the 21 bits of the tx-count.
        let tx = ((bits >> 40) as u32) << 11;
        Ok(Mbarrier {
            pending: (bits as u32) & MAX_COUNT,
            expected: (bits >> 20) as u32 & MAX_COUNT,
            tx: tx as i32 >> 11,
            parity: bits >> 61 & 1 != 0,
        })
    }

    /// The bits to store.
    pub fn to_bits(self) -> u64 {
        u64::from(self.pending)
            | u64::from(self.expected) << 20
            | u64::from(self.tx as u32 & 0x1f_ffff) << 40
            | u64::from(self.parity) << 61
            | STAMP << 62
    }

    /// State token of the current phase: bit 0 the parity, above it the pending count.
    pub fn token(self) -> u64 {
        u64::from(self.pending) << 1 | u64::from(self.parity)
    }

    /// expect-tx: the current phase waits for `bytes` more.
    ///
    /// # Errors
    /// The tx-count leaves its range.
    pub fn expect_tx(&mut self, bytes: u32) -> Result<(), MbarrierError> {
        self.add_tx(i64::from(bytes))
    }

    /// complete-tx: `bytes` have arrived. True if the phase completed.
    ///
    /// # Errors
    /// The tx-count leaves its range.
    pub fn complete_tx(&mut self, bytes: u32) -> Result<bool, MbarrierError> {
        self.add_tx(-i64::from(bytes))?;
        Ok(self.advance())
    }

    /// arrive-on with `count`.
    ///
    /// # Errors
    /// `count` is out of range or more than the phase waits for.
    pub fn arrive(&mut self, count: u32) -> Result<Arrival, MbarrierError> {
        check_count(count)?;
        let token = self.token();
        if self.expected == 0 && self.pending == 0 {
            return Err(MbarrierError::NoneExpected);
        }
        if count > self.pending {
            return Err(MbarrierError::TooManyArrivals {
                count,
                pending: self.pending,
            });
        }
        self.pending -= count;
        Ok(Arrival {
            token,
            completed: self.advance(),
        })
    }

    /// `.noComplete` arrival.
    ///
    /// # Errors
    /// As [`Mbarrier::arrive`], and if the phase completes.
    pub fn arrive_no_complete(&mut self, count: u32) -> Result<Arrival, MbarrierError> {
        let arrival = self.arrive(count)?;
        if arrival.completed {
            Err(MbarrierError::Completed)
        } else {
            Ok(arrival)
        }
    }

    /// First half of `mbarrier.arrive_drop`: later phases expect `count` fewer arrivals.
    ///
    /// # Errors
    /// `count` is out of range or more than is expected.
    pub fn drop_expected(&mut self, count: u32) -> Result<(), MbarrierError> {
        check_count(count)?;
        let pending = self.expected;
        self.expected = self
            .expected
            .checked_sub(count)
            .ok_or(MbarrierError::TooManyArrivals { count, pending })?;
        Ok(())
    }

    /// `cp.async.mbarrier.arrive` without `.noinc`: one more arrival is awaited in this phase.
    ///
    /// # Errors
    /// The pending count leaves its range.
    pub fn raise_pending(&mut self) -> Result<(), MbarrierError> {
        if self.pending == MAX_COUNT {
            return Err(MbarrierError::PendingOverflow);
        }
        self.pending += 1;
        Ok(())
    }

    /// Whether the phase of this parity has completed: it has unless it is the current one.
    pub fn completed(self, parity: bool) -> bool {
        self.parity != parity
    }

    fn add_tx(&mut self, change: i64) -> Result<(), MbarrierError> {
        let tx = i64::from(self.tx) + change;
        if tx.unsigned_abs() > u64::from(MAX_COUNT) {
            return Err(MbarrierError::TxRange(tx));
        }
        self.tx = tx as i32;
        Ok(())
    }

    fn advance(&mut self) -> bool {
        let done = self.pending == 0 && self.tx == 0;
        if done {
            self.parity = !self.parity;
            self.pending = self.expected;
        }
        done
    }
}

/// Parity of the phase that a state token belongs to.
pub fn token_parity(token: u64) -> bool {
    token & 1 != 0
}

/// `mbarrier.pending_count`.
pub fn token_pending(token: u64) -> u32 {
    (token >> 1) as u32 & MAX_COUNT
}

fn check_count(count: u32) -> Result<(), MbarrierError> {
    if count == 0 || count > MAX_COUNT {
        Err(MbarrierError::Count(count))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_round_trip_at_the_limits() {
        for tx in [0, 1, -1, MAX_COUNT as i32, -(MAX_COUNT as i32)] {
            for pending in [0, 1, MAX_COUNT] {
                for parity in [false, true] {
                    let b = Mbarrier {
                        parity,
                        pending,
                        expected: MAX_COUNT - pending,
                        tx,
                    };
                    assert_eq!(Mbarrier::from_bits(b.to_bits()), Ok(b));
                }
            }
        }
        for bits in [0, u64::MAX, 1 << 62] {
            assert_eq!(
                Mbarrier::from_bits(bits),
                Err(MbarrierError::NotInitialized)
            );
        }
    }

    #[test]
    fn a_phase_needs_all_arrivals_and_all_bytes() {
        let mut b = Mbarrier::new(2).unwrap();
        b.expect_tx(48).unwrap();
        assert!(!b.arrive(1).unwrap().completed);
        assert!(!b.complete_tx(32).unwrap());
        assert!(!b.arrive(1).unwrap().completed);
        assert!(!b.completed(false));
        assert!(b.complete_tx(16).unwrap());
        assert!(b.completed(false));
        assert!(!b.completed(true));
        assert_eq!(
            b,
            Mbarrier {
                parity: true,
                pending: 2,
                expected: 2,
                tx: 0
            }
        );
    }

    #[test]
    fn bytes_may_arrive_before_they_are_expected() {
        let mut b = Mbarrier::new(1).unwrap();
        assert!(!b.complete_tx(64).unwrap());
        b.expect_tx(64).unwrap();
        assert!(b.arrive(1).unwrap().completed);
    }

    #[test]
    fn zero_bytes_complete_nothing_while_arrivals_are_pending() {
        let mut b = Mbarrier::new(1).unwrap();
        assert!(!b.complete_tx(0).unwrap());
    }

    #[test]
    fn tokens_carry_phase_and_pending_count() {
        let mut b = Mbarrier::new(3).unwrap();
        let first = b.arrive(2).unwrap().token;
        assert_eq!((token_parity(first), token_pending(first)), (false, 3));
        let last = b.arrive(1).unwrap();
        assert!(last.completed);
        assert_eq!(token_pending(last.token), 1);
        assert!(b.completed(token_parity(last.token)));
        let next = b.arrive(1).unwrap().token;
        assert!(!b.completed(token_parity(next)));
    }

    #[test]
    fn dropping_lowers_later_phases() {
        let mut b = Mbarrier::new(3).unwrap();
        b.drop_expected(1).unwrap();
        assert!(!b.arrive(1).unwrap().completed);
        assert!(b.arrive(2).unwrap().completed);
        assert_eq!((b.pending, b.expected), (2, 2));
        b.drop_expected(2).unwrap();
        assert!(b.arrive(2).unwrap().completed);
        assert_eq!(b.arrive(1), Err(MbarrierError::NoneExpected));
        let error = MbarrierError::TooManyArrivals {
            count: 1,
            pending: 0,
        };
        assert_eq!(b.drop_expected(1), Err(error));
    }

    #[test]
    fn asynchronous_arrival_without_noinc_is_neutral() {
        let mut b = Mbarrier::new(1).unwrap();
        b.raise_pending().unwrap();
        assert!(!b.arrive(1).unwrap().completed);
        assert_eq!(b.pending, 1);
        let mut full = Mbarrier::new(MAX_COUNT).unwrap();
        assert_eq!(full.raise_pending(), Err(MbarrierError::PendingOverflow));
    }

    #[test]
    fn ranges_are_checked() {
        assert_eq!(Mbarrier::new(0), Err(MbarrierError::Count(0)));
        assert_eq!(Mbarrier::new(1 << 20), Err(MbarrierError::Count(1 << 20)));
        let mut b = Mbarrier::new(2).unwrap();
        assert_eq!(b.arrive(0), Err(MbarrierError::Count(0)));
        let error = MbarrierError::TooManyArrivals {
            count: 3,
            pending: 2,
        };
        assert_eq!(b.arrive(3), Err(error));
        b.expect_tx(MAX_COUNT).unwrap();
        assert_eq!(b.expect_tx(1), Err(MbarrierError::TxRange(1 << 20)));
        let mut b = Mbarrier::new(2).unwrap();
        b.complete_tx(MAX_COUNT).unwrap();
        assert_eq!(
            b.complete_tx(u32::MAX),
            Err(MbarrierError::TxRange(
                -i64::from(MAX_COUNT) - i64::from(u32::MAX)
            ))
        );
        let mut one = Mbarrier::new(1).unwrap();
        assert_eq!(one.arrive_no_complete(1), Err(MbarrierError::Completed));
    }
}
