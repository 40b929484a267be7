use proptest::prelude::*;

use super::*;
use crate::data::{Tail, Validation};

fn options(batch: usize, seq: usize, order: Order) -> LoaderOptions {
    LoaderOptions { batch, seq, order, seed: 7, rank: 0, world: 1, vocab_size: 1 << 20 }
}

/// Ids that are their own positions.
fn counted(n: u32) -> Arc<Source> {
    Arc::new(Source::from_ids("ids", (0..n).collect(), n as usize).unwrap())
}

fn take(loader: &mut Loader, batches: usize) -> Vec<Batch> {
    (0..batches).map(|_| loader.next().unwrap().clone()).collect()
}

fn error(source: Arc<Source>, options: LoaderOptions) -> String {
    Loader::new(source, options).err().map(|e| format!("{e:#}")).expect("an error")
}

/// Shards in a folder that is removed at the end.
struct Shards(std::path::PathBuf);

impl Shards {
    fn new(name: &str, shards: &[Vec<u32>]) -> (Shards, Arc<Source>) {
        use wootz_formats::tokens::{TokenFormat, TokenWriter};
        let folder = std::env::temp_dir().join(format!("wootz-loader-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let paths: Vec<_> = (0..shards.len()).map(|i| folder.join(format!("{i}.bin"))).collect();
        for (path, ids) in paths.iter().zip(shards) {
            let mut writer = TokenWriter::create(path, TokenFormat::ShardU16).unwrap();
            writer.push(ids).unwrap();
            writer.finish().unwrap();
        }
        let source = Source::open(&paths).unwrap();
        (Shards(folder), Arc::new(source))
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn sequential_order_is_that_of_llmc() {
    // Shards of 26, 5 and 13 tokens; a step takes 12 and looks at one more.
    let shards = [(0..26).collect(), (100..105).collect(), (200..213).collect()];
    let (_folder, source) = Shards::new("llmc", &shards);
    let mut loader = Loader::new(source, options(3, 4, Order::Sequential)).unwrap();
    assert_eq!(loader.tokens_per_epoch(), 36);
    for epoch in 0..2 {
        for start in [0, 12, 200] {
            let batch = loader.next().unwrap().clone();
            assert_eq!(batch.inputs, (start..start + 12).collect::<Vec<u32>>(), "epoch {epoch}");
            assert_eq!(batch.targets, (start as i32 + 1..start as i32 + 13).collect::<Vec<i32>>());
        }
        assert_eq!(loader.position().epoch, epoch);
    }
}

#[test]
fn parity_llmc_files_hold_the_steps_of_the_trace() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
    let fixtures = std::env::var_os("WOOTZ_FIXTURES").map_or(own.into(), std::path::PathBuf::from);
    let folder = fixtures.join("gpt2-micro/llmc");
    let trace: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("trace.json")).unwrap()).unwrap();
    let size = |name: &str| trace[name].as_u64().unwrap() as usize;
    let (batch, seq, steps) = (size("B"), size("T"), trace["losses"].as_array().unwrap().len());
    let source = Arc::new(Source::open(&[folder.join("train.bin")]).unwrap());
    let options = LoaderOptions { vocab_size: 500, ..options(batch, seq, Order::Sequential) };
    let mut loader = Loader::new(source.clone(), options).unwrap();
    let mut ids = vec![0; batch * seq + 1];
    for step in 0..steps {
        source.read(0, (step * batch * seq) as u64, &mut ids, 500).unwrap();
        let got = loader.next().unwrap();
        assert_eq!(got.inputs, ids[..batch * seq], "step {step}");
        let model = got.as_model();
        assert_eq!((model.tokens.len(), model.lengths), (batch * seq, &vec![seq; batch][..]));
        assert!(got.targets.iter().zip(&ids[1..]).all(|(&a, &b)| a as u32 == b), "step {step}");
    }
    // Three ways to store the same validation tokens.
    let batches = ["val.bin", "val_legacy_int32.bin", "val_uint32.bin"].map(|name| {
        let source = Arc::new(Source::open(&[folder.join(name)]).unwrap());
        let mut validation = Validation::new(source, batch, seq, 500, Tail::Drop).unwrap();
        assert!(validation.batches() >= 10, "{name}");
        (0..10).map(|_| validation.next().unwrap().unwrap().clone()).collect::<Vec<_>>()
    });
    assert!(batches[0] == batches[1] && batches[1] == batches[2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_window_comes_once_an_epoch(n in 10u32..400, batch in 1usize..5, seq in 1usize..9, world in 1usize..4) {
        let windows = (n as usize - 1) / seq;
        // The epochs end in the middle of a batch: all ranks together, over enough steps for two.
        let steps = (2 * windows).div_ceil(batch * world);
        let mut loaders: Vec<Loader> = (0..world)
            .map(|rank| Loader::new(counted(n), LoaderOptions { rank, world, ..options(batch, seq, Order::Shuffled) }).unwrap())
            .collect();
        let mut starts = Vec::new();
        for _ in 0..steps {
            for loader in &mut loaders {
                let batch = loader.next().unwrap();
                for (inputs, targets) in batch.inputs.chunks(seq).zip(batch.targets.chunks(seq)) {
                    prop_assert_eq!(inputs[0] as usize % seq, 0);
                    prop_assert!((inputs[0]..).zip(inputs).all(|(want, &got)| want == got));
                    prop_assert!((inputs[0] as i32 + 1..).zip(targets).all(|(want, &got)| want == got));
                    starts.push(inputs[0] as usize / seq);
                }
            }
        }
        for epoch in starts.chunks_exact(windows).take(2) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            prop_assert_eq!(epoch, (0..windows).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ranks_share_what_one_would_read(n in 200u32..400, world in 1usize..4, sequential: bool) {
        let order = if sequential { Order::Sequential } else { Order::Shuffled };
        let mut whole = Loader::new(counted(n), options(2 * world, 5, order)).unwrap();
        let mut ranks: Vec<Loader> = (0..world)
            .map(|rank| Loader::new(counted(n), LoaderOptions { rank, world, ..options(2, 5, order) }).unwrap())
            .collect();
        for _ in 0..30 {
            let want = whole.next().unwrap().inputs.clone();
            let mut got = Vec::new();
            for loader in &mut ranks {
                got.extend_from_slice(&loader.next().unwrap().inputs);
            }
            prop_assert_eq!(want, got);
        }
    }

    #[test]
    fn a_saved_position_goes_on_as_if_nothing_had_been(n in 60u32..300, before in 0usize..40, sequential: bool) {
        let order = if sequential { Order::Sequential } else { Order::Shuffled };
        let mut straight = Loader::new(counted(n), options(3, 7, order)).unwrap();
        take(&mut straight, before);
        let saved = serde_json::to_string(straight.position()).unwrap();
        let mut resumed =
            Loader::resume(counted(n), options(3, 7, order), &serde_json::from_str(&saved).unwrap()).unwrap();
        prop_assert_eq!(resumed.position(), straight.position());
        prop_assert_eq!(take(&mut straight, 30), take(&mut resumed, 30));
        prop_assert_eq!(resumed.position(), straight.position());
    }
}

#[test]
fn shuffling_visits_all_shards() {
    let (_folder, source) =
        Shards::new("shuffled", &[(0..21).collect(), (100..102).collect(), (200..241).collect()]);
    let mut loader = Loader::new(source, options(3, 5, Order::Shuffled)).unwrap();
    assert_eq!(loader.tokens_per_epoch(), 60);
    let batches = take(&mut loader, 4);
    let mut seen: Vec<u32> = batches.iter().flat_map(|batch| batch.inputs.clone()).collect();
    assert!(!seen.is_sorted());
    seen.sort_unstable();
    assert_eq!(seen, (0..20).chain(200..240).collect::<Vec<_>>());
    assert_eq!((loader.position().epoch, loader.position().index), (0, 12));
}

#[test]
fn seeds_differ() {
    let first = |seed| {
        let options = LoaderOptions { seed, ..options(8, 4, Order::Shuffled) };
        Loader::new(counted(1000), options).unwrap().next().unwrap().clone()
    };
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}

#[test]
fn data_that_do_not_fit_are_explained() {
    let sequential = options(4, 8, Order::Sequential);
    assert!(Loader::new(counted(33), sequential.clone()).is_ok());
    let message = error(counted(32), sequential.clone());
    assert!(
        message.contains("ids: ") && message.contains("32 tokens") && message.contains("takes 33"),
        "{message}"
    );
    let message = error(counted(64), LoaderOptions { world: 2, ..sequential.clone() });
    assert!(message.contains("takes 65"), "{message}");
    let message = error(counted(8), options(4, 8, Order::Shuffled));
    assert!(message.contains("too short") && message.contains("--seq"), "{message}");
    for bad in [
        LoaderOptions { batch: 0, ..sequential.clone() },
        LoaderOptions { seq: 0, ..sequential.clone() },
        LoaderOptions { seq: usize::MAX, ..sequential.clone() },
        LoaderOptions { rank: 1, ..sequential.clone() },
        LoaderOptions { world: usize::MAX, ..sequential.clone() },
        LoaderOptions { vocab_size: 0, ..sequential },
    ] {
        error(counted(1000), bad);
    }
}

#[test]
fn an_id_beyond_the_vocabulary_ends_the_run() {
    let mut ids: Vec<u32> = vec![1; 100];
    ids[30] = 50;
    let (_folder, source) = Shards::new("ids", &[ids]);
    let options = LoaderOptions { vocab_size: 50, ..options(2, 8, Order::Sequential) };
    let mut loader = Loader::new(source, options).unwrap();
    loader.next().unwrap();
    let message = loader.next().unwrap_err().to_string();
    for expected in ["0.bin", "token 30 has the id 50", "a vocabulary of 50"] {
        assert!(message.contains(expected), "{message}");
    }
    assert!(loader.next().unwrap_err().to_string().contains("earlier error"));
}

#[test]
fn a_position_elsewhere_is_refused() {
    let here = options(2, 8, Order::Shuffled);
    let position = Loader::new(counted(200), here.clone()).unwrap().position().clone();
    let refuse = |source, options, position: &Position, expected: &str| {
        let message = Loader::resume(source, options, position).err().expect("an error").to_string();
        assert!(message.contains(expected), "{message}");
    };
    refuse(counted(201), here.clone(), &position, "not the same data");
    refuse(counted(200), LoaderOptions { seq: 4, ..here.clone() }, &position, "8 tokens");
    refuse(counted(200), LoaderOptions { order: Order::Sequential, ..here.clone() }, &position, "Shuffled");
    refuse(counted(200), LoaderOptions { seed: 8, ..here.clone() }, &position, "seed 7");
    refuse(counted(200), here, &Position { index: 9999, ..position }, "9999");
}
