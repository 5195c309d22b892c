//! The traffic history: what the metrics counted, by time, across restarts.
//!
//! Each minute, and at the end, what was counted since the last look is added to the step that the
//! time of day is in, in each of three rings: 5 minutes for 2 days, hours for 100 days, days (of
//! UTC) for 5 years. A step is one value of [`Table::History`]. Its key is `STEP/START`, both in
//! seconds (`300/1799985600`). Its value is JSON: `{"v":1,"index_hits":3,…}`, the numbers of
//! [`Traffic`]. An absent number is 0, an unknown one is ignored, and so is a value of another
//! version. Steps without traffic are left out. A crash loses the last minute. When the index
//! database is lost, recording starts anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::SystemTime,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    metrics::Traffic,
    store::{self, Store, Table},
    util::format::seconds,
};

const VERSION: u32 = 1;

/// 2020: a clock that says less was never set. A machine without a battery boots at 1970.
const PLAUSIBLE: u64 = 1_577_836_800;

/// The length of each ring's steps in seconds, and how many steps with traffic it keeps.
const RINGS: [(u64, usize); 3] = [(300, 2 * 24 * 12), (3600, 100 * 24), (86_400, 5 * 365 + 1)];

/// Which time is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
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

    /// The length of a step in seconds, and the number of steps.
    fn steps(self) -> (u64, u64) {
        match self {
            Range::Day => (300, 288),
            Range::Week => (3600, 168),
            Range::Month => (6 * 3600, 120),
            Range::Year => (86_400, 365),
        }
    }
}

/// The traffic of some time, in equal steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TrafficSeries {
    /// Which time.
    pub range: Range,
    /// The length of a step.
    pub step_seconds: u64,
    /// The steps, the oldest first and the last one under way; none is left out. They begin at
    /// whole multiples of the step since 1970, days at midnight in UTC.
    pub points: Vec<Point>,
    /// The sum of the points; its time is that of the first.
    pub total: Point,
    /// Since when traffic is recorded; now: there was none yet.
    pub since_seconds: u64,
}

/// The traffic of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Point {
    /// When it begins, in seconds since 1970.
    pub at_seconds: u64,
    /// What was counted.
    #[serde(flatten)]
    pub sums: Traffic,
}

impl Point {
    /// The sum of points, which begins when the first does.
    pub fn sum(points: &[Point]) -> Point {
        let sums = points.iter().map(|point| point.sums);
        Point {
            at_seconds: points.first().map_or(0, |first| first.at_seconds),
            sums: sums.fold(Traffic::default(), Traffic::plus),
        }
    }
}

/// The history of one mirror.
#[derive(Debug)]
pub(super) struct TrafficHistory {
    store: Store,
    state: Mutex<State>,
    /// Writers take it in turn, so that an older step never replaces a newer one.
    writing: Mutex<()>,
}

impl TrafficHistory {
    /// Adds what was counted, and writes it.
    pub(super) fn record(&self, now: SystemTime, traffic: impl FnOnce() -> Traffic) {
        self.count(now, traffic);
        if let Err(error) = self.write() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not write the traffic history; it is tried again"
            );
        }
    }

    /// The history as the store has it. Steps that cannot be read count as without traffic.
    pub(super) fn load(store: Store) -> TrafficHistory {
        let mut state = State {
            reopened: store.reopened(),
            ..State::default()
        };
        let read = store.kept_all(Table::History, "", |key, value| {
            state.load(key, value);
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not read the traffic history; it starts anew"
            );
        }
        TrafficHistory {
            store,
            state: Mutex::new(state),
            writing: Mutex::new(()),
        }
    }

    /// Adds what was counted since the last time. The sums are read under the lock, so that they
    /// are never older than those of the last time.
    pub(super) fn count(&self, now: SystemTime, traffic: impl FnOnce() -> Traffic) {
        let mut state = self.state.lock();
        let counted = traffic();
        let more = counted.zip(state.seen, u64::saturating_sub);
        state.seen = counted.zip(state.seen, u64::max);
        state.add(seconds(now), more);
    }

    /// Writes the steps that changed.
    fn write(&self) -> Result<(), store::Error> {
        let _turn = self.writing.lock();
        let (changed, pairs) = self.state.lock().take_changed(self.store.reopened());
        let written = self.store.keep(Table::History, pairs);
        if written.is_err() {
            self.state.lock().changed.extend(changed);
        }
        written
    }

    /// The traffic of `range` up to `now`.
    pub(super) fn series(&self, range: Range, now: SystemTime) -> TrafficSeries {
        let (now, (step_seconds, count)) = (seconds(now), range.steps());
        let state = self.state.lock();
        let points = state.points(step_seconds, count, now);
        TrafficSeries {
            range,
            step_seconds,
            total: Point::sum(&points),
            points,
            since_seconds: state.since(now),
        }
    }
}

