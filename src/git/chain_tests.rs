//! The promises of the catalogue and of the streams, on small histories; git is the judge.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::git::{
    serve::{Selection, Wishes},
    testing::{Model, Objects, bare, git, receive, set_head},
};

const ALL: Wishes = Wishes {
    ofs_delta: true,
    thin_pack: true,
};

fn clone() -> Selection {
    Selection::History { have: None }
}

/// A repository with a history: `generations` of changes to a few files that grow, one that goes
/// and comes back.
struct World {
    _dir: tempfile::TempDir,
    repository: PathBuf,
    model: Model,
    chain: Chain,
}

impl World {
    fn empty() -> World {
        let (dir, repository) = bare();
        let (chain, left) = Chain::open(&repository, None).unwrap();
        assert!(left.is_empty());
        World {
            _dir: dir,
            repository,
            model: Model::default(),
            chain,
        }
    }

    fn with(generations: u64) -> World {
        let mut world = World::empty();
        for number in 0..generations {
            world.step(number);
        }
        world
    }

    fn step(&mut self, number: u64) {
        let name = [
            "1/a",
            "2/bc",
            "se/rd/serde",
            "se/rd/serde_json",
            "to/ki/tokio",
        ][(number % 5) as usize];
        let line = format!(
            "{{\"name\":\"x\",\"vers\":\"{number}\",\"cksum\":\"{:x}\"}}\n",
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        );
        let mut bytes = self.model.files.get(name).cloned().unwrap_or_default();
        bytes.extend_from_slice(line.as_bytes());
        let yank = (number.is_multiple_of(3)).then_some(&b"yanked\n"[..]);
        self.commit(&[
            (name, Some(&bytes)),
            ("se/rd/back", yank),
            ("config.json", Some(b"{}")),
        ]);
    }

    fn commit(&mut self, changes: &[(&str, Option<&[u8]>)]) {
        let new = self.model.commit(&self.chain.folder(), changes);
        let head = new.head;
        self.chain.append(new).unwrap();
        set_head(&self.repository, head);
        self.chain.publish(head);
    }

    fn reopen(&mut self) -> Vec<PathBuf> {
        let (chain, left) = Chain::open(&self.repository, Some(self.model.head().id)).unwrap();
        self.chain = chain;
        left
    }

    /// Every kind of stream gives its client the head and nothing that it may refuse.
    fn check(&self) {
        let head = self.model.head();
        let serving = self.chain.serving();
        assert_eq!(serving.head(), Some(head));
        let root = serving.oldest().unwrap();
        for wishes in [
            ALL,
            Wishes {
                ofs_delta: true,
                thin_pack: false,
            },
            Wishes {
                ofs_delta: false,
                thin_pack: true,
            },
            Wishes::default(),
        ] {
            for have in (root..=head.generation).map(Some).chain([None]) {
                let before = have
                    .map(|have| self.model.all_up_to(have))
                    .unwrap_or_default();
                self.check_one(&Selection::History { have }, wishes, before);
            }
            for oldest in root..=head.generation {
                for have in [
                    vec![],
                    vec![root],
                    vec![oldest],
                    vec![head.generation],
                    vec![root, head.generation.saturating_sub(1)],
                ] {
                    let before = self.model.all_of(&have);
                    self.check_one(&Selection::Shallow { oldest, have }, wishes, before);
                }
            }
        }
    }

    fn check_one(&self, selection: &Selection, wishes: Wishes, had: Objects) {
        let stream = self.chain.serving().pack(selection, wishes).unwrap();
        let (has, got) = receive(had, stream);
        let from = match selection {
            Selection::History { .. } => 0,
            Selection::Shallow { oldest, .. } => *oldest,
        };
        for (head, all) in &self.model.heads {
            if head.generation >= from {
                let missing: BTreeSet<_> = all.iter().filter(|id| !has.contains_key(*id)).collect();
                assert!(
                    missing.is_empty(),
                    "{selection:?} {wishes:?} lacks {missing:?} of {}",
                    head.generation
                );
            }
        }
        assert!(wishes.thin_pack || got.references.is_empty());
        // git asks for all that the trees name that it gets.
        for (kind, bytes) in got.sent.iter().map(|id| &has[id]) {
            let mut rest = if *kind == Kind::Tree { &bytes[..] } else { &[] };
            while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
                let id = ObjectId::from_bytes_or_panic(&rest[zero + 1..][..20]);
                assert!(
                    has.contains_key(&id),
                    "{selection:?} {wishes:?}: a tree names {id}"
                );
                rest = &rest[zero + 21..];
            }
        }
    }

    fn pack_count(&self) -> usize {
        fs::read_dir(self.chain.folder())
            .unwrap()
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .path()
                    .extension()
                    .is_some_and(|end| end == "pack")
            })
            .count()
    }
}

