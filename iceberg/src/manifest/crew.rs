//! Several processors on the parts of one file.
use parking_lot::Mutex;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, Builder};

/// So many processors have one file between them, at most: others are looked at beside it.
const PROCESSORS_MAX: usize = 4;

/// Does `work` for each part, and returns what came of it in their order, or one of the errors. Blocks.
pub(super) fn together<P: Sync, T: Send, E: Send>(
    parts: &[P],
    work: impl Fn(&P) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    if parts.len() < 2 {
        return parts.iter().map(work).collect();
    }
    let processors = thread::available_parallelism().map_or(1, NonZero::get).min(PROCESSORS_MAX);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Result<T, E>>>> = Mutex::new(parts.iter().map(|_| None).collect());
    let labour = || {
        while let Some((n, part)) = Some(next.fetch_add(1, Relaxed)).and_then(|n| Some((n, parts.get(n)?))) {
            let result = work(part);
            if result.is_err() {
                next.store(parts.len(), Relaxed); // what the others would do is of no use
            }
            done.lock()[n] = Some(result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..processors.min(parts.len()) {
            // Who does not come leaves the work to the others.
            let _fewer = Builder::new().name("manifest".to_owned()).spawn_scoped(scope, labour);
        }
        labour();
    });
    done.into_inner().into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_the_parts_is_in_their_order() {
        let parts: Vec<u64> = (0..1000).collect();
        assert_eq!(together(&parts, |n| Ok::<_, ()>(n * 2)).unwrap(), Vec::from_iter((0..2000).step_by(2)));
        assert_eq!(together(&parts, |n| if *n == 500 { Err(*n) } else { Ok(()) }), Err(500));
        assert_eq!(together(&parts[..1], |_| Err::<(), _>("one")), Err("one"));
        assert_eq!(together(&[], |_: &u64| Err::<(), _>("none")), Ok(Vec::new()));
    }
}
