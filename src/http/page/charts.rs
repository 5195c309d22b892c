//! The charts of the status page: pure geometry, from points to the paths of an SVG.
//!
//! Both charts speak alike: what the mirror gave stands above the line, what upstream had to give
//! hangs below it. A chart is stretched to the width that it gets, so it holds no letters: the
//! labels are text beside it, evenly spread.
#![expect(
    clippy::cast_precision_loss,
    reason = "a pixel is coarser than what a float loses of a count"
)]

use std::fmt::Write as _;

use super::text;
use crate::status::{Point, Range, TrafficSeries};

/// The columns that a chart has at most; more would be thinner than a pixel on a phone.
const MAX_COLUMNS: usize = 120;

/// The steps that are shown of a range whose most is from before anything was recorded.
const LEAST_STEPS: usize = 24;

/// Steps that people think in, in seconds.
const STEPS: [u64; 13] = [
    300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000,
];

/// The rows between the lines of the grid, at most.
const MAX_ROWS: u64 = 4;

/// Below the line a whole row is drawn only for what takes more than this part of one.
const SHALLOW_PARTS: u64 = 5;

/// One column, in the units of the picture, and what of it a bar takes.
const COLUMN: f64 = 10.0;
const BAR: f64 = 7.5;

/// The height of the picture, in its units.
const HEIGHT: f64 = 200.0;

/// A chart, ready for its template.
#[derive(Debug, Default)]
pub(super) struct Chart {
    /// A word that tells it from the others of the page.
    pub(super) id: &'static str,
    /// Its title.
    pub(super) title: &'static str,
    /// What it shows, in a sentence with numbers.
    pub(super) description: String,
    /// What stands above the line.
    pub(super) above: &'static str,
    /// What stands above that, and should not; empty: nothing does.
    pub(super) over: &'static str,
    /// What stands above all that: requests that failed; empty: none did.
    pub(super) failed: &'static str,
    /// What hangs below the line.
    pub(super) below: &'static str,
    /// The width of the picture.
    pub(super) width: u64,
    /// Where the lines of the grid are, from the top.
    pub(super) lines: Vec<f64>,
    /// Where the line is that all stands on.
    pub(super) zero: f64,
    /// The bars above.
    pub(super) above_path: String,
    /// The bars over those.
    pub(super) over_path: String,
    /// The bars over all.
    pub(super) failed_path: String,
    /// The bars below.
    pub(super) below_path: String,
    /// The rows above, where what hangs below takes so little that it gets no row; 0: it has one.
    pub(super) shallow: u64,
    /// The labels of the lines, from the top.
    pub(super) ticks: Vec<String>,
    /// The labels of the time, evenly spread.
    pub(super) times: Vec<String>,
}

/// One column of a chart.
#[derive(Debug, Clone, Copy, Default)]
struct Column {
    above: u64,
    over: u64,
    failed: u64,
    below: u64,
}

