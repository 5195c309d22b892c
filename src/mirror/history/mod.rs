//! What went through over days and years: the sums of the metrics, kept across restarts.
//!
//! The metrics count since the start. By the minute, and at the end, the difference since the last
//! look is added to the step that the time of day is in, in three series ([`buckets`]), and what
//! that changed is written ([`format`]). A crash costs what the last minute brought; a lost index
//! database all of it, and recording begins anew.

mod buckets;
mod format;

use std::{ops::ControlFlow, time::SystemTime};

use parking_lot::Mutex;

use self::buckets::{Buckets, Sums};
use super::{Inner, Mirror};
use crate::{
    metrics::Traffic,
    registry::words::seconds,
    store::{self, Store, Table},
};

/// The key of the second since which it is recorded.
const SINCE: &str = "since";

/// 2020: a clock that says less was never set. A machine without a battery boots at 1970.
const PLAUSIBLE: u64 = 1_577_836_800;

/// Which time is told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Range {
    /// A day, in steps of 5 minutes.
    #[default]
    Day,
    /// A week, by the hour.
    Week,
    /// 30 days, in steps of 6 hours.
    Month,
    /// A year, by the day (of UTC).
    Year,
}

impl Range {
    /// All there are, the shortest first.
    pub const ALL: [Range; 4] = [Range::Day, Range::Week, Range::Month, Range::Year];

    /// What a word names; anything unknown is a day.
    pub fn parse(text: &str) -> Range {
        let named = Range::ALL.into_iter().find(|range| range.as_str() == text);
        named.unwrap_or_default()
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Range::Day => "day",
            Range::Week => "week",
            Range::Month => "month",
            Range::Year => "year",
        }
    }

    /// The length of a step.
    pub fn step_seconds(self) -> u64 {
        match self {
            Range::Day => 300,
            Range::Week => 3600,
            Range::Month => 6 * 3600,
            Range::Year => 86_400,
        }
    }

    fn steps(self) -> u64 {
        match self {
            Range::Day => 288,
            Range::Week => 168,
            Range::Month => 120,
            Range::Year => 365,
        }
    }
}

/// What went through in some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// When each step begins, in seconds since 1970, and what it brought: the oldest first, the
    /// last one under way, none left out.
    pub points: Vec<(u64, Traffic)>,
    /// The sum of the points.
    pub total: Traffic,
    /// Since when it is recorded, in seconds since 1970.
    pub since: u64,
}

/// The history of one mirror.
#[derive(Debug, Default)]
pub(super) struct History {
    state: Mutex<State>,
    /// Held by who writes: one after the other, so that what is newer stays.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    buckets: Buckets,
    /// The sums of the metrics at the last look.
    seen: Sums,
    /// `None`: it is not written yet.
    since: Option<u64>,
    since_is_written: bool,
    /// How often the store had begun anew when it last was written to.
    reopened: u64,
}

impl History {
    /// The history as the store has it. One that cannot be read begins anew.
    pub(super) fn load(store: &Store) -> History {
        let mut state = State {
            reopened: store.reopened(),
            ..State::default()
        };
        let read = store.kept_all(Table::History, "", |key, value| {
            state.take_in(key, value);
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not read the history of traffic; it begins anew"
            );
        }
        History {
            state: Mutex::new(state),
            writing: Mutex::new(()),
        }
    }

    /// Adds what went through since the last look. The sums are read by one after the other, so
    /// that they never are older than those seen before.
    fn look(&self, now: SystemTime, traffic: impl FnOnce() -> Traffic) {
        let now = seconds(now);
        let mut state = self.state.lock();
        let more = buckets::take_more(&buckets::sums_of(&traffic()), &mut state.seen);
        // Before it is added, so that it says the second and not the step.
        state.note_since(now);
        state.buckets.add(now, &more);
    }

    /// Writes what is not written yet.
    fn write(&self, store: &Store) -> Result<(), store::Error> {
        let _one_at_a_time = self.writing.lock();
        let (changed, since, pairs) = self.state.lock().unwritten(store.reopened());
        let written = store.keep(Table::History, pairs);
        let mut state = self.state.lock();
        match &written {
            Ok(()) => state.since_is_written = state.since == since,
            Err(_error) => state.buckets.put_back(changed),
        }
        written
    }

    fn recorded(&self, range: Range, now: SystemTime) -> Recorded {
        let now = seconds(now);
        let state = self.state.lock();
        let points = state
            .buckets
            .points(range.step_seconds(), range.steps(), now);
        let mut total = Sums::default();
        for (_start, sums) in &points {
            buckets::add(&mut total, sums);
        }
        let told = |(start, sums): &(u64, Sums)| (*start, buckets::traffic_of(sums));
        Recorded {
            points: points.iter().map(told).collect(),
            total: buckets::traffic_of(&total),
            since: state.since_at(now),
        }
    }
}