/// Which step: the length of its ring's steps, and when it begins.
type StepKey = (u64, u64);

#[derive(Debug)]
struct State {
    rings: [Ring; RINGS.len()],
    /// The sums of the metrics at the last look.
    seen: Traffic,
    /// Steps that the store does not have as they are here.
    changed: BTreeSet<StepKey>,
    /// How often the store had been opened anew when it was last written to.
    reopened: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            rings: RINGS.map(|(step, keep)| Ring {
                step,
                keep,
                steps: BTreeMap::new(),
            }),
            seen: Traffic::default(),
            changed: BTreeSet::new(),
            reopened: 0,
        }
    }
}

/// The steps of one length that had traffic, by when they begin.
///
/// A ring is bounded by their number and not by their age: a clock that is set to another year and
/// back must not delete what was recorded.
#[derive(Debug)]
struct Ring {
    step: u64,
    keep: usize,
    steps: BTreeMap<u64, Traffic>,
}

impl Ring {
    fn add(&mut self, at: u64, traffic: Traffic, changed: &mut BTreeSet<StepKey>) {
        let start = at - at % self.step;
        let sums = self.steps.entry(start).or_default();
        *sums = sums.plus(traffic);
        changed.insert((self.step, start));
        while self.steps.len() > self.keep {
            let ends = [self.steps.keys().next(), self.steps.keys().next_back()];
            let far = |start: &&u64| start.abs_diff(at);
            let Some(farthest) = ends.into_iter().flatten().max_by_key(far).copied() else {
                break;
            };
            self.steps.remove(&farthest);
            changed.insert((self.step, farthest));
        }
    }

    fn sum(&self, from: u64, until: u64) -> Traffic {
        let steps = self.steps.range(from..until).map(|(_start, sums)| *sums);
        steps.fold(Traffic::default(), Traffic::plus)
    }
}

/// The value of a step.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    v: u32,
    #[serde(flatten)]
    sums: Traffic,
}

type Pairs = Vec<(String, Option<Vec<u8>>)>;

impl State {
    fn load(&mut self, key: &str, value: &[u8]) {
        let read = || {
            let (step, start) = key.split_once('/')?;
            let record: Record = serde_json::from_slice(value).ok()?;
            let is_known = record.v == VERSION;
            is_known.then_some((
                step.parse::<u64>().ok()?,
                start.parse::<u64>().ok()?,
                record,
            ))
        };
        let Some((step, start, record)) = read() else {
            return;
        };
        let ring = self.rings.iter_mut().find(|ring| ring.step == step);
        if let Some(ring) = ring.filter(|ring| ring.steps.len() < ring.keep)
            && start.is_multiple_of(step)
        {
            ring.steps.insert(start, record.sums);
        }
    }

    fn add(&mut self, now: u64, traffic: Traffic) {
        if traffic == Traffic::default() {
            return;
        }
        for ring in &mut self.rings {
            ring.add(now, traffic, &mut self.changed);
        }
    }

    /// The steps to write; all of them where the store was opened anew, which may have lost them.
    fn take_changed(&mut self, reopened: u64) -> (BTreeSet<StepKey>, Pairs) {
        if self.reopened != reopened {
            self.reopened = reopened;
            for ring in &self.rings {
                let starts = ring.steps.keys();
                self.changed.extend(starts.map(|start| (ring.step, *start)));
            }
        }
        let changed = std::mem::take(&mut self.changed);
        let pair = |key: &StepKey| (format!("{}/{}", key.0, key.1), self.value(*key));
        let pairs = changed.iter().map(pair).collect();
        (changed, pairs)
    }

