//! The index committed to a repository of orlop's, and what that takes.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use orlop::git::{self, Commit, FileChange, Options, Repo};

use super::{
    Size,
    index::{File, Index},
    process::Memory,
};

/// Imports the first generation and commits the others, one by one, and prints what it took.
pub(crate) fn import(dir: &Path, size: Size) -> anyhow::Result<()> {
    let mut index = size.first();
    let (repo, _report) = open(dir)?;
    let before = Memory::reset_peak()?;
    let start = Instant::now();
    let mut making = Duration::ZERO;
    let config = (
        "config.json".to_owned(),
        br#"{"dl":"http://127.0.0.1:1/dl"}"#.to_vec(),
    );
    let mut made = index.files();
    let first = std::iter::once(config).chain(std::iter::from_fn(|| {
        let start = Instant::now();
        let file = made.next();
        making += start.elapsed();
        file
    }));
    commit(&repo, 1, first)?;
    let took = start.elapsed().saturating_sub(making);
    let memory = Memory::of_this()?;
    println!(
        "import of {} names: {:.1} s (without {:.1} s of making them), memory {} MiB at most, \
         {before} MiB of it the generator's",
        size.names,
        took.as_secs_f64(),
        making.as_secs_f64(),
        memory.peak_mib,
    );
    drop(made);
    if size.generations > 1 {
        commits(&repo, &mut index, size)?;
    }
    println!(
        "repository: {} MiB in {} packs",
        repo.size_bytes() >> 20,
        packs(dir)?
    );
    Ok(())
}

fn commits(repo: &Repo, index: &mut Index, size: Size) -> anyhow::Result<()> {
    let before = Memory::reset_peak()?;
    let mut times = Vec::new();
    while index.generation() < size.generations {
        let changed = index.advance(size.changes);
        let start = Instant::now();
        commit(repo, index.generation(), changed)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!(
        "commit of {} names, {} times: {:.0} ms in the middle, {:.0} ms at most; memory {} MiB at \
         most ({before} MiB before)",
        size.changes,
        times.len(),
        millis(times[times.len() / 2]),
        millis(times[times.len() - 1]),
        Memory::of_this()?.peak_mib,
    );
    Ok(())
}

/// Many small generations: what grows, and what stays as it is.
pub(crate) fn history(dir: &Path, size: Size) -> anyhow::Result<()> {
    let mut index = size.first();
    let (repo, _report) = open(dir)?;
    commit(&repo, 1, index.files())?;
    println!(
        "{:>11} {:>6} {:>9} {:>12} {:>12} {:>9}",
        "generation", "packs", "MiB", "commit p50", "commit max", "peak MiB"
    );
    let (mut times, mut most_packs) = (Vec::new(), 0);
    let report_every = (size.generations / 20).max(1);
    while index.generation() < size.generations {
        let changed = index.advance(size.changes);
        let start = Instant::now();
        commit(&repo, index.generation(), changed)?;
        times.push(start.elapsed());
        if index.generation().is_multiple_of(16) {
            most_packs = most_packs.max(packs(dir)?);
        }
        if index.generation().is_multiple_of(report_every) {
            times.sort_unstable();
            println!(
                "{:>11} {:>6} {:>9} {:>9.1} ms {:>9.1} ms {:>9}",
                index.generation(),
                packs(dir)?,
                repo.size_bytes() >> 20,
                millis(times[times.len() / 2]),
                millis(times[times.len() - 1]),
                Memory::of_this()?.peak_mib,
            );
            times.clear();
        }
    }
    println!("packs at most (seen after every 16th commit): {most_packs}");
    drop(repo);
    let start = Instant::now();
    let (repo, report) = open(dir)?;
    println!(
        "opened again in {:.1} ms: {report:?}",
        millis(start.elapsed())
    );
    for have in [None, Some(size.generations.saturating_sub(5))] {
        let stream = super::client::read_pack(&repo, have)?;
        println!(
            "pack for a client that has {have:?}: first byte {:.2} ms, whole {:.0} ms, {} bytes, {} objects",
            millis(stream.first),
            millis(stream.whole),
            stream.bytes,
            stream.objects
        );
    }
    Ok(())
}

pub(crate) fn open(dir: &Path) -> anyhow::Result<(Repo, git::OpenReport)> {
    Repo::open(Options {
        dir: dir.to_owned(),
    })
    .context("the repository")
}

fn commit(
    repo: &Repo,
    generation: u64,
    files: impl IntoIterator<Item = File>,
) -> anyhow::Result<()> {
    let mut changes = files.into_iter().map(|(path, bytes)| FileChange {
        path,
        bytes: Some(bytes.into()),
    });
    let facts = Commit {
        generation,
        change: 0,
        time: time_of(generation),
        message: "made up".into(),
    };
    repo.commit(&mut changes, || Ok::<_, git::Error>(facts))?;
    Ok(())
}

/// When a generation was cut: a minute after the one before.
pub(crate) fn time_of(generation: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000 + generation * 60)
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn packs(dir: &Path) -> anyhow::Result<usize> {
    let entries = std::fs::read_dir(dir.join("objects/pack"))?;
    let is_pack = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|kind| kind == "pack"))
    };
    Ok(entries.map(is_pack).filter(|is_pack| *is_pack).count())
}
