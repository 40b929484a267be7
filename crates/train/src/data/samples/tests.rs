//! The store of samples, and the order of steps.

use super::*;
use crate::data::Order as Visit;
use proptest::prelude::*;

/// Samples of these lengths, every token learnt but the first.
fn samples(lengths: &[usize]) -> Samples {
    let mut samples = Samples::default();
    for (i, &length) in lengths.iter().enumerate() {
        let tokens: Vec<u32> = (0..length as u32).map(|t| 100 * i as u32 + t).collect();
        assert!(samples.push(&tokens, &vec![true; length], 0, i as u64 + 1));
    }
    samples
}

fn options(size: BatchSize) -> OrderOptions {
    OrderOptions {
        size,
        accumulate: 1,
        visit: Visit::Shuffled,
        grouping: Grouping::AsDrawn,
        seed: 7,
        rank: 0,
        world: 1,
    }
}

fn all(samples: &Samples) -> Vec<u32> {
    (0..samples.len() as u32).collect()
}

fn order(samples: &Samples, options: OrderOptions) -> Order {
    Order::new(samples, all(samples), options).unwrap()
}

#[test]
fn what_is_learnt_is_kept_and_the_rest_behind_it_is_not() {
    let mut samples = Samples::default();
    let mut expected = Vec::new();
    // Enough tokens for the bits of several words, at odd places.
    for i in 0..40u32 {
        let tokens: Vec<u32> = (0..7 + i % 5).map(|t| 1000 * i + t).collect();
        let learnt: Vec<bool> = (0..tokens.len()).map(|t| t % 3 == 0 && t + 2 < tokens.len()).collect();
        assert!(samples.push(&tokens, &learnt, 0, u64::from(i)));
        let last = learnt.iter().rposition(|&learnt| learnt).unwrap();
        expected.push((tokens[..=last].to_vec(), [&[false], &learnt[1..=last]].concat()));
    }
    assert!(!samples.push(&[1, 2, 3], &[true, false, false], 0, 9), "the first token cannot be predicted");
    assert!(!samples.push(&[1, 2], &[false, false], 0, 9));
    assert!(!samples.push(&[], &[], 0, 9));
    assert_eq!(samples.len(), expected.len());
    for (sample, (tokens, learnt)) in samples.iter().zip(&expected) {
        assert_eq!(sample.tokens, tokens);
        let found: Vec<bool> = (0..tokens.len()).map(|i| sample.is_learnt(i)).collect();
        assert_eq!(&found, learnt);
        assert!(!sample.is_learnt(tokens.len()));
        assert_eq!(sample.targets(), learnt.iter().filter(|&&learnt| learnt).count());
    }
    assert_eq!(samples.targets(), samples.iter().map(|sample| sample.targets()).sum::<usize>());
    assert_eq!(samples.tokens(), expected.iter().map(|(tokens, _)| tokens.len()).sum::<usize>());

    let mut batch = Batch::default();
    for ids in [[3u32, 0].as_slice(), &[39]] {
        samples.batch(ids, &mut batch).unwrap();
        let (mut inputs, mut targets, mut lengths) = (vec![], vec![], vec![]);
        for (tokens, learnt) in ids.iter().map(|&id| &expected[id as usize]) {
            inputs.extend_from_slice(&tokens[..tokens.len() - 1]);
            targets.extend((1..tokens.len()).map(|i| if learnt[i] { tokens[i] as i32 } else { IGNORED }));
            lengths.push(tokens.len() - 1);
        }
        assert_eq!(batch, Batch { inputs, targets, lengths });
    }
    assert!(samples.batch(&[40], &mut batch).unwrap_err().to_string().contains("there are 40"));
    assert!(samples.batch(&[], &mut batch).is_err());
}

