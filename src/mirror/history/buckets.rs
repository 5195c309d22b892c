//! What went through, by time: pure arithmetic over equal steps.

use std::collections::{BTreeMap, BTreeSet};

use crate::metrics::Traffic;

/// How many numbers a point has.
pub(super) const FIELDS: usize = 10;

/// The numbers of a point, in the order of [`Traffic`]'s fields.
pub(super) type Sums = [u64; FIELDS];

pub(super) fn sums_of(traffic: &Traffic) -> Sums {
    [
        traffic.index_hits,
        traffic.index_misses,
        traffic.index_stale,
        traffic.crate_hits,
        traffic.crate_misses,
        traffic.served_bytes,
        traffic.fetched_bytes,
        traffic.saved_bytes,
        traffic.upstream_failures,
        traffic.failed,
    ]
}

pub(super) fn traffic_of(sums: &Sums) -> Traffic {
    let [
        index_hits,
        index_misses,
        index_stale,
        crate_hits,
        crate_misses,
        served_bytes,
        fetched_bytes,
        saved_bytes,
        upstream_failures,
        failed,
    ] = *sums;
    Traffic {
        index_hits,
        index_misses,
        index_stale,
        crate_hits,
        crate_misses,
        served_bytes,
        fetched_bytes,
        saved_bytes,
        upstream_failures,
        failed,
    }
}

pub(super) fn add(to: &mut Sums, sums: &Sums) {
    for (to, more) in to.iter_mut().zip(sums) {
        *to = to.saturating_add(*more);
    }
}

/// What `now` has more than `seen`, which is brought up to it. Sums only grow while the program
/// runs: a smaller one was read earlier, and brings nothing that was not counted already.
pub(super) fn take_more(now: &Sums, seen: &mut Sums) -> Sums {
    let mut more = Sums::default();
    for ((more, now), seen) in more.iter_mut().zip(now).zip(seen) {
        *more = now.saturating_sub(*seen);
        *seen = (*seen).max(*now);
    }
    more
}

/// How fine a series is, and how much of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Grain {
    /// The length of a step.
    pub(super) step_seconds: u64,
    /// How many steps in which something happened are kept.
    pub(super) keep: usize,
}

/// Two days, 100 days and five years.
pub(super) const GRAINS: [Grain; 3] = [
    Grain {
        step_seconds: 300,
        keep: 48 * 12,
    },
    Grain {
        step_seconds: 3600,
        keep: 100 * 24,
    },
    Grain {
        step_seconds: 86_400,
        keep: 5 * 365 + 1,
    },
];

/// How many steps of a series are kept under one key: what a minute changes is written with a few
/// kilobytes.
pub(super) const CHUNK: u64 = 48;

/// Where a piece of a series is kept: the length of its steps, and when its first begins.
pub(super) type Place = (u64, u64);

/// One series: the steps in which something happened, by when they begin.
///
/// Which are forgotten is decided by their number and not by their age: a clock that is set to
/// another year and back must not cost what was recorded.
#[derive(Debug, Clone)]
struct Series {
    grain: Grain,
    steps: BTreeMap<u64, Sums>,
}

impl Series {
    fn start_of(&self, at: u64) -> u64 {
        at - at % self.grain.step_seconds
    }

    fn place_of(&self, start: u64) -> Place {
        let step = self.grain.step_seconds;
        (step, start - start % (CHUNK * step))
    }

    /// Adds to the step that `at` is in. Returns the places that became others.
    fn add(&mut self, at: u64, sums: &Sums) -> Vec<Place> {
        let start = self.start_of(at);
        add(self.steps.entry(start).or_default(), sums);
        let mut changed = vec![self.place_of(start)];
        while self.steps.len() > self.grain.keep {
            let ends = [self.steps.keys().next(), self.steps.keys().next_back()];
            let far = |start: &&u64| start.abs_diff(at);
            let Some(farthest) = ends.into_iter().flatten().max_by_key(far).copied() else {
                break;
            };
            self.steps.remove(&farthest);
            changed.push(self.place_of(farthest));
        }
        changed
    }

    fn sum(&self, from: u64, until: u64) -> Sums {
        let mut total = Sums::default();
        for (_start, sums) in self.steps.range(from..until) {
            add(&mut total, sums);
        }
        total
    }
}

/// All series. Everything that is added is in each of them.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    series: [Series; GRAINS.len()],
    /// Places that are not on the disk as they are here.
    changed: BTreeSet<Place>,
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets {
            series: GRAINS.map(|grain| Series {
                grain,
                steps: BTreeMap::new(),
            }),
            changed: BTreeSet::new(),
        }
    }
}

impl Buckets {
    /// Adds what went through just now.
    pub(super) fn add(&mut self, now: u64, sums: &Sums) {
        if *sums == Sums::default() {
            return;
        }
        for series in &mut self.series {
            self.changed.extend(series.add(now, sums));
        }
    }

