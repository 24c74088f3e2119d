//! Random numbers for identifiers: fast, unique, no secret.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes every thread's seed differ from every other's.
static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

/// The process-wide random keys of the standard library, hashed with the number of this thread.
fn seed() -> u64 {
    RandomState::new().hash_one(THREADS.fetch_add(1, Ordering::Relaxed)) | 1
}

/// The next number of this thread's xorshift64* (Vigna 2016): no system call, and good enough to tell
/// requests apart. Not fit for anything that must not be guessed.
pub fn next() -> u64 {
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    })
}

#[cfg(test)]
mod tests {
    use super::next;
    use std::collections::HashSet;

    #[test]
    fn threads_draw_different_numbers() {
        let draw = || (0..1_000).map(|_| next()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let all: HashSet<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.len(), 4_000);
    }
}
