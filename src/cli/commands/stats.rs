//! `orlop stats`: the mirror in numbers.

use std::{
    cmp::Ordering,
    io::{self, Write},
    time::Duration,
};

use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::{
    sync::SetRun,
    upkeep::{Ended, StatsReport, StatsRequest, UpstreamHost},
};
use crate::util::format::{exact_span, plural, size, time};

/// The mirror in numbers. The exit code is 1 if failures are recorded or the store takes no writes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop stats
  orlop stats --json | jq .failures

Exit codes: 0 well; 1 failures are recorded, the last verify found damage, or the
store takes no writes; 2 usage; 3 unavailable.")]
pub struct StatsArgs {
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

impl StatsArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let request = StatsRequest::default();
        job::run(&self.job, request, Vec::new(), out, |report, out| {
            print(report, out)
        })
    }
}

fn print(report: &StatsReport, out: &mut dyn Write) -> io::Result<()> {
    for (what, text) in lines(report) {
        writeln!(out, "{what:12}{text}")?;
    }
    for failure in &report.first_failures {
        writeln!(
            out,
            "  {}: {} ({}, last {})",
            failure.what,
            failure.cause,
            plural(failure.count, "time"),
            time(failure.last),
        )?;
    }
    let listed = u64::try_from(report.first_failures.len()).unwrap_or(u64::MAX);
    if report.failures > listed {
        writeln!(out, "  and {} more", report.failures - listed)?;
    }
    Ok(())
}

/// A line of the report: what it is about, and what there is to say.
type StatsLine = (&'static str, String);

fn lines(report: &StatsReport) -> Vec<StatsLine> {
    let mut lines = store_lines(report);
    lines.extend(git_lines(report));
    for set in &report.sets {
        let (saved, run) = (time(set.saved), set_run(&set.run));
        lines.push(("set", format!("{}, saved {saved}, {run}", set.name)));
    }
    lines.push(("pins", report.pins.to_string()));
    lines.extend(job_lines(report));
    if let Some(verified) = &report.verified {
        let (files, at) = (plural(verified.problems, "bad file"), time(verified.at));
        let next = if verified.problems > 0 {
            "; `orlop verify --repair` fetches them again"
        } else {
            ""
        };
        lines.push(("verified", format!("{at}: {files}{next}")));
    }
    lines.push(("failures", report.failures.to_string()));
    lines
}

fn store_lines(report: &StatsReport) -> Vec<StatsLine> {
    vec![
        (
            "orlop",
            format!(
                "{}, mode {}, up for {}",
                report.version,
                report.mode,
                exact_span(Duration::from_secs(report.uptime))
            ),
        ),
        (
            "index",
            format!(
                "{} with {}, {} held",
                plural(report.names, "crate"),
                plural(report.versions, "version"),
                report.held
            ),
        ),
        (
            "held",
            format!(
                "{}, {}{}",
                plural(report.blobs, "crate file"),
                size(report.blob_bytes),
                unlike(report)
            ),
        ),
        ("disk", disk(report)),
        ("upstream", report.upstream.clone()),
        ("  index", host(&report.index)),
        ("  downloads", host(&report.downloads)),
    ]
}

fn git_lines(report: &StatsReport) -> Vec<StatsLine> {
    let mut lines = Vec::new();
    if let Some(follow) = &report.follow {
        let at = follow.at.map_or_else(|| "never".to_owned(), time);
        let commit = follow.commit.as_deref().unwrap_or("no commit yet");
        lines.push(("followed", format!("{commit}, last {at}")));
    }
    if let Some(git) = &report.git {
        let head = match &git.commit {
            Some(commit) => format!("generation {} ({commit}), ", git.generation),
            None => String::new(),
        };
        let (state, bytes, staged) = (git_state(&git.state), size(git.bytes), git.staged);
        lines.push((
            "git index",
            format!(
                "{state}, {head}{bytes}, {} to go into it",
                plural(staged, "name")
            ),
        ));
        if let Some(why) = &git.failing {
            lines.push(("", format!("the last generation failed: {why}")));
        }
    }
    lines
}

fn job_lines(report: &StatsReport) -> Vec<StatsLine> {
    let mut lines = Vec::new();
    for job in &report.running {
        let total = job.total.map(|total| format!(" of {total}"));
        lines.push((
            "running",
            format!(
                "{} since {}: {} {}{}",
                job.kind.as_str(),
                time(job.since),
                job.phase,
                job.done,
                total.unwrap_or_default()
            ),
        ));
    }
    for job in &report.last {
        let at = job.at.map(time).unwrap_or_default();
        let word = match job.ended {
            Ended::Well => "ended well",
            Ended::Problems => "found problems",
            Ended::Failed => "failed",
            Ended::Cancelled => "was cancelled",
        };
        let well = job.ok_at.filter(|_| job.ended != Ended::Well);
        let well = well.map(|at| format!(", ended well {}", time(at)));
        let ended = format!("{word} {at}{}", well.unwrap_or_default());
        lines.push(("last", format!("{} {ended}", job.kind)));
    }
    lines
}

/// Why there are not as many crate files as versions held.
fn unlike(report: &StatsReport) -> &'static str {
    match report.blobs.cmp(&report.held) {
        Ordering::Less => " (some versions share one)",
        Ordering::Equal => "",
        Ordering::Greater => " (also files that the index named before)",
    }
}

/// The state of the git index in plain words.
fn git_state(word: &str) -> &str {
    match word {
        "no-base" => "not served yet: nobody said by which URL clients reach it (`public_url`)",
        "empty" => "empty: no crate is known yet",
        "being-made" => "being made",
        other => other,
    }
}

/// How a saved set fared.
pub(super) fn set_run(run: &SetRun) -> String {
    let whole = match run.ok_at {
        Some(at) => format!("whole {}", time(at)),
        None => "not whole yet".to_owned(),
    };
    let tried = time(run.at);
    match (&run.error, run.failures) {
        _ if run.at == 0 => "not synced yet".to_owned(),
        (Some(error), _) => format!("{whole}; tried {tried}: {error}"),
        (None, 0) => whole,
        (None, failures) => format!("{whole}; tried {tried}: {}", plural(failures, "failure")),
    }
}

fn disk(report: &StatsReport) -> String {
    let mut disk = format!("{} free", size(report.free_bytes));
    if !report.writable {
        disk.push_str(", and no writes are taken");
    }
    if report.damaged > 0 {
        let damaged = plural(report.damaged, "damaged record");
        disk = format!("{disk}, {damaged} found since the start");
    }
    disk
}

fn host(host: &UpstreamHost) -> String {
    let mut words = match host.last_success {
        Some(ago) => format!("answered {} ago", exact_span(Duration::from_secs(ago))),
        None => "not asked yet".to_owned(),
    };
    if let (Some(ago), Some(why)) = (host.last_failure, &host.cause) {
        words = format!(
            "{words}, failed {} ago: {why}",
            exact_span(Duration::from_secs(ago))
        );
    }
    if host.resting {
        words.push_str(", given a rest");
    }
    words
}