    /// Takes in a step as it was kept. What would be more than is kept is passed over.
    pub(super) fn restore(&mut self, step_seconds: u64, start: u64, sums: Sums) {
        let of_step = |series: &&mut Series| series.grain.step_seconds == step_seconds;
        let Some(series) = self.series.iter_mut().find(of_step) else {
            return;
        };
        if start.is_multiple_of(step_seconds) && series.steps.len() < series.grain.keep {
            series.steps.insert(start, sums);
        }
    }

    /// `count` steps up to the one that `now` is in, the oldest first: when each begins, and what
    /// went through. A step is made of the finest series that is kept for as long.
    pub(super) fn points(&self, step_seconds: u64, count: u64, now: u64) -> Vec<(u64, Sums)> {
        let span = step_seconds.saturating_mul(count);
        let is_long_enough = |series: &&Series| {
            let kept = u64::try_from(series.grain.keep).unwrap_or(u64::MAX);
            let step = series.grain.step_seconds;
            step_seconds.is_multiple_of(step) && kept.saturating_mul(step) >= span
        };
        let series = self.series.iter().find(is_long_enough);
        let last = now - now % step_seconds;
        let starts = (0..count)
            .rev()
            .filter_map(|back| last.checked_sub(back * step_seconds));
        starts
            .map(|start| {
                let until = start.saturating_add(step_seconds);
                let sums = series.map(|series| series.sum(start, until));
                (start, sums.unwrap_or_default())
            })
            .collect()
    }

    /// When the first step begins, from a time to another, that anything is known of: as finely as
    /// it is known.
    pub(super) fn first(&self, mut from: u64, mut until: u64) -> Option<u64> {
        let mut first = None;
        for series in self.series.iter().rev() {
            if from > until {
                break;
            }
            if let Some((start, _sums)) = series.steps.range(from..=until).next() {
                first = Some(*start);
                from = *start;
                until = until.min(start.saturating_add(series.grain.step_seconds - 1));
            }
        }
        first
    }

    /// Everything is to be written again: what was on the disk is lost.
    pub(super) fn mark_all(&mut self) {
        for series in &self.series {
            let starts = series.steps.keys();
            self.changed
                .extend(starts.map(|start| series.place_of(*start)));
        }
    }

    /// The places that are not on the disk as they are here; from now on they count as written.
    pub(super) fn take_changed(&mut self) -> BTreeSet<Place> {
        std::mem::take(&mut self.changed)
    }

    /// They could not be written.
    pub(super) fn put_back(&mut self, changed: BTreeSet<Place>) {
        self.changed.extend(changed);
    }

