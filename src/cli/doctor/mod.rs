//! The examination behind `orlop doctor`: checks in the order in which a request of cargo's meets
//! its troubles, each with what was found and the remedy.

mod cargo;
mod network;
mod registry;
mod server;
mod target;

use std::{
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

use self::{
    cargo::{CargoConfig, Source},
    target::Target,
};
use super::{Error, SettingArgs, client_config::of_daemon, load};
use crate::{
    config::{ClientEnvironment, Loaded},
    mirror::Clock,
    upstream::probe::Way,
};

/// Where the remedy of a finding begins.
const INDENT: &str = "      ";

/// What is asked on the command line.
#[derive(Debug)]
pub(super) struct Questions<'a> {
    /// The mirror.
    pub(super) url: Option<&'a str>,
    /// The crate to fetch.
    pub(super) probe: Option<&'a str>,
    /// Whether to print JSON.
    pub(super) json: bool,
    /// Where the settings come from.
    pub(super) settings: &'a SettingArgs,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
    Skip,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// What was found so far. People read along; programs get it at the end.
struct Findings<'a> {
    list: Vec<Finding>,
    is_json: bool,
    out: &'a mut dyn Write,
    /// The first failure to print.
    trouble: Option<io::Error>,
}

impl Findings<'_> {
    fn ok(&mut self, check: &'static str, found: impl AsRef<str>) {
        self.add(check, Verdict::Ok, found.as_ref(), None);
    }

    fn skip(&mut self, check: &'static str, found: impl AsRef<str>) {
        self.add(check, Verdict::Skip, found.as_ref(), None);
    }

    fn warn(&mut self, check: &'static str, found: impl AsRef<str>, remedy: impl AsRef<str>) {
        self.add(check, Verdict::Warn, found.as_ref(), Some(remedy.as_ref()));
    }

    fn fail(&mut self, check: &'static str, found: impl AsRef<str>, remedy: impl AsRef<str>) {
        self.add(check, Verdict::Fail, found.as_ref(), Some(remedy.as_ref()));
    }

    fn add(&mut self, check: &'static str, verdict: Verdict, found: &str, remedy: Option<&str>) {
        let finding = Finding {
            check,
            verdict,
            found: printable(found),
            remedy: remedy.map(printable),
        };
        if !self.is_json && self.trouble.is_none() {
            let printed = self.print(&finding);
            self.trouble = printed.err();
        }
        self.list.push(finding);
    }

    fn print(&mut self, finding: &Finding) -> io::Result<()> {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "skip",
        };
        let (check, found) = (finding.check, &finding.found);
        writeln!(self.out, "{verdict:4}  {check}: {found}")?;
        if let Some(remedy) = &finding.remedy {
            writeln!(self.out, "{INDENT}-> {remedy}")?;
        }
        Ok(())
    }

    fn problems(&self) -> usize {
        self.count(Verdict::Fail)
    }

    fn count(&self, verdict: Verdict) -> usize {
        let is = |finding: &&Finding| finding.verdict == verdict;
        self.list.iter().filter(is).count()
    }

    fn end(self) -> Result<(), Error> {
        if let Some(trouble) = self.trouble {
            return Err(Error::Output(trouble));
        }
        let problems = self.problems();
        if self.is_json {
            let text = serde_json::json!({
                "report": "doctor", "problems": problems, "findings": self.list,
            });
            writeln!(self.out, "{text}")?;
        } else {
            let warnings = self.count(Verdict::Warn);
            writeln!(self.out, "\n{}", summary(problems, warnings))?;
        }
        if problems == 0 {
            Ok(())
        } else {
            Err(Error::Problems)
        }
    }
}

fn summary(problems: usize, warnings: usize) -> String {
    let many = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    match (problems, warnings) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("no problems, {}", many(warnings, "warning")),
        (problems, 0) => many(problems, "problem"),
        (problems, warnings) => {
            format!(
                "{}, {}",
                many(problems, "problem"),
                many(warnings, "warning")
            )
        }
    }
}

/// Texts of servers and files end up on a terminal: in one line, and without its control letters.
fn printable(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.trim().chars().map(plain).collect()
}

/// Runs every check that makes sense here.
///
/// # Errors
/// [`Error::Problems`] where one failed, and a failure to print.
pub(super) fn examine(questions: &Questions<'_>, out: &mut dyn Write) -> Result<(), Error> {
    let mut findings = Findings {
        list: Vec::new(),
        is_json: questions.json,
        out,
        trouble: None,
    };
    let clock = Clock::start();
    let here = std::env::current_dir().unwrap_or_default();
    let cargo = CargoConfig::read(&here, ClientEnvironment::of_process());
    let settings = read_settings(questions.settings);
    let source = cargo.examine(
        questions.url.is_some() || has_store(settings.as_ref().ok()),
        &mut findings,
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Threads)?;
    match choose_target(questions, &source, settings.as_ref().ok()) {
        Some(Ok(target)) => {
            CargoConfig::examine_version(&target, &source, &mut findings);
            runtime.block_on(ask(&target, questions, &cargo, clock, &mut findings));
        }
        Some(Err((text, why))) => findings.fail(
            "address",
            format!("`{text}` is no URL of a mirror: {why}"),
            "a mirror is named like http://mirror.lab:8080, its index like \
             sparse+http://mirror.lab:8080/index/",
        ),
        None => findings.skip(
            "address",
            "no mirror is named: neither here, nor in cargo's configuration",
        ),
    }
    match settings {
        Ok(loaded) => runtime.block_on(server::examine(&loaded, &mut findings)),
        Err(errors) => findings.fail(
            "settings",
            errors.replace('\n', "; "),
            "`orlop config check` says the same with the places",
        ),
    }
    findings.end()
}

fn read_settings(args: &SettingArgs) -> Result<Loaded, String> {
    load(args).map_err(|error| error.render())
}

fn has_store(loaded: Option<&Loaded>) -> bool {
    loaded.is_some_and(|loaded| loaded.config.store.dir.join("format").exists())
}

type Refused = (String, String);

/// The mirror that is examined: the one that is named, the one that cargo uses, the one of here.
fn choose_target(
    questions: &Questions<'_>,
    source: &Source,
    loaded: Option<&Loaded>,
) -> Option<Result<Target, Refused>> {
    let own = || {
        let loaded = loaded.filter(|loaded| has_store(Some(loaded)))?;
        if let Some(base) = of_daemon(loaded) {
            return Some(base);
        }
        let first = loaded.config.listen.addresses.first()?;
        let port = (first.port() != 0).then_some(first.port())?;
        let address = if first.ip().is_unspecified() {
            format!("http://localhost:{port}")
        } else {
            format!("http://{first}")
        };
        Some(loaded.config.public_base().unwrap_or(address))
    };
    let text = match (questions.url, source) {
        (Some(url), _) => url.to_owned(),
        (None, Source::Registry { index, .. }) => index.clone(),
        (None, _) => own()?,
    };
    Some(Target::parse(&text).map_err(|why| (text, why)))
}

async fn ask(
    target: &Target,
    questions: &Questions<'_>,
    cargo: &CargoConfig,
    clock: Clock,
    findings: &mut Findings<'_>,
) {
    let way = Way {
        proxy: network::proxy(target, cargo, findings),
        ca_file: cargo
            .authorities()
            .map(|found| Path::new(&found.value).to_owned()),
    };
    if way.proxy.is_none() && !network::reach(target, findings) {
        return;
    }
    registry::examine(target, &way, questions.probe, clock.now(), findings).await;
}
