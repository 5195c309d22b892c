//! The git index at its real size: a synthetic index, and how orlop serves it beside git.
//!
//! ```text
//! cargo bench --bench git -- stats                    what the index is like
//! cargo bench --bench git -- files DIR                the index as files
//! cargo bench --bench git -- fast-import | git -C REPO fast-import
//! cargo bench --bench git -- import DIR               the index in a repository of orlop's
//! cargo bench --bench git -- compare WORK             orlop beside `git http-backend`
//! cargo bench --bench git -- history DIR --names 20000 --generations 20000 --changes 5
//! ```
//!
//! `compare` makes what is missing in WORK and measures on what is there; a small one is
//! `compare WORK --names 5000 --generations 20`. Each takes `--names N --seed S --generations G --changes C`. Without a command nothing is done.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

mod client;
mod compare;
mod fill;
mod index;
mod process;
mod server;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufWriter, Read as _, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};

use self::index::{File, Index};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Prints what the index is like.
    Stats {
        #[command(flatten)]
        size: Size,
    },
    /// Writes the index of the last generation into a folder.
    Files {
        dir: PathBuf,
        #[command(flatten)]
        size: Size,
    },
    /// Commits every generation to a repository of orlop's, and tells what it takes.
    Import {
        dir: PathBuf,
        #[command(flatten)]
        size: Size,
    },
    /// The same with a table of how it goes on, for many small generations.
    History {
        dir: PathBuf,
        #[command(flatten)]
        size: Size,
    },
    /// Fetches from orlop and from `git http-backend`, and compares.
    Compare {
        work: PathBuf,
        /// How often each fetch is made.
        #[arg(long, default_value_t = 5)]
        times: u32,
        #[arg(long, default_value_t = 50)]
        generations: u64,
        #[arg(long, default_value_t = index::NAMES)]
        names: usize,
        #[command(flatten)]
        running: compare::Running,
    },
    /// Serves a repository of orlop's.
    Serve { dir: PathBuf },
    /// Serves the repositories in a folder with `git http-backend`.
    HttpBackend { dir: PathBuf },
    /// Writes every generation as a commit to stdout, for `git fast-import`.
    FastImport {
        #[command(flatten)]
        size: Size,
    },
}

/// Which index.
#[derive(Args, Clone, Copy)]
struct Size {
    /// Names in the first generation.
    #[arg(long, default_value_t = index::NAMES)]
    names: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Generations, the first among them.
    #[arg(long, default_value_t = 1)]
    generations: u64,
    /// Names that change from a generation to the next.
    #[arg(long, default_value_t = 300)]
    changes: usize,
}

impl Size {
    fn first(self) -> Index {
        Index::new(self.names, self.seed)
    }

    fn last(self) -> Index {
        let mut index = self.first();
        while index.generation() < self.generations {
            index.advance(self.changes);
        }
        index
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        None => Ok(()),
        Some(Command::Stats { size }) => stats(&size.last()),
        Some(Command::Files { dir, size }) => files(&size.last(), &dir),
        Some(Command::Import { dir, size }) => fill::import(&dir, size),
        Some(Command::History { dir, size }) => fill::history(&dir, size),
        Some(Command::Compare {
            work,
            times,
            generations,
            names,
            running,
        }) => {
            let arguments = [
                "--generations".into(),
                generations.to_string(),
                "--names".into(),
                names.to_string(),
            ];
            compare::run(&work, &arguments, times, running)
        }
        Some(Command::Serve { dir }) => server::orlop(&dir),
        Some(Command::HttpBackend { dir }) => server::http_backend(&dir),
        Some(Command::FastImport { size }) => fast_import(size, &mut BufWriter::new(io::stdout())),
    }
}

fn files(index: &Index, dir: &Path) -> anyhow::Result<()> {
    for (path, bytes) in index.files() {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        fs::write(path, bytes)?;
    }
    Ok(())
}

fn fast_import(size: Size, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut index = size.first();
    let config = (
        "config.json".to_owned(),
        br#"{"dl":"http://127.0.0.1:1/dl"}"#.to_vec(),
    );
    let first = std::iter::once(config).chain(index.files());
    write_commit(out, index.generation(), first)?;
    while index.generation() < size.generations {
        let changed = index.advance(size.changes);
        write_commit(out, index.generation(), changed)?;
    }
    writeln!(out, "done")?;
    Ok(out.flush()?)
}

/// One commit in the format of git-fast-import.
fn write_commit(
    out: &mut dyn Write,
    generation: u64,
    files: impl IntoIterator<Item = File>,
) -> io::Result<()> {
    let message = format!("generation {generation}: made up");
    writeln!(out, "commit refs/heads/master")?;
    writeln!(
        out,
        "committer orlop <orlop@localhost> {} +0000",
        1_790_000_000 + generation * 60
    )?;
    writeln!(out, "data {}\n{message}", message.len())?;
    for (path, bytes) in files {
        writeln!(out, "M 100644 inline {path}\ndata {}", bytes.len())?;
        out.write_all(&bytes)?;
        writeln!(out)?;
    }
    writeln!(out)
}

fn stats(index: &Index) -> anyhow::Result<()> {
    let mut folders = BTreeSet::new();
    let mut columns: [(&str, Vec<usize>); 4] = [
        ("bytes", vec![]),
        ("deflated", vec![]),
        ("versions", vec![]),
        ("line", vec![]),
    ];
    for (path, bytes) in index.files() {
        let mut packed = Vec::new();
        flate2::read::ZlibEncoder::new(&*bytes, flate2::Compression::new(6))
            .read_to_end(&mut packed)?;
        columns[0].1.push(bytes.len());
        columns[1].1.push(packed.len());
        columns[2]
            .1
            .push(bytes.split(|&byte| byte == b'\n').count() - 1);
        columns[3].1.extend(
            bytes
                .split(|&byte| byte == b'\n')
                .map(<[u8]>::len)
                .filter(|&len| len > 0),
        );
        folders.extend(Path::new(&path).ancestors().skip(1).map(Path::to_owned));
    }
    println!("names {}, folders {}", columns[0].1.len(), folders.len());
    for (what, values) in &mut columns {
        values.sort_unstable();
        let at = |share: usize| values[(values.len() - 1) * share / 1000];
        let sum: usize = values.iter().sum();
        println!(
            "{what:9} sum {sum:11}  mean {:6}  p10 {:6}  p50 {:6}  p90 {:6}  p99 {:7}  p99.9 {:7}  max {:8}",
            sum / values.len(),
            at(100),
            at(500),
            at(900),
            at(990),
            at(999),
            at(1000)
        );
    }
    Ok(())
}
