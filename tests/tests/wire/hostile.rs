//! Bytes that no program would send, for every decoder.

use lab::wire::message::{Decoder, Side};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::streams::{Conversation, check};

/// Checks conversations with this beginning, which go on with these words and arbitrary bytes.
pub fn check_arbitrary_bytes(
    new: &dyn Fn() -> Box<dyn Decoder>,
    beginning: &[(Side, Vec<u8>)],
    words: &[&'static [u8]],
) {
    let piece = prop_oneof![
        1 => vec(any::<u8>(), 0..40),
        4 => select(words.to_vec()).prop_map(<[u8]>::to_vec),
    ];
    let side = any::<bool>().prop_map(|client| if client { Side::Client } else { Side::Server });
    let pieces = vec((side, piece), 0..20);
    run(500, &pieces, |pieces| drop(check(new, &[beginning, &pieces].concat())));
}

/// Checks recordings in which a few bytes are wrong, or missing.
pub fn check_mutations(new: &dyn Fn() -> Box<dyn Decoder>, recordings: Vec<Conversation>) {
    let change = (any::<Index>(), any::<Index>(), any::<u8>(), any::<bool>());
    let changes = (select(recordings), vec(change, 1..4));
    run(100, &changes, |(mut conversation, changes)| {
        for (piece, at, byte, removes) in changes {
            let bytes = &mut piece.get_mut(&mut conversation).1;
            match at.index(bytes.len().max(1)) {
                _ if bytes.is_empty() => {}
                at if removes => drop(bytes.remove(at)),
                at => bytes[at] = byte,
            }
        }
        check(new, &conversation);
    });
}

/// Tries random values, which are the same in each run.
fn run<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let tried = TestRunner::new_with_rng(config, rng).run(strategy, |value| {
        property(value);
        Ok(())
    });
    tried.unwrap();
}
