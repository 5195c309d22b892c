//! The signs of life of a server: feeds the watchdog of the service manager as long as the store
//! can be read and every worker gets its turn, and keeps its status text current.
//!
//! A thread of its own looks at the disk, which may hang: what it looks at, and the verdict, are read
//! from what it left. Whoever feeds and tells never touches the disk, so that it can say who stalls.

use std::{
    convert::Infallible,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use super::notify::Notify;
use crate::{
    app::App,
    http,
    listen::Pulse,
    status::{Health, Status},
    util::error::one_line,
};

/// How often the status text is looked at; it is sent where it changed.
const STATUS_PERIOD: Duration = Duration::from_secs(2);

/// What keeps the signs of life.
#[derive(Debug)]
pub(super) struct Vitals {
    pub(super) app: App,
    pub(super) http: http::Live,
    pub(super) notify: Notify,
    /// `None`: nobody waits for signs of life.
    pub(super) watchdog: Option<Duration>,
    /// What the last reload was refused for.
    refused: Mutex<Option<String>>,
    probe: Probe,
}

/// How often the workers show that they are alive, for such a watchdog.
pub(super) fn heartbeat(watchdog: Duration) -> Duration {
    watchdog / 8
}

impl Vitals {
    pub(super) fn new(
        app: &App,
        http: http::Live,
        notify: Notify,
        watchdog: Option<Duration>,
    ) -> Vitals {
        Vitals {
            probe: Probe::start(app.status()),
            app: app.clone(),
            http,
            notify,
            watchdog,
            refused: Mutex::default(),
        }
    }

    /// Notes how a reload went: why it was refused is told until one goes well.
    pub(super) fn reloaded(&self, refused: Option<String>) {
        *self.refused.lock() = refused;
        self.notify.ready(&self.status());
    }

    /// How it goes, in one line: what was seen last.
    pub(super) fn status(&self) -> String {
        let verdict = self.probe.seen.lock().verdict.clone();
        match &*self.refused.lock() {
            Some(why) => format!("{verdict}; the last reload was refused: {why}"),
            None => verdict,
        }
    }

    /// Tells the service manager until it is dropped. Never blocks.
    pub(super) async fn keep(self: Arc<Self>) -> Infallible {
        if !self.notify.is_wanted() {
            return std::future::pending().await;
        }
        let mut feeder = self.watchdog.map(Feeder::new);
        let period = match self.watchdog {
            Some(watchdog) => STATUS_PERIOD.min(watchdog / 8),
            None => STATUS_PERIOD,
        };
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let seen = self.probe.ask();
            let pulse = self.http.pulse();
            let stalled = match &mut feeder {
                Some(feeder) => feeder.look(&seen, &pulse, Instant::now(), &self.notify),
                None => Vec::new(),
            };
            match stalled.as_slice() {
                [] => self.notify.status(&self.status()),
                stalled => self
                    .notify
                    .status(&format!("stalled: {}", stalled.join("; "))),
            }
        }
    }
}

/// Reads the store whenever it is asked to, on a thread of its own, which may hang with the disk.
#[derive(Debug)]
struct Probe {
    ask: mpsc::SyncSender<()>,
    seen: Arc<Mutex<Seen>>,
}

/// What reading the store brought of late.
#[derive(Debug, Clone)]
struct Seen {
    /// When a read last came back.
    read: Instant,
    /// What the last one failed with.
    failed: Option<String>,
    /// How it went then, in one line.
    verdict: String,
}

impl Probe {
    fn start(status: &Status) -> Probe {
        let (asked, judged) = (status.clone(), status.clone());
        let look = move || asked.check_store().map_err(|error| one_line(&error));
        Probe::of(look, move || Health::of(&judged.gather()).summary)
    }