#[test]
fn an_empty_chain_serves_an_empty_pack() {
    let world = World::empty();
    let serving = world.chain.serving();
    assert_eq!((serving.head(), serving.oldest()), (None, None));
    let (has, got) = receive(Objects::default(), serving.pack(&clone(), ALL).unwrap());
    assert!(has.is_empty() && got.sent.is_empty());
}

#[test]
fn every_client_gets_the_head_whatever_it_has() {
    let world = World::with(12);
    world.check();
    let serving = world.chain.serving();
    for (head, _) in &world.model.heads {
        assert_eq!(serving.generation_of(&head.id), Some(head.generation));
        assert_eq!(serving.commit_of(head.generation), Some(head.id));
    }
    assert_eq!(serving.commit_of(99), None);
}

#[test]
fn git_takes_a_clone_and_an_update() {
    let world = World::with(9);
    let (_dir, client) = bare();
    let old = world.model.heads[3].0;
    let serving = world.chain.serving();
    let (_, got) = receive(Objects::default(), serving.pack(&clone(), ALL).unwrap());
    git(&client, &["index-pack", "--stdin", "--strict"], &got.bytes);
    set_head(&client, world.model.head());
    git(&client, &["fsck", "--full", "--strict"], b"");

    let (_dir, client) = bare();
    let had = world.model.all_up_to(old.generation);
    let mut objects: Vec<_> = had
        .iter()
        .map(|(id, (kind, bytes))| (*id, *kind, bytes.clone()))
        .collect();
    objects.sort_by_key(|(id, ..)| *id);
    crate::git::testing::write_pack(&client.join("objects/pack"), &objects);
    let (_, got) = receive(
        had,
        serving
            .pack(
                &Selection::History {
                    have: Some(old.generation),
                },
                ALL,
            )
            .unwrap(),
    );
    git(
        &client,
        &["index-pack", "--stdin", "--fix-thin", "--strict"],
        &got.bytes,
    );
    set_head(&client, world.model.head());
    git(&client, &["fsck", "--full", "--strict"], b"");
}

#[test]
fn packs_stay_few_and_whole_while_generations_come() {
    let mut world = World::empty();
    let mut written = 0;
    for number in 0..150 {
        world.step(number);
        written += world.chain.tidy().unwrap().written_bytes;
        assert!(world.pack_count() <= 22, "{}", world.pack_count());
    }
    assert!(written > 0);
    git(&world.repository, &["fsck", "--full", "--strict"], b"");
    let serving = world.chain.serving();
    let have = world.model.heads[20].0.generation;
    let (_, got) = receive(
        world.model.all_up_to(have),
        serving
            .pack(&Selection::History { have: Some(have) }, ALL)
            .unwrap(),
    );
    let new = world.model.all_up_to(999).len() - world.model.all_up_to(have).len();
    assert_eq!(
        got.sent.len(),
        new,
        "an update is exact, also from within a merged pack"
    );
    world.check_one(&clone(), ALL, Objects::default());
    assert_eq!(world.reopen(), Vec::<PathBuf>::new());
    world.check_one(&clone(), ALL, Objects::default());
}