#[test]
fn what_is_from_one_line_is_held_out_together() {
    let mut samples = Samples::default();
    for i in 0..300u64 {
        samples.push(&[1, 2], &[false, true], 0, i / 3);
    }
    let (train, val) = samples.hold_out(0.1, 3).unwrap();
    assert_eq!((train.len(), val.len()), (270, 30));
    let mut both = [train.clone(), val.clone()].concat();
    both.sort_unstable();
    assert_eq!(both, all(&samples));
    assert!(val.chunks(3).all(|line| line[0] % 3 == 0 && line[2] == line[0] + 2), "{val:?}");
    assert_ne!(samples.hold_out(0.1, 4).unwrap().1, val);
    assert_eq!(samples.hold_out(0.1, 3).unwrap().1, val);
    assert_eq!(samples.hold_out(0.001, 3).unwrap().1.len(), 3, "at least one line");
    assert_eq!(samples.hold_out(0.0, 3).unwrap(), (all(&samples), vec![]));
    for bad in [1.0, -0.1, f64::NAN, 0.999] {
        assert!(samples.hold_out(bad, 3).is_err(), "{bad}");
    }
    assert!(Samples::default().hold_out(0.5, 0).is_err());
}

#[test]
fn a_token_that_the_model_does_not_know_is_named() {
    let mut samples = samples(&[3, 3, 3]);
    samples.files = vec!["a.jsonl".into()];
    samples.check_vocabulary(203).unwrap();
    let error = samples.check_vocabulary(102).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:2: token 102") && error.contains("of 102 tokens"), "{error}");
    assert!(samples.check_vocabulary(0).is_err());
}

#[test]
fn in_order_batches_are_filled_one_after_the_other() {
    let samples = samples(&[5, 4, 3, 9, 2, 2]); // 4 3 2 8 1 1 rows
    let in_order = |size| {
        let options = OrderOptions { visit: Visit::Sequential, ..options(size) };
        let mut order = order(&samples, options);
        let batches: Vec<Vec<u32>> = (0..4).map(|_| order.next_step()[0].clone()).collect();
        (batches, order)
    };
    let (batches, order) = in_order(BatchSize::Samples(4));
    assert_eq!(batches, [vec![0, 1, 2, 3], vec![4, 5], vec![0, 1, 2, 3], vec![4, 5]]);
    assert_eq!((order.max_rows(), order.max_lengths()), (8 + 4 + 3 + 2, vec![8, 4, 3, 2]));
    assert_eq!(order.largest().len(), 4);
    assert_eq!((order.steps(1), order.steps(3)), (2, 6));
    let (batches, order) = in_order(BatchSize::Tokens(9));
    assert_eq!(batches, [vec![0, 1, 2], vec![3, 4], vec![5], vec![0, 1, 2]]);
    assert_eq!((order.max_rows(), order.max_lengths()), (9, vec![8, 4, 3, 2]));
    assert_eq!((order.steps(1), order.steps(2)), (3, 6));
    assert_eq!((order.position().epoch, order.position().index), (1, 1));
}

#[test]
fn samples_of_a_length_come_together() {
    let lengths: Vec<usize> = (0..200).map(|i| 2 + i * 7919 % 60).collect();
    let samples = samples(&lengths);
    let rows_lost = |grouping| {
        let size = BatchSize::Tokens(100);
        let mut order = order(&samples, OrderOptions { grouping, ..options(size) });
        let (mut spread, mut rising) = (0, 0);
        let mut last = 0;
        for _ in 0..order.steps(1) {
            let of_batch = order.next_step()[0].iter().map(|&id| lengths[id as usize]);
            let (least, most) = of_batch.fold((usize::MAX, 0), |(a, b), n| (a.min(n), b.max(n)));
            spread += most - least;
            rising += usize::from(most >= last);
            last = most;
        }
        (spread, rising, order.steps(1))
    };
    let (drawn, grouped) = (rows_lost(Grouping::AsDrawn), rows_lost(Grouping::ByLength(100)));
    assert!(grouped.0 * 3 < drawn.0, "{grouped:?}, as drawn {drawn:?}");
    assert!(grouped.1 as u64 * 4 < grouped.2 * 3, "batches come by length: {grouped:?}");
}