    /// What is at a place, the oldest first.
    pub(super) fn at(&self, (step_seconds, start): Place) -> Vec<(u64, Sums)> {
        let of_step = |series: &&Series| series.grain.step_seconds == step_seconds;
        let Some(series) = self.series.iter().find(of_step) else {
            return Vec::new();
        };
        let until = start.saturating_add(CHUNK.saturating_mul(step_seconds));
        let steps = series.steps.range(start..until);
        steps.map(|(start, sums)| (*start, *sums)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn one(number: u64) -> Sums {
        [number; FIELDS]
    }

    fn total(points: &[(u64, Sums)]) -> Sums {
        points.iter().fold(Sums::default(), |mut total, (_, sums)| {
            add(&mut total, sums);
            total
        })
    }

    /// What a restart gives: everything written, and read again.
    fn restarted(buckets: &mut Buckets, disk: &mut BTreeMap<Place, Vec<(u64, Sums)>>) -> Buckets {
        for place in buckets.take_changed() {
            disk.insert(place, buckets.at(place));
        }
        let mut read = Buckets::default();
        for ((step, _start), steps) in disk.iter() {
            for (start, sums) in steps {
                read.restore(*step, *start, *sums);
            }
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
            let (mut buckets, mut disk) = (Buckets::default(), BTreeMap::new());
            let mut added = Sums::default();
            for (ago, number, ends) in adds {
                buckets.add(NOW - ago, &one(number));
                add(&mut added, &one(number));
                if ends {
                    buckets = restarted(&mut buckets, &mut disk);
                }
            }
            for (step, count) in [(3600, 41 * 24), (6 * 3600, 41 * 4), (86_400, 41), (86_400, 365)] {
                let points = buckets.points(step, count, NOW);
                prop_assert_eq!(points.len() as u64, count);
                prop_assert_eq!(total(&points), added, "{} steps of {} s", count, step);
            }
            for series in &buckets.series {
                let all: Vec<_> = series.steps.clone().into_iter().collect();
                prop_assert_eq!(total(&all), added);
            }
        }

        /// Steps that are merged into coarser ones have the same sum as those.
        #[test]
        fn coarse_steps_are_the_sums_of_fine_ones(
            adds in prop::collection::vec((0_u64..86_400, 0_u64..1000), 1..60),
        ) {
            let mut buckets = Buckets::default();
            for (ago, number) in adds {
                buckets.add(NOW - ago, &one(number));
            }
            let fine = buckets.points(300, 576, NOW);
            for (start, sums) in buckets.points(3600, 24, NOW) {
                let parts = fine.iter().filter(|(at, _)| *at >= start && *at < start + 3600);
                let parts: Vec<_> = parts.copied().collect();
                prop_assert_eq!(total(&parts), sums);
            }
        }

        /// However long it runs, and wherever the clock is, there is an end to what is kept.
        #[test]
        fn there_is_a_bound(starts in prop::collection::vec(any::<u32>(), 1..2000)) {
            let mut buckets = Buckets::default();
            for start in starts {
                buckets.add(u64::from(start), &one(1));
            }
            for series in &buckets.series {
                prop_assert!(series.steps.len() <= series.grain.keep);
            }
        }
    }

    #[test]
    fn a_gap_is_steps_of_zero() {
        let mut buckets = Buckets::default();
        buckets.add(NOW - 3 * 300, &one(2));
        buckets.add(NOW, &one(5));
        let points = buckets.points(300, 5, NOW);
        let numbers: Vec<u64> = points.iter().map(|(_, sums)| sums[0]).collect();
        assert_eq!(numbers, [0, 2, 0, 0, 5]);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_costs_nothing() {
        let mut buckets = Buckets::default();
        let day = 86_400;
        for hour in 0..48 {
            buckets.add(NOW - hour * 3600, &one(1));
        }
        buckets.add(NOW + 70 * 365 * day, &one(1));
        buckets.add(NOW, &one(1));
        assert_eq!(total(&buckets.points(3600, 168, NOW)), one(49));
        assert_eq!(total(&buckets.points(86_400, 365, NOW)), one(49));
    }

    #[test]
    fn the_oldest_steps_go_first() {
        let mut buckets = Buckets::default();
        for step in 0..700 {
            buckets.add(NOW + step * 300, &one(1));
        }
        let end = NOW + 699 * 300;
        assert_eq!(total(&buckets.points(300, 576, end)), one(576));
        assert_eq!(buckets.series[0].steps.len(), 576);
        assert_eq!(total(&buckets.points(3600, 100, end)), one(700));
        assert!(buckets.first(0, u64::MAX).is_some_and(|first| first <= NOW));
    }

    #[test]
    fn the_days_of_a_month_come_from_the_hours() {
        let mut buckets = Buckets::default();
        buckets.add(NOW - 20 * 86_400, &one(3));
        let points = buckets.points(6 * 3600, 120, NOW);
        assert_eq!(points.len(), 120);
        assert_eq!(total(&points), one(3));
        assert!(points.iter().all(|(start, _)| start % (6 * 3600) == 0));
    }

    #[test]
    fn sums_that_were_read_earlier_bring_nothing() {
        let mut seen = one(10);
        let mut earlier = one(12);
        earlier[3] = 4;
        let mut more = one(2);
        more[3] = 0;
        assert_eq!(take_more(&earlier, &mut seen), more);
        assert_eq!(take_more(&one(12), &mut seen)[3], 2, "4 was not kept");
        assert_eq!(take_more(&one(11), &mut seen), one(0));
        assert_eq!(seen, one(12));
    }

    #[test]
    fn the_first_step_is_known_as_finely_as_it_is_kept() {
        let mut buckets = Buckets::default();
        assert_eq!(buckets.first(0, u64::MAX), None);
        buckets.add(60, &one(1));
        buckets.add(NOW + 700, &one(1));
        assert_eq!(buckets.first(0, u64::MAX), Some(0));
        assert_eq!(buckets.first(86_400, NOW + 800), Some(NOW + 600));
        assert_eq!(buckets.first(86_400, NOW - 86_400), None);
        for step in 0..700 {
            buckets.add(NOW + 86_400 + step * 300, &one(1));
        }
        assert_eq!(buckets.first(86_400, u64::MAX), Some(NOW));
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut buckets = Buckets::default();
        buckets.add(NOW, &one(1));
        assert_eq!(buckets.take_changed().len(), GRAINS.len());
        assert!(buckets.take_changed().is_empty());
        buckets.add(NOW, &Sums::default());
        assert!(buckets.take_changed().is_empty());
        buckets.add(NOW + 60, &one(1));
        let changed = buckets.take_changed();
        assert!(changed.iter().all(|place| buckets.at(*place).len() <= 48));
        buckets.put_back(changed.clone());
        assert_eq!(buckets.take_changed(), changed);
    }
}