    /// `None`: the step is to be removed.
    fn value(&self, (step, start): StepKey) -> Option<Vec<u8>> {
        let ring = self.rings.iter().find(|ring| ring.step == step)?;
        let sums = *ring.steps.get(&start)?;
        serde_json::to_vec(&Record { v: VERSION, sums }).ok()
    }

    /// `count` steps up to the one that `now` is in, the oldest first, each the sum of steps of the
    /// finest ring that reaches back as far.
    fn points(&self, step_seconds: u64, count: u64, now: u64) -> Vec<Point> {
        let span = step_seconds.saturating_mul(count);
        let reaches = |ring: &&Ring| {
            let keep = u64::try_from(ring.keep).unwrap_or(u64::MAX);
            step_seconds.is_multiple_of(ring.step) && keep.saturating_mul(ring.step) >= span
        };
        let ring = self.rings.iter().find(reaches);
        let last = now - now % step_seconds;
        let starts = (0..count).rev();
        let starts = starts.filter_map(|back| last.checked_sub(back * step_seconds));
        let point = |at_seconds: u64| Point {
            at_seconds,
            sums: ring.map_or_else(Traffic::default, |ring| {
                ring.sum(at_seconds, at_seconds.saturating_add(step_seconds))
            }),
        };
        starts.map(point).collect()
    }

    /// When the first step begins, up to `now`, as finely as it is kept. A step of a clock that was
    /// not set yet does not count once it is.
    fn since(&self, now: u64) -> u64 {
        let earliest = if now < PLAUSIBLE { 0 } else { PLAUSIBLE };
        let (mut since, mut within) = (now, earliest..=now);
        for ring in self.rings.iter().rev() {
            if let Some((start, _sums)) = ring.steps.range(within.clone()).next() {
                since = *start;
                within = since..=now.min(since.saturating_add(ring.step - 1));
            }
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::metrics::{CacheResult, Kind, Metrics};

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW + seconds)
    }

    fn open(dir: &TempDir) -> TrafficHistory {
        let options = store::Options::at(dir.path());
        TrafficHistory::load(Store::open(options, at(0)).expect("opens").0)
    }

    fn hits(index_hits: u64) -> Traffic {
        Traffic {
            index_hits,
            ..Traffic::default()
        }
    }

    fn total(points: &[Point]) -> Traffic {
        Point::sum(points).sums
    }

    /// What a restart gives: everything written, and read again.
    fn restarted(state: &mut State, disk: &mut BTreeMap<String, Vec<u8>>) -> State {
        for (key, value) in state.take_changed(0).1 {
            match value {
                Some(value) => disk.insert(key, value),
                None => disk.remove(&key),
            };
        }
        let mut read = State::default();
        for (key, value) in disk {
            read.load(key, value);
        }
        read
    }

    proptest! {
        /// Whatever the clock does and however often the program ends, what was added is there
        /// once, in the fine steps as in the coarse ones.
        #[test]
        fn nothing_is_lost_and_nothing_doubled(
            adds in prop::collection::vec((0_u64..40 * 86_400, 0_u64..1000, any::<bool>()), 1..60),
        ) {
            let (mut state, mut disk) = (State::default(), BTreeMap::new());
            let mut added = Traffic::default();
            for (ago, number, ends) in adds {
                state.add(NOW - ago, hits(number));
                added = added.plus(hits(number));
                if ends {
                    state = restarted(&mut state, &mut disk);
                }
            }
            for (step, count) in [(3600, 41 * 24), (6 * 3600, 41 * 4), (86_400, 41), (86_400, 365)] {
                let points = state.points(step, count, NOW);
                prop_assert_eq!(points.len() as u64, count);
                prop_assert_eq!(total(&points), added, "{} steps of {} s", count, step);
            }
            for ring in &state.rings {
                prop_assert_eq!(ring.sum(0, u64::MAX), added);
            }
        }

        /// Steps that are merged into coarser ones have the same sum as those.
        #[test]
        fn coarse_steps_are_the_sums_of_fine_ones(
            adds in prop::collection::vec((0_u64..86_400, 0_u64..1000), 1..60),
        ) {
            let mut state = State::default();
            for (ago, number) in adds {
                state.add(NOW - ago, hits(number));
            }
            let fine = state.points(300, 576, NOW);
            for point in state.points(3600, 24, NOW) {
                let hour = point.at_seconds..point.at_seconds + 3600;
                let parts = fine.iter().filter(|part| hour.contains(&part.at_seconds));
                let parts: Vec<_> = parts.copied().collect();
                prop_assert_eq!(total(&parts), point.sums);
            }
        }

        /// However long it runs, and wherever the clock is, there is an end to what is kept.
        #[test]
        fn there_is_a_bound(starts in prop::collection::vec(any::<u32>(), 1..2000)) {
            let (mut state, mut disk) = (State::default(), BTreeMap::new());
            for start in starts {
                state.add(u64::from(start), hits(1));
            }
            restarted(&mut state, &mut disk);
            let kept: usize = state.rings.iter().map(|ring| ring.steps.len()).sum();
            prop_assert_eq!(disk.len(), kept);
            for ring in &state.rings {
                prop_assert!(ring.steps.len() <= ring.keep);
            }
        }
    }