type Pairs = Vec<(String, Option<Vec<u8>>)>;

impl State {
    fn take_in(&mut self, key: &str, value: &[u8]) {
        if key == SINCE {
            let since = str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok());
            self.since = since;
            self.since_is_written = since.is_some();
        }
        let Some(place) = format::place(key) else {
            return;
        };
        for (start, sums) in format::decode(place, value).unwrap_or_default() {
            self.buckets.restore(place.0, start, sums);
        }
    }

    /// Since when it is recorded, as the clock is now: one that was wrong once, in either
    /// direction, is no witness for ever. The steps are asked then.
    fn since_at(&self, now: u64) -> u64 {
        let earliest = if now < PLAUSIBLE { 0 } else { PLAUSIBLE };
        let is_good = |since: &u64| (earliest..=now).contains(since);
        let noted = self.since.filter(is_good);
        noted
            .or_else(|| self.buckets.first(earliest, now))
            .unwrap_or(now)
    }

    fn note_since(&mut self, now: u64) {
        let is_unset = |since: u64| since < PLAUSIBLE && now >= PLAUSIBLE;
        if self.since.is_none_or(is_unset) {
            self.since = Some(self.since_at(now));
            self.since_is_written = false;
        }
    }

    fn unwritten(
        &mut self,
        reopened: u64,
    ) -> (
        std::collections::BTreeSet<buckets::Place>,
        Option<u64>,
        Pairs,
    ) {
        if self.reopened != reopened {
            self.reopened = reopened;
            self.buckets.mark_all();
            self.since_is_written = false;
        }
        let changed = self.buckets.take_changed();
        let mut pairs: Pairs = changed
            .iter()
            .map(|place| {
                let value = format::encode(*place, &self.buckets.at(*place));
                (format::key(*place), value)
            })
            .collect();
        if let Some(since) = self.since.filter(|_| !self.since_is_written) {
            pairs.push((SINCE.to_owned(), Some(since.to_string().into_bytes())));
        }
        (changed, self.since, pairs)
    }
}

impl Inner {
    /// Adds what went through since the last look, and writes it.
    pub(super) fn write_history(&self) {
        self.history
            .look(self.clock.now(), || self.metrics.traffic());
        if let Err(error) = self.history.write(&self.store) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not write the history of traffic; it is tried again"
            );
        }
    }
}

