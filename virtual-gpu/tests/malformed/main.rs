//! Text that is not quite PTX: the virtual GPU refuses it or runs it, and never panics. The mutations here repeat the
//! same way each time; fuzz/ looks for more.

mod hostile;
mod mutate;

use hostile::{Fate, load_and_run};
use mutate::{Mutator, seeds};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs mutations of the corpus in one thread; `lane` of `lanes` takes every `lanes`-th.
fn run(lane: u64, lanes: u64, count: u64) -> (u64, u64) {
    let seeds = seeds();
    let mut mutator = Mutator::new(&seeds);
    let (mut loaded, mut refused) = (0, 0);
    for number in (lane..count).step_by(lanes as usize) {
        let text = mutator.mutate(number);
        match catch_unwind(AssertUnwindSafe(|| load_and_run(&text, number))) {
            Ok(Fate::Refused) => refused += 1,
            Ok(Fate::Loaded(_)) => loaded += 1,
            Err(_) => {
                let path = std::env::temp_dir().join(format!("malformed-{number}.ptx"));
                std::fs::write(&path, &text).expect("a writable temporary directory");
                panic!("mutation {number} panics; its text is in {}", path.display());
            }
        }
    }
    (loaded, refused)
}

#[test]
fn the_seeds_themselves_load_and_run() {
    for (number, seed) in seeds().iter().enumerate() {
        let why = || virtual_gpu::Gpu::new(virtual_gpu::Description::h200()).load_module(seed).err();
        assert_ne!(load_and_run(seed, number as u64), Fate::Refused, "{:?}", why());
    }
}

#[test]
fn mutated_kernels_never_panic() {
    // More with MUTATIONS=n.
    let count = std::env::var("MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(6000);
    let (first, second) = std::thread::scope(|scope| {
        let [first, second] = [0, 1].map(|lane| scope.spawn(move || run(lane, 2, count)));
        (first.join().expect("no panic"), second.join().expect("no panic"))
    });
    let (loaded, refused) = (first.0 + second.0, first.1 + second.1);
    assert_eq!(loaded + refused, count);
    // Both ends are exercised: much of it is refused, and much of it loads and runs with something else in it.
    assert!(loaded > count / 10 && refused > count / 10, "{loaded} loaded, {refused} refused");
}

#[test]
fn arbitrary_text_never_panics() {
    let mut mutator = Mutator::new(&[]);
    for number in 0..2000 {
        let text = mutator.noise(number);
        assert!(
            catch_unwind(AssertUnwindSafe(|| load_and_run(&text, number))).is_ok(),
            "noise {number} panics:\n{text}"
        );
    }
}