    /// Judges once at once.
    fn of(
        look: impl Fn() -> Result<(), String> + Send + 'static,
        judge: impl Fn() -> String + Send + 'static,
    ) -> Probe {
        // One question waits at most: more would be asked at once when the disk is back.
        let (ask, asked) = mpsc::sync_channel(1);
        let seen = Arc::new(Mutex::new(Seen {
            read: Instant::now(),
            failed: None,
            verdict: judge(),
        }));
        let told = Arc::clone(&seen);
        let thread = std::thread::Builder::new().name("orlop-probe".to_owned());
        let started = thread.spawn(move || {
            while asked.recv().is_ok() {
                let (outcome, verdict) = (look(), judge());
                let mut seen = told.lock();
                if outcome.is_ok() {
                    seen.read = Instant::now();
                }
                seen.failed = outcome.err();
                seen.verdict = verdict;
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "could not start the thread that reads the store for the watchdog");
        }
        Probe { ask, seen }
    }

    /// Has the store read once more, and tells what came of it before.
    fn ask(&self) -> Seen {
        // A question that is waiting already is as good.
        let _waits = self.ask.try_send(());
        self.seen.lock().clone()
    }
}

/// Decides when the watchdog is fed.
#[derive(Debug)]
struct Feeder {
    watchdog: Duration,
    fed: Option<Instant>,
    stalled: bool,
}

impl Feeder {
    fn new(watchdog: Duration) -> Feeder {
        Feeder {
            watchdog,
            fed: None,
            stalled: false,
        }
    }