impl Mirror {
    /// What went through in some time, up to now. From memory.
    pub fn traffic(&self, range: Range) -> Recorded {
        let (inner, now) = (&self.inner, self.inner.clock.now());
        inner.history.look(now, || inner.metrics.traffic());
        inner.history.recorded(range, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::metrics::{CacheResult, Kind, Metrics};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn open(dir: &TempDir) -> Store {
        let options = store::Options::at(dir.path());
        Store::open(options, at(0)).expect("opens").0
    }

    fn hits(index_hits: u64) -> Traffic {
        Traffic {
            index_hits,
            ..Traffic::default()
        }
    }

    #[test]
    fn a_range_is_known_by_its_word_and_anything_else_is_a_day() {
        for range in Range::ALL {
            assert_eq!(Range::parse(range.as_str()), range);
        }
        for unknown in ["", "Day", "hour", "year "] {
            assert_eq!(Range::parse(unknown), Range::Day, "{unknown:?}");
        }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_counts_on() {
        let dir = TempDir::new().expect("a folder");
        let store = open(&dir);
        let history = History::load(&store);
        history.look(at(0), || hits(3));
        history.look(at(400), || hits(10));
        history.write(&store).expect("written");
        // A crash: this was not written.
        history.look(at(500), || hits(1000));
        drop(history);
        store.close().expect("closed");
        let store = open(&dir);
        let history = History::load(&store);
        history.look(at(700), || hits(5));
        for range in Range::ALL {
            let recorded = history.recorded(range, at(700));
            assert_eq!(recorded.total, hits(15), "{range:?}");
            assert_eq!(recorded.since, 1_800_000_000);
        }
        let day = history.recorded(Range::Day, at(700)).points;
        let last: Vec<u64> = day
            .iter()
            .rev()
            .take(4)
            .map(|(_, t)| t.index_hits)
            .collect();
        assert_eq!(last, [5, 7, 3, 0]);
    }

    #[test]
    fn every_range_ends_with_the_step_under_way_and_leaves_none_out() {
        let history = History::default();
        history.look(at(123), || hits(1));
        for range in Range::ALL {
            let (points, step) = (
                history.recorded(range, at(123)).points,
                range.step_seconds(),
            );
            let last = points.last().expect("points").0;
            assert!(last <= 1_800_000_123 && 1_800_000_123 < last + step);
            assert_eq!(points.len() as u64, range.steps());
            assert!(points.windows(2).all(|pair| pair[1].0 - pair[0].0 == step));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_neither_loses_nor_doubles() {
        let dir = TempDir::new().expect("a folder");
        let store = open(&dir);
        let history = History::load(&store);
        history.look(at(90_000), || hits(4));
        history.write(&store).expect("written");
        history.look(at(50), || hits(6));
        history.write(&store).expect("written");
        assert_eq!(history.recorded(Range::Day, at(50)).total, hits(2));
        assert_eq!(history.recorded(Range::Week, at(90_000)).total, hits(6));
        let again = History::load(&store);
        assert_eq!(again.recorded(Range::Week, at(90_000)).total, hits(6));
        assert_eq!(again.recorded(Range::Day, at(50)).since, 1_800_000_000);
    }

    #[test]
    fn a_value_that_is_none_costs_nothing_but_itself() {
        let dir = TempDir::new().expect("a folder");
        let store = open(&dir);
        let odd = [
            ("300/5", "x"),
            ("since", "soon"),
            ("later", "?"),
            ("7/7", "\u{1}\u{1}"),
        ];
        let pairs = odd.map(|(key, value)| (key.to_owned(), Some(value.into())));
        store.keep(Table::History, pairs.to_vec()).expect("kept");
        let history = History::load(&store);
        history.look(at(0), || hits(2));
        history.write(&store).expect("written");
        assert_eq!(
            History::load(&store).recorded(Range::Day, at(0)).total,
            hits(2)
        );
    }

    #[test]
    fn however_many_look_at_once_each_hit_is_counted_once() {
        let (history, metrics) = (History::default(), Metrics::new().expect("series"));
        std::thread::scope(|scope| {
            for _thread in 0..8 {
                scope.spawn(|| {
                    for _time in 0..500 {
                        metrics.cache(Kind::Index, CacheResult::Hit);
                        history.look(at(0), || metrics.traffic());
                        let total = history.recorded(Range::Day, at(0)).total;
                        assert!(total.index_hits <= metrics.traffic().index_hits);
                    }
                });
            }
        });
        assert_eq!(history.recorded(Range::Day, at(0)).total, hits(4000));
        assert_eq!(metrics.traffic(), hits(4000));
    }

    #[test]
    fn a_minute_at_1970_is_not_since_when_it_is_recorded() {
        let dir = TempDir::new().expect("a folder");
        let store = open(&dir);
        let history = History::load(&store);
        let boot = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        history.look(boot, || hits(1));
        history.write(&store).expect("written");
        assert_eq!(history.recorded(Range::Day, boot).since, 10);
        history.look(at(30), || hits(2));
        history.write(&store).expect("written");
        for _start in 0..2 {
            let history = History::load(&store);
            history.look(boot, || hits(0));
            history.write(&store).expect("written");
            let since = history.recorded(Range::Day, at(900)).since;
            assert_eq!(since, 1_800_000_030);
        }
    }

    #[test]
    fn a_year_ahead_once_does_not_hide_since_when_it_is_recorded() {
        let history = History::default();
        history.look(at(31_536_000), || hits(1));
        history.look(at(20), || hits(2));
        let recorded = history.recorded(Range::Day, at(90_000));
        assert_eq!(recorded.since, 1_800_000_000);
    }

    #[test]
    fn after_a_rebuild_of_the_store_all_is_written_again() {
        let dir = TempDir::new().expect("a folder");
        let store = open(&dir);
        let history = History::load(&store);
        history.look(at(0), || hits(3));
        history.write(&store).expect("written");
        // What a rebuild leaves: another store, without what was kept.
        let mut keys = Vec::new();
        let read = store.kept_all(Table::History, "", |key, _value| {
            keys.push((key.to_owned(), None));
            ControlFlow::Continue(())
        });
        read.expect("read");
        store.keep(Table::History, keys).expect("removed");
        history.state.lock().reopened = 7;
        history.look(at(86_400), || hits(4));
        history.write(&store).expect("written");
        let again = History::load(&store).recorded(Range::Week, at(86_400));
        assert_eq!((again.total, again.since), (hits(4), 1_800_000_000));
    }
}