/// The same in fewer and longer steps, where there are too many for a chart.
pub(super) fn thinned(traffic: &TrafficSeries) -> (u64, Vec<Point>) {
    let step = traffic.step_seconds.max(1);
    let fits = |candidate: &u64| {
        let each = candidate / step;
        each > 0
            && candidate.is_multiple_of(step)
            && traffic.points.len().div_ceil(usize_of(each)) <= MAX_COLUMNS
    };
    let wide = STEPS.into_iter().find(fits).unwrap_or_else(|| {
        let each = traffic.points.len().div_ceil(MAX_COLUMNS).max(1);
        step.saturating_mul(each as u64)
    });
    // By the clock: a column of an hour begins with one.
    let columns = traffic
        .points
        .chunk_by(|one, next| one.at_seconds / wide == next.at_seconds / wide);
    (wide, columns.map(Point::sum).collect())
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Answers from here and from upstream.
pub(super) fn of_requests(range: Range, points: &[Point]) -> Chart {
    let columns: Vec<Column> = points
        .iter()
        .map(|point| Column {
            above: point.sums.hits(),
            over: point.sums.index_stale,
            failed: point.sums.failed,
            below: point.sums.misses(),
        })
        .collect();
    let total = Point::sum(points).sums;
    let stale = total.index_stale > 0;
    let described = format!(
        "{} were answered from here, {} of them past their time, {} by asking upstream, and {} failed.",
        text::counted(total.hits().saturating_add(total.index_stale), "request"),
        text::count(total.index_stale),
        text::count(total.misses()),
        text::count(total.failed),
    );
    Chart {
        id: "requests",
        title: "Requests",
        description: described,
        above: "answered from here",
        over: if stale { "past their time" } else { "" },
        failed: if total.failed > 0 { "failed" } else { "" },
        below: "upstream was asked",
        ..drawn(range, &columns, text::count)
    }
}

/// Bytes that were saved, and those that were fetched.
pub(super) fn of_bytes(range: Range, points: &[Point]) -> Chart {
    let columns: Vec<Column> = points
        .iter()
        .map(|point| Column {
            above: point.sums.saved_bytes,
            over: 0,
            failed: 0,
            below: point.sums.fetched_bytes,
        })
        .collect();
    let total = Point::sum(points).sums;
    Chart {
        id: "bytes",
        title: "Bytes",
        description: format!(
            "{} were sent without asking upstream for them, and {} were fetched from it.",
            text::size(total.saved_bytes),
            text::size(total.fetched_bytes),
        ),
        above: "saved",
        below: "fetched",
        ..drawn(range, &columns, whole_size)
    }
}

/// A round size, without a digit that is zero.
fn whole_size(bytes: u64) -> String {
    text::size(bytes).replace(".0 ", " ")
}

/// The smallest round number with which `above` and `below` are at most [`MAX_ROWS`] rows.
fn round_row(above: u64, below: u64) -> u64 {
    let rows = |row: u64| above.div_ceil(row).saturating_add(below.div_ceil(row));
    let mut power: u64 = 1;
    loop {
        for multiple in [1, 2, 5] {
            let row = power.saturating_mul(multiple);
            if rows(row) <= MAX_ROWS || row == u64::MAX {
                return row;
            }
        }
        power = power.saturating_mul(10);
    }
}

/// The geometry of a chart and its labels.
fn drawn(range: Range, columns: &[Column], label: impl Fn(u64) -> String) -> Chart {
    let most = |of: fn(&Column) -> u64| columns.iter().map(of).max().unwrap_or(0);
    let above = most(|column| {
        let well = column.above.saturating_add(column.over);
        well.saturating_add(column.failed)
    });
    let below = most(|column| column.below);
    let row = round_row(above, below);
    // An empty chart has a row above its line, too.
    let (up, down) = (above.div_ceil(row).max(1), below.div_ceil(row));
    let is_shallow = below > 0 && below <= row / SHALLOW_PARTS;
    let rows = if is_shallow { up } else { up + down };
    let hangs = if is_shallow {
        1.0 / SHALLOW_PARTS as f64
    } else {
        0.0
    };
    let height_of_row = HEIGHT / (rows as f64 + hangs);
    let scale = Scale {
        zero: height_of_row * up as f64,
        unit: height_of_row / row as f64,
    };
    let label = |line: u64| match above | below {
        // The line above nothing is no measure.
        0 if line == 0 => String::new(),
        _ => label(up.abs_diff(line).saturating_mul(row)),
    };
    let mut chart = Chart {
        width: (columns.len().max(1) as u64).saturating_mul(10),
        lines: (0..=rows)
            .map(|line| rounded(height_of_row * line as f64))
            .collect(),
        zero: rounded(scale.zero),
        shallow: if is_shallow { up } else { 0 },
        ticks: (0..=rows).map(label).collect(),
        times: times(range),
        ..Chart::default()
    };
    for (at, column) in columns.iter().enumerate() {
        let x = at as f64 * COLUMN + (COLUMN - BAR) / 2.0;
        let (above, over) = (scale.of(column.above), scale.of(column.over));
        bar(&mut chart.above_path, x, scale.zero, -above);
        bar(&mut chart.over_path, x, scale.zero - above, -over);
        let failed = scale.of(column.failed);
        bar(
            &mut chart.failed_path,
            x,
            scale.zero - above - over,
            -failed,
        );
        bar(&mut chart.below_path, x, scale.zero, scale.of(column.below));
    }
    chart
}

/// As exact as a picture needs.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// From numbers to the units of the picture.
struct Scale {
    zero: f64,
    unit: f64,
}

impl Scale {
    /// A height. What is not nothing can be seen.
    fn of(&self, number: u64) -> f64 {
        if number == 0 {
            return 0.0;
        }
        (number as f64 * self.unit).max(1.0)
    }
}

/// A bar from `y` by `height`, which is negative for one that stands.
fn bar(path: &mut String, x: f64, y: f64, height: f64) {
    if height.abs() > 0.0 {
        let end = (y + height).clamp(0.0, HEIGHT);
        let begin = y.clamp(0.0, HEIGHT);
        // A string takes every write.
        let written = write!(path, "M{x:.2} {begin:.1}h{BAR:.1}V{end:.1}h-{BAR:.1}z");
        debug_assert!(written.is_ok());
    }
}

/// The labels of a range, evenly spread.
fn times(range: Range) -> Vec<String> {
    let labels: &[&str] = match range {
        Range::Week => &["7 days ago", "6", "5", "4", "3", "2", "1", "now"],
        Range::Month => &["30 days ago", "20 days", "10 days", "now"],
        Range::Year => &["12 months ago", "9", "6", "3", "now"],
        Range::Day => &["24 h ago", "18 h", "12 h", "6 h", "now"],
    };
    labels.iter().map(ToString::to_string).collect()
}

/// How many of the first steps are left out: those from before anything was recorded, where they
/// are many. A mirror of this morning has no sliver at the edge of an empty day.
pub(super) fn unrecorded(traffic: &TrafficSeries) -> usize {
    let is_before = |point: &&Point| {
        point.at_seconds.saturating_add(traffic.step_seconds) <= traffic.since_seconds
    };
    let before = traffic.points.iter().take_while(is_before).count();
    let most = traffic.points.len().saturating_sub(LEAST_STEPS);
    if before > traffic.points.len() / 4 {
        before.min(most)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Traffic;

    fn point_of(sums: Traffic) -> Point {
        Point {
            at_seconds: 0,
            sums,
        }
    }

    fn traffic(step_seconds: u64, points: usize) -> TrafficSeries {
        TrafficSeries {
            step_seconds,
            points: (0..points as u64)
                .map(|at| Point {
                    at_seconds: (at + 1) * step_seconds,
                    sums: Traffic {
                        index_hits: 1,
                        ..Traffic::default()
                    },
                })
                .collect(),
            ..TrafficSeries::default()
        }
    }

    #[test]
    fn a_chart_begins_when_recording_did() {
        let recorded_since = |step: u64| TrafficSeries {
            since_seconds: step * 300,
            ..traffic(300, 288)
        };
        assert_eq!(unrecorded(&recorded_since(0)), 0);
        assert_eq!(
            unrecorded(&recorded_since(40)),
            0,
            "a few are shown as they are"
        );
        assert_eq!(unrecorded(&recorded_since(200)), 199);
        assert_eq!(unrecorded(&recorded_since(288)), 264, "two hours at least");
        assert_eq!(unrecorded(&TrafficSeries::default()), 0);
    }

    #[test]
    fn steps_are_joined_to_what_people_think_in() {
        let check = |step: u64, points: usize, wide: u64, columns: usize| {
            let (step, thinned) = thinned(&traffic(step, points));
            assert_eq!((step, thinned.len()), (wide, columns));
            let hits = Point::sum(&thinned).sums.index_hits;
            assert_eq!(hits, points as u64, "nothing is lost");
        };
        check(300, 288, 900, 97);
        check(3600, 168, 7200, 85);
        check(21_600, 120, 21_600, 120);
        check(3600, 720, 21_600, 121);
        check(86_400, 30, 86_400, 30);
        check(86_400, 365, 604_800, 53);
        check(300, 0, 300, 0);
        check(0, 3, 300, 1);
    }

    #[test]
    fn the_lines_of_the_grid_are_round() {
        let check = |above: u64, below: u64, row: u64| assert_eq!(round_row(above, below), row);
        check(0, 0, 1);
        check(4, 0, 1);
        check(100, 3, 50);
        check(1234, 100, 500);
        check(700_000_000, 0, 200_000_000);
        assert!(round_row(u64::MAX, u64::MAX) >= u64::MAX / 4);
    }

    #[test]
    fn what_is_from_here_stands_and_what_is_from_upstream_hangs() {
        let points = [
            point_of(Traffic {
                crate_hits: 2,
                index_stale: 1,
                ..Traffic::default()
            }),
            point_of(Traffic {
                crate_misses: 1,
                ..Traffic::default()
            }),
        ];
        let chart = of_requests(Range::Day, &points);
        assert_eq!(chart.ticks, ["3", "2", "1", "0", "1"]);
        assert_eq!(chart.above_path, "M1.25 150.0h7.5V50.0h-7.5z");
        assert_eq!(chart.over_path, "M1.25 50.0h7.5V0.0h-7.5z");
        assert_eq!(chart.below_path, "M11.25 150.0h7.5V200.0h-7.5z");
        assert_eq!((chart.over, chart.failed), ("past their time", ""));
    }

    #[test]
    fn what_failed_stands_over_all_and_counts_as_a_request() {
        let point = point_of(Traffic {
            index_stale: 1,
            failed: 3,
            ..Traffic::default()
        });
        let chart = of_requests(Range::Day, &[point]);
        assert_eq!(point.sums.requests(), 4);
        assert_eq!(chart.over_path, "M1.25 200.0h7.5V150.0h-7.5z");
        assert_eq!(chart.failed_path, "M1.25 150.0h7.5V0.0h-7.5z");
        assert_eq!(chart.failed, "failed");
    }

    #[test]
    fn what_hangs_by_little_gets_no_row() {
        let point = |crate_hits, crate_misses| {
            point_of(Traffic {
                crate_hits,
                crate_misses,
                ..Traffic::default()
            })
        };
        let shallow = of_requests(Range::Day, &[point(100, 3)]);
        assert_eq!(shallow.ticks, ["100", "50", "0"]);
        assert_eq!((shallow.shallow, shallow.lines.len()), (2, 3));
        assert_eq!(shallow.below_path, "M1.25 181.8h7.5V187.3h-7.5z");
        let deep = of_requests(Range::Day, &[point(100, 11)]);
        assert_eq!(deep.ticks, ["100", "50", "0", "50"]);
        assert_eq!(deep.shallow, 0);
    }

    #[test]
    fn nothing_is_an_empty_chart() {
        for points in [&[][..], &[Point::default(); 5][..]] {
            for chart in [
                of_requests(Range::Week, points),
                of_bytes(Range::Year, points),
            ] {
                let paths = [
                    &chart.above_path,
                    &chart.over_path,
                    &chart.failed_path,
                    &chart.below_path,
                ];
                assert!(paths.iter().all(|path| path.is_empty()));
                assert!(chart.width > 0);
                assert!(chart.ticks.len() > 1);
                assert!((chart.zero - HEIGHT).abs() < 0.01);
            }
        }
    }

    /// The numbers of a path, which has no others than its coordinates.
    fn numbers(path: &str) -> Vec<f64> {
        path.split(|letter: char| letter.is_ascii_alphabetic() || letter == ' ')
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().expect("a number"))
            .collect()
    }

    fn amount() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0..1000_u64, any::<u64>()]
    }

    fn point() -> impl Strategy<Value = Point> {
        (amount(), amount(), amount(), amount(), amount()).prop_map(
            |(crate_hits, index_misses, index_stale, saved_bytes, fetched_bytes)| {
                point_of(Traffic {
                    crate_hits,
                    failed: saved_bytes / 2,
                    index_misses,
                    index_stale,
                    saved_bytes,
                    fetched_bytes,
                    ..Traffic::default()
                })
            },
        )
    }

    proptest! {
        #[test]
        fn every_bar_is_inside_the_picture(points in prop::collection::vec(point(), 0..130)) {
            for chart in [of_requests(Range::Day, &points), of_bytes(Range::Day, &points)] {
                let width = chart.width as f64;
                for path in [&chart.above_path, &chart.over_path, &chart.failed_path, &chart.below_path] {
                    for bar in numbers(path).chunks(5) {
                        prop_assert!(bar.iter().all(|number| number.is_finite()));
                        prop_assert!((0.0..=width).contains(&bar[0]) && bar[0] + bar[2] <= width);
                        prop_assert!((0.0..=HEIGHT).contains(&bar[1]) && (0.0..=HEIGHT).contains(&bar[3]));
                    }
                }
                prop_assert!(chart.lines.iter().all(|line| (0.0..=HEIGHT).contains(line)));
                prop_assert_eq!(chart.lines.len(), chart.ticks.len());
            }
        }
    }
}
