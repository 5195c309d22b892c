//! How a person, or a program, sees a job go on: bars on a terminal, plain lines elsewhere, JSON
//! lines for programs.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::tell;
use crate::jobs::{Event, Unit};
use crate::util::format::{one_line, plural, size};

/// Off a terminal: how often a line says how far it is.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The rate is that of this time: long enough to be calm, short enough to be of now.
const RATE_OVER: Duration = Duration::from_secs(10);

/// How often a bar moves, in times a second.
const BAR_HZ: u8 = 10;

/// What took less is told without its time: events come in batches, and the time would be theirs.
const TOLD_FROM: Duration = Duration::from_millis(100);

/// A bar moves by itself, so that a job that waits is seen to live.
const TICK: Duration = Duration::from_millis(250);

/// Shows the events of one job.
#[derive(Debug)]
pub(super) struct Printer {
    style: Style,
    phase: Option<Phase>,
}

/// How it is shown.
#[derive(Debug)]
enum Style {
    Json,
    /// Nothing: the report says what failed.
    Quiet,
    Lines,
    Bar {
        bar: ProgressBar,
        has_color: bool,
    },
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    /// Everything, for programs.
    Json,
    /// Nothing: the report says what failed.
    Quiet,
    /// Everything, for people.
    Full,
}

/// What is wanted, and what the terminal can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) amount: Amount,
    /// `NO_COLOR` asks for plain text.
    pub(super) no_color: bool,
    /// `TERM` says that the terminal cannot move its cursor.
    pub(super) is_dumb: bool,
}

impl Printer {
    pub(super) fn new(look: Look) -> Printer {
        let is_terminal = io::stderr().is_terminal() && !look.is_dumb;
        let style = match look.amount {
            Amount::Json => Style::Json,
            Amount::Quiet => Style::Quiet,
            Amount::Full if !is_terminal => Style::Lines,
            Amount::Full => Style::Bar {
                bar: ProgressBar::hidden(),
                has_color: !look.no_color,
            },
        };
        Printer { style, phase: None }
    }

    /// Shows `event`; JSON goes to `out`, all else to stderr.
    pub(super) fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<()> {
        if matches!(self.style, Style::Json) {
            serde_json::to_writer(&mut *out, event)?;
            writeln!(out)?;
            return out.flush();
        }
        match event {
            Event::Phase { phase, unit, total } => {
                self.end();
                self.begin(Phase::new(phase, *unit, *total, Instant::now()));
            }
            Event::Progress { done, total, bytes } => {
                self.progress(*done, *total, *bytes, Instant::now());
            }
            Event::Note { text } => {
                if !matches!(self.style, Style::Quiet) {
                    self.line(&format!("note: {}", one_line(text)));
                }
            }
            Event::Failed { what, cause } => {
                if self.shows_failures() {
                    self.failed(what, cause);
                }
            }
        }
        Ok(())
    }

    /// Whether failures are told as they come, so that a report need not list them again.
    pub(super) fn shows_failures(&self) -> bool {
        matches!(self.style, Style::Lines | Style::Bar { .. })
    }

    fn begin(&mut self, phase: Phase) {
        match &mut self.style {
            _ if phase.is_empty() => {}
            Style::Json | Style::Quiet => {}
            Style::Lines => tell(&format!("{}\n", phase.beginning())),
            Style::Bar { bar, .. } => {
                *bar = new_bar(&phase);
            }
        }
        self.phase = Some(phase);
    }

    fn progress(&mut self, done: u64, total: Option<u64>, bytes: u64, now: Instant) {
        let Some(phase) = &mut self.phase else {
            return;
        };
        let was_empty = phase.is_empty();
        phase.update(done, total, bytes, now);
        match &mut self.style {
            _ if phase.is_empty() => {}
            Style::Json | Style::Quiet => {}
            Style::Lines => {
                if phase.is_line_due(now) {
                    tell(&format!("{}\n", phase.middle(now)));
                }
            }
            Style::Bar { bar, .. } => {
                if was_empty {
                    *bar = new_bar(phase);
                }
                if let Some(total) = phase.total {
                    bar.set_length(total);
                }
                bar.set_position(phase.done);
                bar.set_message(phase.beside_bar(now));
            }
        }
    }

    fn failed(&self, what: &str, cause: &str) {
        let has_color = matches!(
            &self.style,
            Style::Bar {
                has_color: true,
                ..
            }
        );
        let word = if has_color {
            "\u{1b}[31mfailed\u{1b}[0m"
        } else {
            "failed"
        };
        self.line(&format!("{word}: {}: {}", one_line(what), one_line(cause)));
    }

    /// A line that stays, above the bar where there is one.
    fn line(&self, text: &str) {
        match &self.style {
            Style::Bar { bar, .. } if !bar.is_hidden() && !bar.is_finished() => bar.println(text),
            _ => tell(&format!("{text}\n")),
        }
    }

