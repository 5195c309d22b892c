//! orlop beside `git http-backend`, on one repository in one run.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    client::{self, Fetched, Want},
    fill::millis,
    process::{Memory, cpu},
};

/// A server under measurement. If it was started for that, it ends with this.
struct Server {
    name: &'static str,
    pid: u32,
    child: Option<Child>,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// An orlop that runs already, over a copy of the repository in WORK.
#[derive(clap::Args)]
pub(crate) struct Running {
    /// Measures this git index, `http://127.0.0.1:8080/git/index`, and not the library.
    #[arg(long, requires = "pid")]
    url: Option<String>,
    /// The process that serves it.
    #[arg(long, requires = "url")]
    pid: Option<u32>,
}

impl Server {
    /// This program with other arguments.
    fn start(name: &'static str, command: &str, dir: &Path, path: &str) -> anyhow::Result<Server> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([command.as_ref(), dir.as_os_str()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let base = line.trim().strip_prefix("listening on ");
        let url = format!("{}/{path}", base.context("it does not listen")?);
        Ok(Server {
            name,
            pid: child.id(),
            child: Some(child),
            url,
        })
    }

    /// The same fetch some times over: the middle of the times, the mean of the processor time.
    fn measure(&self, want: &Want, times: u32) -> anyhow::Result<(Fetched, Duration)> {
        let before = cpu(self.pid)?;
        let mut all = Vec::new();
        for _ in 0..times {
            all.push(client::fetch(&self.url, want).context(self.name)?);
        }
        // What the server does after the last byte belongs to it, too.
        std::thread::sleep(Duration::from_millis(50));
        let spent = cpu(self.pid)?.saturating_sub(before) / times;
        all.sort_unstable_by_key(|fetched| fetched.first);
        Ok((all[all.len() / 2], spent))
    }
}

/// Imports into `work/index`, copies it, packs the copy as git does best, and fetches from both.
pub(crate) fn run(
    work: &Path,
    arguments: &[String],
    times: u32,
    running: Running,
) -> anyhow::Result<()> {
    let ours = work.join("index");
    if !ours.exists() {
        fs::create_dir_all(work)?;
        let import = Command::new(std::env::current_exe()?)
            .args(["import".as_ref(), ours.as_os_str()])
            .args(arguments)
            .status()?;
        ensure!(import.success(), "the import failed");
    }
    let theirs = repacked(work, &ours)?;
    let id = |revision: &str| git(&theirs, &["rev-parse", revision]);
    let head = id("HEAD")?;
    let clone = Want {
        commit: head,
        ..Want::default()
    };
    let fetch = Want {
        have: Some(id("HEAD~5")?),
        ..clone.clone()
    };
    let shallow = Want {
        depth: Some(1),
        ..clone.clone()
    };
    let servers = (
        match (running.url, running.pid) {
            (Some(url), Some(pid)) => Server {
                name: "orlop",
                pid,
                child: None,
                url,
            },
            _ => Server::start("orlop", "serve", &ours, "index")?,
        },
        Server::start("git", "http-backend", work, "repacked.git")?,
    );
    for (what, want) in [
        ("clone", &clone),
        ("fetch of 5 generations", &fetch),
        ("clone --depth 1", &shallow),
    ] {
        println!("\n{what}");
        let (ours, our_cpu) = servers.0.measure(want, times)?;
        let (theirs, their_cpu) = servers.1.measure(want, times.min(3))?;
        let row = |name, fetched: &Fetched, cpu| {
            println!(
                "  {name:6} first byte {:8.1} ms  whole {:8.0} ms  processor {:8.0} ms  {:11} bytes  {:7} objects",
                millis(fetched.first),
                millis(fetched.whole),
                millis(cpu),
                fetched.bytes,
                fetched.objects
            );
        };
        row("orlop", &ours, our_cpu);
        row("git", &theirs, their_cpu);
        let ratio = |a: Duration, b: Duration| b.as_secs_f64() / a.as_secs_f64().max(1e-6);
        println!(
            "  better by: first byte {:.1}x, processor {}{:.1}x; bytes sent: {:.3}x",
            ratio(ours.first, theirs.first),
            if our_cpu.is_zero() { "more than " } else { "" },
            ratio(our_cpu.max(Duration::from_millis(10) / times), their_cpu),
            per(ours.bytes, theirs.bytes),
        );
    }
    let memory = Memory::of(servers.0.pid)?;
    println!(
        "\nmemory of orlop's server: {} MiB at most, {} MiB now",
        memory.peak_mib, memory.now_mib
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn per(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// A copy as `git` serves it best.
fn repacked(work: &Path, ours: &Path) -> anyhow::Result<PathBuf> {
    let theirs = work.join("repacked.git");
    if theirs.exists() {
        return Ok(theirs);
    }
    let start = Instant::now();
    let making = work.join("repacked.new");
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    let (from, to) = (ours.to_string_lossy(), making.to_string_lossy());
    git(
        work,
        &["clone", "--quiet", "--bare", "--no-hardlinks", &from, &to],
    )?;
    git(&making, &["repack", "-adbq", "--write-bitmap-index"])?;
    fs::rename(&making, &theirs)?;
    println!(
        "copied and repacked by git in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    Ok(theirs)
}

fn git(dir: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "git {arguments:?} failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