    /// Feeds the watchdog where it is time and all is alive; gives back what is not.
    fn look(&mut self, seen: &Seen, pulse: &Pulse, now: Instant, notify: &Notify) -> Vec<String> {
        let stalled = stalled(seen, pulse, now, self.watchdog / 2);
        if stalled.is_empty() {
            // The last look before half of its time: they come each eighth of it or more often, and
            // a little early or late.
            let due = self.watchdog * 7 / 16;
            let is_due = |fed: Instant| now.saturating_duration_since(fed) >= due;
            if self.fed.is_none_or(is_due) {
                notify.alive();
                self.fed = Some(now);
            }
        }
        match (stalled.is_empty(), self.stalled) {
            (false, false) => tracing::error!(
                "the watchdog is not fed any more, so the service manager restarts this server \
                 unless it recovers: {}",
                stalled.join("; ")
            ),
            (true, true) => tracing::warn!("all is alive again; the watchdog is fed"),
            _ => {}
        }
        self.stalled = !stalled.is_empty();
        stalled
    }
}

/// What showed no sign of life for longer than `limit`.
fn stalled(seen: &Seen, pulse: &Pulse, now: Instant, limit: Duration) -> Vec<String> {
    let mut stalled = Vec::new();
    let silent =
        |last: Instant| Some(now.saturating_duration_since(last)).filter(|age| *age > limit);
    if let Some(age) = silent(seen.read) {
        let age = age.as_secs();
        stalled.push(match &seen.failed {
            Some(why) => format!("the store could not be read for {age} s: {why}"),
            None => format!("no read of the store came back for {age} s"),
        });
    }
    for (number, last) in &pulse.beats {
        if let Some(age) = silent(*last) {
            stalled.push(format!(
                "HTTP worker {number} got no turn for {} s",
                age.as_secs()
            ));
        }
    }
    if pulse.beats.len() < pulse.expected {
        let (count, expected) = (pulse.beats.len(), pulse.expected);
        stalled.push(format!("only {count} of {expected} HTTP workers are there"));
    }
    stalled
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn alive(now: Instant) -> (Seen, Pulse) {
        let seen = Seen {
            read: now,
            failed: None,
            verdict: String::new(),
        };
        let pulse = Pulse {
            beats: vec![(1, now), (2, now)],
            expected: 2,
        };
        (seen, pulse)
    }

    #[test]
    fn what_stalls_is_named() {
        let start = Instant::now();
        let (mut seen, mut pulse) = alive(start);
        let later = start + Duration::from_secs(31);
        assert!(stalled(&seen, &pulse, start + LIMIT, LIMIT).is_empty());
        pulse.beats[0].1 = later;
        assert_eq!(
            stalled(&seen, &pulse, later, LIMIT),
            [
                "no read of the store came back for 31 s",
                "HTTP worker 2 got no turn for 31 s"
            ]
        );
        seen.failed = Some("no such file".to_owned());
        pulse.beats.truncate(1);
        assert_eq!(
            stalled(&seen, &pulse, later, LIMIT),
            [
                "the store could not be read for 31 s: no such file",
                "only 1 of 2 HTTP workers are there"
            ]
        );
    }

    /// A service manager, and whether it was fed when it is asked.
    struct Manager(mpsc::Receiver<String>, Notify);

    impl Manager {
        fn start() -> Manager {
            let (sender, reports) = mpsc::channel();
            let notify = Notify::by(move |text| {
                sender.send(text.to_owned()).unwrap();
                Ok(())
            });
            Manager(reports, notify)
        }

        fn was_fed(&self) -> bool {
            self.1.flush();
            self.0.try_recv().is_ok_and(|text| text == "WATCHDOG=1")
        }
    }

    #[test]
    fn it_is_fed_at_half_its_time_while_all_is_alive() {
        const MINUTE: Duration = Duration::from_secs(60);
        let manager = Manager::start();
        let check = |period: Duration, jitter: i64, expected: [u64; 3]| {
            let start = Instant::now();
            let mut feeder = Feeder::new(MINUTE);
            let mut fed_at = Vec::new();
            for tick in 0..=u32::try_from(60_000 / period.as_millis()).unwrap() {
                let late = i64::from(tick % 2) * jitter;
                let since = (period * tick).as_millis();
                let since = i64::try_from(since).unwrap() + late;
                let since = Duration::from_millis(u64::try_from(since).unwrap());
                let (seen, pulse) = alive(start + since);
                assert!(
                    feeder
                        .look(&seen, &pulse, start + since, &manager.1)
                        .is_empty()
                );
                if manager.was_fed() {
                    fed_at.push(since.as_secs());
                }
            }
            assert_eq!(fed_at, expected, "{period:?} {jitter}");
        };
        // As slowly as it looks, and as often.
        for jitter in [0, -50, 50] {
            check(heartbeat(MINUTE), jitter, [0, 30, 60]);
            check(STATUS_PERIOD, jitter, [0, 28, 56]);
        }
    }

    #[test]
    fn it_is_not_fed_while_the_store_or_a_worker_stalls() {
        let manager = Manager::start();
        let start = Instant::now();
        let now = start + Duration::from_secs(90);
        let (fresh, pulse) = alive(now);
        let (old, late) = alive(start);
        let mut feeder = Feeder::new(Duration::from_secs(60));
        let stalled = feeder.look(&old, &pulse, now, &manager.1);
        assert!(
            stalled[0].starts_with("no read of the store"),
            "{stalled:?}"
        );
        assert!(!manager.was_fed());
        assert_eq!(feeder.look(&fresh, &late, now, &manager.1).len(), 2);
        assert!(!manager.was_fed());
        // It recovers.
        assert!(feeder.look(&fresh, &pulse, now, &manager.1).is_empty());
        assert!(manager.was_fed());
    }

    /// The thread waits for a word that does not come, as on a disk that hangs.
    #[test]
    fn whoever_asks_does_not_hang_with_the_disk() {
        let (never, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let is_first = Mutex::new(true);
        let judge = move || {
            if !std::mem::take(&mut *is_first.lock()) {
                let _end = wait.lock().recv();
            }
            "serving".to_owned()
        };
        let probe = Probe::of(|| Ok(()), judge);
        let read = probe.seen.lock().read;
        for _ in 0..10 {
            let seen = probe.ask();
            assert_eq!((seen.read, seen.verdict.as_str()), (read, "serving"));
        }
        drop(never);
    }
}