#[test]
fn what_cannot_be_cut_into_batches_is_refused() {
    let samples = samples(&[5, 9]);
    let refused = |options, expected: &str| {
        let error = Order::new(&samples, all(&samples), options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(options(BatchSize::Tokens(7)), "takes 8 tokens");
    refused(options(BatchSize::Tokens(0)), "expected 1 to");
    refused(options(BatchSize::Samples(usize::MAX)), "expected 1 to");
    refused(OrderOptions { accumulate: 0, ..options(BatchSize::Samples(1)) }, "expected 1 to");
    refused(OrderOptions { accumulate: usize::MAX, ..options(BatchSize::Samples(1)) }, "expected 1 to");
    refused(OrderOptions { rank: 2, world: 2, ..options(BatchSize::Samples(1)) }, "rank 2 of 2");
    refused(OrderOptions { grouping: Grouping::ByLength(0), ..options(BatchSize::Samples(1)) }, "length");
    let none = Order::new(&samples, vec![], options(BatchSize::Samples(1))).unwrap_err();
    assert!(none.to_string().contains("no samples"));
    assert!(Order::new(&samples, vec![2], options(BatchSize::Samples(1))).is_err());
}

fn any_options() -> impl Strategy<Value = OrderOptions> {
    let size =
        prop_oneof![(1usize..9).prop_map(BatchSize::Samples), (40usize..99).prop_map(BatchSize::Tokens)];
    let visit = prop_oneof![Just(Visit::Sequential), Just(Visit::Shuffled)];
    let grouping = prop_oneof![Just(Grouping::AsDrawn), (1usize..40).prop_map(Grouping::ByLength)];
    (size, visit, grouping, 1usize..4, 1usize..4, any::<u64>()).prop_map(
        |(size, visit, grouping, accumulate, world, seed)| OrderOptions {
            size,
            accumulate,
            visit,
            grouping,
            seed,
            rank: 0,
            world,
        },
    )
}

proptest! {
    /// Each sample once an epoch, over all ranks together; within the bounds that were stated; and what follows a
    /// position is what followed it before.
    #[test]
    fn every_sample_comes_once_an_epoch_and_positions_hold(
        lengths in prop::collection::vec(2usize..40, 1..60),
        options in any_options(),
        at in 0usize..12,
    ) {
        let samples = samples(&lengths);
        let rows = |ids: &[u32]| -> usize { ids.iter().map(|&id| lengths[id as usize] - 1).sum() };
        let mut ranks: Vec<Order> = (0..options.world)
            .map(|rank| order(&samples, OrderOptions { rank, ..options.clone() }))
            .collect();
        let mut seen = Vec::new();
        let mut saved = None;
        for step in 0..at + 12 {
            if step == at {
                saved = Some((ranks[0].position(), Vec::new()));
            }
            let of_ranks: Vec<Vec<Vec<u32>>> = ranks.iter_mut().map(|rank| rank.next_step().to_vec()).collect();
            for turn in 0..options.accumulate {
                for batches in &of_ranks {
                    prop_assert!(rows(&batches[turn]) <= ranks[0].max_rows());
                    let mut rows: Vec<usize> = batches[turn].iter().map(|&id| lengths[id as usize] - 1).collect();
                    rows.sort_unstable_by(|a, b| b.cmp(a));
                    let most = ranks[0].max_lengths();
                    prop_assert!(rows.len() <= most.len());
                    prop_assert!(rows.iter().zip(&most).all(|(rows, most)| rows <= most));
                    prop_assert!(!batches[turn].is_empty());
                    seen.extend_from_slice(&batches[turn]);
                }
            }
            if let Some((_, after)) = &mut saved {
                after.push(of_ranks);
            }
        }
        for epoch in seen.chunks_exact(lengths.len()) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            prop_assert_eq!(epoch, all(&samples));
        }
        let (position, after) = saved.unwrap();
        for rank in 0..options.world {
            let options = OrderOptions { rank, ..options.clone() };
            let mut resumed = Order::resume(&samples, all(&samples), options, &position).unwrap();
            for of_ranks in &after {
                prop_assert_eq!(resumed.next_step(), &of_ranks[rank][..]);
            }
            prop_assert_eq!(resumed.position(), ranks[rank].position());
        }
    }
}

#[test]
fn a_position_in_other_data_is_refused() {
    let (here, elsewhere) = (samples(&[3, 4, 5, 6]), samples(&[3, 4, 5]));
    let of = options(BatchSize::Samples(2));
    let position = order(&here, of.clone()).position();
    let refused = |samples: &Samples, options, position: &Position, expected: &str| {
        let error = Order::resume(samples, all(samples), options, position).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&elsewhere, of.clone(), &position, "not the same data");
    refused(&here, OrderOptions { seed: 8, ..of.clone() }, &position, "data seed 7");
    refused(&here, options(BatchSize::Tokens(99)), &position, "Samples(2)");
    let behind = Position { index: 3, ..position };
    refused(&here, of, &behind, "behind the end");
}