#[test]
fn a_stream_goes_on_while_its_packs_are_merged_away() {
    use std::io::Read;
    let mut world = World::with(9);
    let wishes = Wishes::default();
    let serving = world.chain.serving();
    let mut stream = serving.pack(&clone(), wishes).unwrap();
    let mut start = [0; 40];
    stream.read_exact(&mut start).unwrap();
    assert!(!world.chain.tidy().unwrap().removed.is_empty());
    for number in 9..20 {
        world.step(number);
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    let (_, got) = receive(Objects::default(), serving.pack(&clone(), wishes).unwrap());
    assert_eq!(got.bytes[40..], rest);
}

#[test]
fn what_is_missing_or_damaged_beside_the_packs_is_made_anew() {
    for (file, damage) in [
        ("generations", None),
        ("generations", Some(60)),
        ("entries", None),
        ("entries", Some(100)),
        ("wire", None),
        ("wire", Some(70)),
        ("generations", Some(700)),
    ] {
        let mut world = World::with(20);
        world.chain.tidy().unwrap();
        let path = world.repository.join("orlop").join(file);
        match damage {
            None => fs::remove_file(&path).unwrap(),
            Some(length) => fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(length)
                .unwrap(),
        }
        assert_eq!(world.reopen(), Vec::<PathBuf>::new(), "{file} {damage:?}");
        for have in [None, Some(10), Some(20), Some(25)] {
            let had = have
                .map(|have| world.model.all_up_to(have))
                .unwrap_or_default();
            world.check_one(&Selection::History { have }, ALL, had);
        }
        world.step(20);
        world.check_one(&clone(), ALL, Objects::default());
    }
}

fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Makes the checksums right for a `wire` whose last block was changed.
fn forge_sums(side: &Path, base_end: u64) {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let wire = fs::read(side.join("wire")).unwrap();
    let mut blocks = fs::read(side.join("blocks")).unwrap();
    let last = blocks.len() - 12;
    let start = usize::try_from(number(&blocks[last - 12..last - 4]) - base_end).unwrap();
    let sum = crc32fast::hash(&wire[start..]);
    blocks[last + 8..].copy_from_slice(&sum.to_le_bytes());
    let mut known = fs::read(side.join("generations")).unwrap();
    let record = known.len() - 64;
    let sum = crc32fast::hash(&blocks[last..]);
    known[record + 36..record + 40].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32fast::hash(&known[record..record + 60]);
    known[record + 60..].copy_from_slice(&sum.to_le_bytes());
    fs::write(side.join("blocks"), blocks).unwrap();
    fs::write(side.join("generations"), known).unwrap();
}

#[test]
fn a_merge_copies_no_damage() {
    for forged in [false, true] {
        let mut world = World::with(9);
        let side = world.repository.join("orlop");
        let wire = side.join("wire");
        let length = usize::try_from(fs::metadata(&wire).unwrap().len()).unwrap();
        flip(&wire, length - 30);
        let base_end = world.chain.state.lock().members[0].pack.end();
        if forged {
            forge_sums(&side, base_end);
        }
        assert!(world.reopen().is_empty());
        assert_eq!(world.pack_count(), 9);
        let error = world.chain.tidy().unwrap_err();
        assert!(error.is_damage(), "{error}");
        assert!(world.chain.damage().is_some());
        assert_eq!(world.pack_count(), 9);
        git(&world.repository, &["fsck", "--full", "--strict"], b"");
        // As it is mended.
        Log::discard(&world.repository).unwrap();
        assert!(world.reopen().is_empty());
        assert_eq!(world.chain.tidy().unwrap().removed.len(), 8);
        git(&world.repository, &["fsck", "--full", "--strict"], b"");
        world.check_one(&clone(), ALL, Objects::default());
    }
}

#[test]
fn a_pack_with_a_damaged_entry_is_not_taken_in() {
    let mut world = World::with(3);
    let new = world
        .model
        .commit(&world.chain.folder(), &[("1/b", Some(b"new"))]);
    let length = fs::metadata(&new.path).unwrap().len();
    flip(&new.path, usize::try_from(length).unwrap() - 30);
    let error = world.chain.append(new).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn no_more_deltas_in_a_row_than_git_makes() {
    let mut world = World::empty();
    let mut text = String::new();
    for number in 0..60_u64 {
        let sum = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text = format!("{text}{sum:x}\n");
        world.commit(&[("1/a", Some(text.as_bytes()))]);
    }
    let state = world.chain.state.lock();
    let log = state.log.as_ref().unwrap();
    let records = log.files().read_records(0..log.end().entry).unwrap();
    let deepest = records.iter().map(|record| record.depth).max();
    assert_eq!(deepest, Some(DEPTH_MAX));
}

#[test]
fn a_stream_goes_on_while_the_run_is_made_anew() {
    let mut world = World::with(20);
    let serving = world.chain.serving();
    let stream = serving.pack(&clone(), ALL).unwrap();
    let path = world.repository.join("orlop/generations");
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(20)
        .unwrap();
    assert!(world.reopen().is_empty());
    let (_, got) = receive(Objects::default(), stream);
    assert!(got.deltas > 0);
}

#[test]
fn a_shallow_client_is_sent_nothing_that_it_has() {
    let world = World::with(40);
    let newest = world.model.head().generation;
    let selection = Selection::Shallow {
        oldest: newest,
        have: vec![newest - 1],
    };
    let had = world.model.all_of(&[newest - 1]);
    let stream = world.chain.serving().pack(&selection, ALL).unwrap();
    let (_, got) = receive(had.clone(), stream);
    assert!(!got.references.is_empty(), "a file as a delta");
    let twice: Vec<_> = got.sent.iter().filter(|id| had.contains_key(*id)).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn a_pack_that_no_commit_needs_is_named() {
    let mut world = World::with(3);
    let head = world.model.head();
    let new = world
        .model
        .commit(&world.chain.folder(), &[("1/b", Some(b"new"))]);
    world.chain.append(new.clone()).unwrap();
    // The crash comes before the ref.
    world.model.heads.pop();
    let (chain, left) = Chain::open(&world.repository, Some(head.id)).unwrap();
    assert_eq!(left, [new.path]);
    world.chain = chain;
    world.check_one(&clone(), ALL, Objects::default());
}

#[test]
fn a_generation_that_was_not_published_is_forgotten_by_the_next() {
    let mut world = World::with(3);
    let new = world
        .model
        .commit(&world.chain.folder(), &[("1/b", Some(b"new"))]);
    world.chain.append(new).unwrap();
    assert_eq!(world.chain.serving().head().unwrap().generation, 9);
    world.model.heads.pop();
    world.model.writes_again = true;
    world.commit(&[("1/b", Some(b"other"))]);
    world.check();
}

#[test]
fn packs_that_a_merge_replaced_and_a_crash_left_are_named() {
    let mut world = World::with(9);
    let kept: Vec<_> = fs::read_dir(world.chain.folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    let removed = world.chain.tidy().unwrap().removed;
    assert_eq!(removed.len(), 8);
    for (bytes, path) in kept {
        fs::write(path, bytes).unwrap();
    }
    let left: BTreeSet<_> = world.reopen().into_iter().collect();
    assert_eq!(left, removed.into_iter().collect());
    world.check_one(&clone(), ALL, Objects::default());
}

#[test]
fn a_repository_that_git_repacked_is_served() {
    let mut world = World::with(12);
    git(&world.repository, &["repack", "-adfq"], b"");
    assert!(world.reopen().is_empty());
    world.check();
    world.step(12);
    world.check();
}

#[test]
fn what_changed_a_little_is_sent_as_a_delta() {
    let world = World::with(40);
    let serving = world.chain.serving();
    let (_, got) = receive(Objects::default(), serving.pack(&clone(), ALL).unwrap());
    assert!(got.deltas > 60, "{}", got.deltas);
    let had = world.model.all_up_to(40);
    let (_, thin) = receive(
        had.clone(),
        serving
            .pack(&Selection::History { have: Some(40) }, ALL)
            .unwrap(),
    );
    assert!(thin.references.len() > 3, "{}", thin.references.len());
    let thick = Wishes {
        thin_pack: false,
        ..ALL
    };
    let (_, whole) = receive(
        had,
        serving
            .pack(&Selection::History { have: Some(40) }, thick)
            .unwrap(),
    );
    assert!(whole.references.is_empty() && whole.bytes.len() > thin.bytes.len());
    // The older objects come along instead: nothing is compressed for it.
    assert!(thin.sent.is_subset(&whole.sent) && whole.sent.len() > thin.sent.len());
    assert!(whole.deltas >= thin.deltas, "{}", whole.deltas);
    // Merged packs have them too, and git can read those.
    world.chain.tidy().unwrap();
    let text = git(&world.repository, &["count-objects", "-v"], b"");
    assert!(text.contains("garbage: 0"), "{text}");
    git(&world.repository, &["fsck", "--full", "--strict"], b"");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_history_reaches_any_client(
        writes_again in any::<bool>(),
        generations in proptest::collection::vec(
            (proptest::collection::vec((0..7_usize, proptest::option::weighted(0.8, 0..4_u8)), 0..4), any::<bool>()),
            1..14,
        ),
    ) {
        let mut world = World::empty();
        world.model.writes_again = writes_again;
        let names = ["config.json", "1/a", "1/b", "ab/cd/abcd", "ab/cd/abce", "ab/ce/abcef", "3/a/abc"];
        for (changes, tidy) in generations {
            let contents: Vec<_> = changes.iter().map(|(name, what)| {
                let bytes = what.map(|what| format!("{name} {}", "line\n".repeat(usize::from(what) * 30)).into_bytes());
                (names[*name], bytes)
            }).collect();
            let changes: Vec<_> = contents.iter().map(|(name, bytes)| (*name, bytes.as_deref())).collect();
            world.commit(&changes);
            if tidy {
                world.chain.tidy().unwrap();
            }
        }
        world.check();
        world.reopen();
        world.check_one(&clone(), ALL, Objects::default());
    }
}