    /// Says that Ctrl-C was heard.
    pub(super) fn cancelling(&mut self) {
        match self.style {
            Style::Json => {}
            _ => self.line("cancelling; Ctrl-C once more ends it at once"),
        }
    }

    /// The phase, or the whole job, is over.
    pub(super) fn end(&mut self) {
        let Some(phase) = self.phase.take() else {
            return;
        };
        if phase.is_empty() {
            return;
        }
        let ending = phase.ending(Instant::now());
        match &self.style {
            Style::Json | Style::Quiet => {}
            Style::Lines => tell(&format!("{ending}\n")),
            Style::Bar { bar, .. } => {
                bar.finish_and_clear();
                tell(&format!("{ending}\n"));
            }
        }
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        if let Style::Bar { bar, .. } = &self.style {
            bar.finish_and_clear();
        }
    }
}

/// Only the message gives way, so that no line is wider than the terminal.
fn new_bar(phase: &Phase) -> ProgressBar {
    let template = match phase.total {
        Some(_) => "[{bar:12}] {wide_msg}",
        None => "{spinner} {wide_msg} {elapsed}",
    };
    let target = ProgressDrawTarget::stderr_with_hz(BAR_HZ);
    let bar = ProgressBar::with_draw_target(phase.total, target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> ").tick_chars("-\\|/ "));
    }
    bar.set_message(phase.beside_bar(phase.began));
    bar.enable_steady_tick(TICK);
    bar
}

/// A part of the work, and how far it is.
#[derive(Debug)]
struct Phase {
    name: String,
    unit: Unit,
    total: Option<u64>,
    done: u64,
    bytes: u64,
    /// Whether the job said how far it is.
    is_told: bool,
    began: Instant,
    last_line: Instant,
    /// Bytes at some moments of late.
    moments: VecDeque<(Instant, u64)>,
}

impl Phase {
    fn new(name: &str, unit: Unit, total: Option<u64>, now: Instant) -> Phase {
        Phase {
            name: one_line(name),
            unit,
            total,
            done: 0,
            bytes: 0,
            is_told: false,
            began: now,
            last_line: now,
            moments: VecDeque::from([(now, 0)]),
        }
    }

    /// Whether there is nothing to do, which is worth no line.
    fn is_empty(&self) -> bool {
        self.total == Some(0) && self.done == 0
    }

    fn update(&mut self, done: u64, total: Option<u64>, bytes: u64, now: Instant) {
        self.is_told = true;
        self.done = done;
        self.total = total.or(self.total);
        self.bytes = match self.unit {
            Unit::Bytes => done,
            Unit::Names | Unit::Crates => bytes,
        };
        self.moments.push_back((now, self.bytes));
        // One that is older than the time stays, so that the whole time is looked at.
        while let Some((second, _)) = self.moments.get(1)
            && now.saturating_duration_since(*second) >= RATE_OVER
        {
            self.moments.pop_front();
        }
    }

    fn is_line_due(&mut self, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(self.last_line) >= LINE_EVERY;
        if is_due {
            self.last_line = now;
        }
        is_due
    }

    /// Bytes a second of late; `None`: nothing to tell.
    fn rate(&self, now: Instant) -> Option<u64> {
        let (at, bytes) = self.moments.front()?;
        let millis = now.saturating_duration_since(*at).as_millis();
        let moved = u128::from(self.bytes.saturating_sub(*bytes)) * 1000;
        u64::try_from(moved.checked_div(millis)?).ok()
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        let todo = self.total?.checked_sub(self.done)?;
        let spent = now.saturating_duration_since(self.began).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a guess for a person")]
        let left = spent / self.done as f64 * todo as f64;
        // Before the first is done it is no number.
        Duration::try_from_secs_f64(left).ok()
    }

    /// `5 of 40 crates`, `3.4 MB of 9.1 MB`, as far as it is known.
    fn count(&self) -> Option<String> {
        if !self.is_told && self.total.is_none() {
            return None;
        }
        Some(match (self.unit, self.total) {
            (Unit::Bytes, Some(total)) => format!("{} of {}", size(self.bytes), size(total)),
            (Unit::Bytes, None) => size(self.bytes),
            (unit, Some(total)) => format!("{} of {}", self.done, counted(total, unit)),
            (unit, None) => counted(self.done, unit),
        })
    }

    /// What is told in the middle, each with its unit.
    fn amounts(&self, now: Instant) -> String {
        let mut parts = Vec::from_iter(self.count());
        if self.bytes > 0 {
            parts.extend((self.unit != Unit::Bytes).then(|| size(self.bytes)));
            let rate = self.rate(now);
            parts.extend(rate.map(|rate| format!("{}/s", size(rate))));
        }
        let left = self.left(now).filter(|left| left.as_secs() > 0);
        parts.extend(left.map(|left| format!("{} left", time(left))));
        parts.join(", ")
    }