    #[test]
    fn a_gap_is_steps_of_zero() {
        let mut state = State::default();
        state.add(NOW - 3 * 300, hits(2));
        state.add(NOW, hits(5));
        let points = state.points(300, 5, NOW);
        let numbers: Vec<u64> = points.iter().map(|point| point.sums.index_hits).collect();
        assert_eq!(numbers, [0, 2, 0, 0, 5]);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_costs_nothing() {
        let mut state = State::default();
        let day = 86_400;
        for hour in 0..48 {
            state.add(NOW - hour * 3600, hits(1));
        }
        state.add(NOW + 70 * 365 * day, hits(1));
        state.add(NOW, hits(1));
        assert_eq!(total(&state.points(3600, 168, NOW)), hits(49));
        assert_eq!(total(&state.points(86_400, 365, NOW)), hits(49));
    }

    #[test]
    fn the_oldest_steps_go_first() {
        let mut state = State::default();
        for step in 0..700 {
            state.add(NOW + step * 300, hits(1));
        }
        let end = NOW + 699 * 300;
        assert_eq!(total(&state.points(300, 576, end)), hits(576));
        assert_eq!(total(&state.points(3600, 100, end)), hits(700));
        assert!(state.since(end) <= NOW);
    }

    #[test]
    fn the_days_of_a_month_come_from_the_hours() {
        let mut state = State::default();
        state.add(NOW - 20 * 86_400, hits(3));
        let points = state.points(6 * 3600, 120, NOW);
        assert_eq!(points.len(), 120);
        assert_eq!(total(&points), hits(3));
        let is_aligned = |point: &Point| point.at_seconds.is_multiple_of(6 * 3600);
        assert!(points.iter().all(is_aligned));
    }

    #[test]
    fn the_first_step_is_known_as_finely_as_it_is_kept() {
        let mut state = State::default();
        assert_eq!(state.since(NOW), NOW);
        state.add(60, hits(1));
        assert_eq!(state.since(90), 0, "the clock was never set");
        state.add(NOW + 700, hits(1));
        assert_eq!(state.since(NOW + 800), NOW + 600);
        assert_eq!(state.since(NOW - 86_400), NOW - 86_400);
        for step in 0..700 {
            state.add(NOW + 86_400 + step * 300, hits(1));
        }
        assert_eq!(
            state.since(NOW + 10 * 86_400),
            NOW,
            "the hours reach as far"
        );
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut state = State::default();
        state.add(NOW, hits(1));
        assert_eq!(state.take_changed(0).1.len(), RINGS.len());
        state.add(NOW, Traffic::default());
        assert!(state.take_changed(0).1.is_empty());
        state.add(NOW + 60, hits(1));
        assert_eq!(state.take_changed(0).1.len(), RINGS.len());
        let all = state.take_changed(7).1;
        assert_eq!(all.len(), RINGS.len(), "the store was opened anew");
    }

    #[test]
    fn a_step_is_written_as_drawn_and_any_other_value_is_ignored() {
        let mut state = State::default();
        state.add(NOW, hits(3));
        let (_changed, pairs) = state.take_changed(0);
        let (key, value) = &pairs[0];
        assert_eq!(key, "300/1800000000");
        let value = String::from_utf8(value.clone().expect("a value")).expect("text");
        assert!(value.starts_with(r#"{"v":1,"index_hits":3,"#), "{value}");
        let mut read = State::default();
        read.load("300/600", br#"{"v":1,"failed":2,"later":9}"#);
        assert_eq!(read.points(300, 1, 600)[0].sums.failed, 2);
        let one = br#"{"v":1,"failed":2}"#.as_slice();
        for (key, value) in [
            ("300/900", br#"{"v":2,"failed":2}"#.as_slice()),
            ("300/900", b"{}"),
            ("300/900", b"\x01\x02"),
            ("300/901", one),
            ("7/7", one),
            ("0/0", one),
            ("300/", one),
            ("since", one),
        ] {
            read.load(key, value);
        }
        assert_eq!(read.rings[0].steps.len(), 1);
        assert!(read.rings[1].steps.is_empty());
    }

    #[test]
    fn a_range_is_known_by_its_word_and_anything_else_is_a_day() {
        for range in Range::ALL {
            assert_eq!(Range::parse(range.as_str()), range);
            let json = serde_json::to_value(range).expect("JSON");
            assert_eq!(json, range.as_str());
        }
        for unknown in ["", "Day", "hour", "year "] {
            assert_eq!(Range::parse(unknown), Range::Day, "{unknown:?}");
        }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_counts_on() {
        let dir = TempDir::new().expect("a folder");
        let history = open(&dir);
        history.count(at(0), || hits(3));
        history.count(at(400), || hits(10));
        history.write().expect("written");
        // A crash: this was not written.
        history.count(at(500), || hits(1000));
        history.store.close().expect("closed");
        let history = open(&dir);
        history.count(at(700), || hits(5));
        for range in Range::ALL {
            let series = history.series(range, at(700));
            assert_eq!(series.total.sums, hits(15), "{range:?}");
            assert_eq!(series.since_seconds, NOW);
        }
        let day = history.series(Range::Day, at(700)).points;
        let last = day.iter().rev().take(4);
        let last: Vec<u64> = last.map(|point| point.sums.index_hits).collect();
        assert_eq!(last, [5, 7, 3, 0]);
    }

    #[test]
    fn every_range_ends_with_the_step_under_way_and_leaves_none_out() {
        let dir = TempDir::new().expect("a folder");
        let history = open(&dir);
        for range in Range::ALL {
            let series = history.series(range, at(123));
            let (points, step) = (series.points, series.step_seconds);
            let last = points.last().expect("points").at_seconds;
            assert!(last <= NOW + 123 && NOW + 123 < last + step);
            assert_eq!(points.len() as u64, range.steps().1);
            let is_next = |pair: &[Point]| pair[1].at_seconds - pair[0].at_seconds == step;
            assert!(points.windows(2).all(is_next));
            assert_eq!(series.total.at_seconds, points[0].at_seconds);
        }
    }

    #[test]
    fn sums_that_were_read_earlier_bring_nothing() {
        let dir = TempDir::new().expect("a folder");
        let history = open(&dir);
        let sums = |index_hits, failed| Traffic {
            failed,
            ..hits(index_hits)
        };
        for (counted, expected) in [
            (sums(10, 10), sums(10, 10)),
            (sums(12, 4), sums(12, 10)),
            (sums(12, 12), sums(12, 12)),
            (sums(11, 11), sums(12, 12)),
        ] {
            history.count(at(0), || counted);
            assert_eq!(history.series(Range::Day, at(0)).total.sums, expected);
        }
    }

    #[test]
    fn however_many_look_at_once_each_hit_is_counted_once() {
        let dir = TempDir::new().expect("a folder");
        let (history, metrics) = (open(&dir), Metrics::new().expect("series"));
        std::thread::scope(|scope| {
            for _thread in 0..8 {
                scope.spawn(|| {
                    for _time in 0..200 {
                        metrics.cache(Kind::Index, CacheResult::Hit);
                        history.count(at(0), || metrics.traffic());
                        let total = history.series(Range::Day, at(0)).total.sums;
                        assert!(total.index_hits <= metrics.traffic().index_hits);
                    }
                });
            }
        });
        let total = history.series(Range::Day, at(0)).total.sums;
        assert_eq!(total, hits(1600));
    }
}