    fn beside_bar(&self, now: Instant) -> String {
        format!("{} {}", self.name, self.amounts(now))
    }

    fn beginning(&self) -> String {
        match (self.unit, self.total) {
            (_, None) => self.name.clone(),
            (Unit::Bytes, Some(total)) => format!("{}: {}", self.name, size(total)),
            (unit, Some(total)) => format!("{}: {}", self.name, counted(total, unit)),
        }
    }

    fn middle(&self, now: Instant) -> String {
        format!("{}: {}", self.name, self.amounts(now))
    }

    /// What was counted, where it was counted at all.
    fn ending(&self, now: Instant) -> String {
        let mut parts = Vec::new();
        if self.is_told {
            let is_whole = self.total.is_none_or(|total| self.done >= total);
            match self.unit {
                Unit::Names | Unit::Crates if is_whole => {
                    parts.push(counted(self.done, self.unit));
                }
                Unit::Bytes if is_whole => parts.push(size(self.bytes)),
                _ => parts.extend(self.count()),
            }
            let has_bytes = self.unit != Unit::Bytes && self.bytes > 0;
            parts.extend(has_bytes.then(|| size(self.bytes)));
        } else {
            parts.push("done".to_owned());
        }
        let spent = now.saturating_duration_since(self.began);
        let spent = match spent {
            long if long >= TOLD_FROM => format!(" in {}", time(long)),
            _ if self.is_told => ", done".to_owned(),
            _ => String::new(),
        };
        format!("{}: {}{spent}", self.name, parts.join(", "))
    }
}

fn counted(count: u64, unit: Unit) -> String {
    plural(
        count,
        match unit {
            Unit::Names => "name",
            Unit::Crates => "crate",
            Unit::Bytes => "byte",
        },
    )
}

/// A span of time for a person: `45 s`, `3 min 20 s`, `2 h 5 min`.
pub(super) fn time(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    #[test]
    fn times_have_their_unit() {
        for (millis, shown) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (59_000, "59 s"),
            (200_000, "3 min 20 s"),
            (7_500_000, "2 h 5 min"),
        ] {
            assert_eq!(time(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn a_line_says_how_far_it_is_how_fast_and_for_how_long_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut phase = Phase::new("fetching", Unit::Crates, Some(40), start);
        assert_eq!(phase.beginning(), "fetching: 40 crates");
        phase.update(10, Some(40), 20 * MB, at(10));
        assert!(phase.is_line_due(at(10)));
        assert!(!phase.is_line_due(at(19)));
        assert_eq!(
            phase.middle(at(10)),
            "fetching: 10 of 40 crates, 20.0 MB, 2.0 MB/s, 30 s left"
        );
        // The rate is that of late, not of the whole.
        phase.update(10, Some(40), 20 * MB, at(100));
        phase.update(12, Some(40), 30 * MB, at(110));
        assert_eq!(phase.rate(at(110)), Some(MB));
        assert_eq!(
            phase.ending(at(110)),
            "fetching: 12 of 40 crates, 30.0 MB in 1 min 50 s"
        );
        phase.update(40, Some(40), 90 * MB, at(120));
        assert_eq!(
            phase.ending(at(120)),
            "fetching: 40 crates, 90.0 MB in 2 min 0 s"
        );
    }

    #[test]
    fn a_phase_without_an_end_or_of_bytes_is_told_too() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let mut phase = Phase::new("resolving", Unit::Names, None, start);
        assert_eq!(phase.beginning(), "resolving");
        assert_eq!(phase.beside_bar(later), "resolving ");
        phase.update(1, None, 0, later);
        assert_eq!(phase.middle(later), "resolving: 1 name");
        let mut phase = Phase::new("hashing", Unit::Bytes, Some(4 * MB), start);
        phase.update(MB, None, 0, later);
        assert_eq!(
            phase.middle(later),
            "hashing: 1.0 MB of 4.0 MB, 500.0 kB/s, 6 s left"
        );
        phase.update(4 * MB, None, 0, later);
        assert_eq!(phase.ending(later), "hashing: 4.0 MB in 2 s");
    }

    #[test]
    fn what_was_never_told_is_not_counted_at_the_end() {
        let start = Instant::now();
        let later = start + Duration::from_millis(682);
        let phase = Phase::new("verifying", Unit::Names, None, start);
        assert_eq!(phase.ending(later), "verifying: done in 682 ms");
        // All of it came in one batch of events: its time is not known.
        let mut phase = Phase::new("fetching", Unit::Crates, Some(1), start);
        phase.update(1, None, 0, start);
        assert_eq!(phase.ending(start), "fetching: 1 crate, done");
        assert!(Phase::new("fetching", Unit::Crates, Some(0), start).is_empty());
    }
}
