//! Reports to the service manager (`sd_notify`): ready, reloading, stopping, status text, watchdog.
//! Without a service manager nothing is sent, and a failure to send harms nothing.
//!
//! A thread of its own sends, because a send waits for as long as the manager does not read its
//! socket. So no caller waits, and `READY=1` gets through however late the manager reads: the
//! manager has no other way to know that this server is ready. What is reported again before long
//! anyway is dropped while the queue is full.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex, MutexGuard};
use sd_notify::NotifyState;

use crate::config::ServiceManager;

/// How long a start or a stop may take from each report on.
const MORE_TIME: Duration = Duration::from_secs(60);

/// How often more time is requested.
const MORE_TIME_INTERVAL: Duration = Duration::from_secs(10);

/// When a report that must get through is sent again after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The longest status text; the manager cuts longer ones.
const MAX_STATUS: usize = 250;

/// How many reports wait for a manager that does not read, before the less important ones are
/// dropped.
const MAX_QUEUED: usize = 8;

/// How long [`Notify::flush`] waits for a manager that does not read.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The reports to the service manager. All clones are one.
#[derive(Debug, Clone)]
pub(super) struct Notify(Option<Arc<Line>>);

#[derive(Debug, Default)]
struct Line {
    queue: Mutex<Queue>,
    /// There is something to do for the thread that sends.
    changed: Condvar,
    /// A report was sent, or failed.
    sent: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Report>,
    state: Sending,
    /// The last status text, which is not sent twice.
    status: String,
    /// After that nothing else is true.
    is_stopping: bool,
    /// Something takes long: more time is requested again and again.
    needs_time: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Sending {
    #[default]
    Idle,
    Busy,
    /// The last report failed.
    Failing,
}

#[derive(Debug, PartialEq, Eq)]
struct Report {
    text: String,
    /// It changes what the manager does, and is not sent again later.
    must_arrive: bool,
}

impl Notify {
    /// Reports to the manager that the environment names, if it names one.
    pub(super) fn to(manager: &ServiceManager) -> Notify {
        let Some(socket) = &manager.notify else {
            return Notify(None);
        };
        if socket.as_encoded_bytes().starts_with(b"@") {
            tracing::warn!(
                "the service manager gets no reports: `NOTIFY_SOCKET` names the abstract socket \
                 `{}`, and only paths are supported",
                socket.display()
            );
            return Notify(None);
        }
        Notify::by(|text| sd_notify::notify(&[NotifyState::Custom(text)]))
    }

    /// Reports by `send`, which may block.
    pub(super) fn by(send: impl Fn(&str) -> io::Result<()> + Send + 'static) -> Notify {
        let line = Arc::new(Line::default());
        let sending = Arc::clone(&line);
        let thread = std::thread::Builder::new().name("orlop-notify".to_owned());
        match thread.spawn(move || sending.send_all(send)) {
            Ok(_runs_to_the_end) => Notify(Some(line)),
            Err(error) => {
                tracing::warn!(%error, "could not start the thread that reports to the service manager");
                Notify(None)
            }
        }
    }

    /// Whether there is a service manager to report to.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// The server accepts requests.
    pub(super) fn ready(&self, status: &str) {
        self.report(|queue| {
            status.clone_into(&mut queue.status);
            let text = format!("{}\n{}", NotifyState::Ready, status_line(status));
            queue.push(text, true);
        });
    }

    /// How it goes, in one line.
    pub(super) fn status(&self, status: &str) {
        self.report(|queue| {
            if queue.status != status && queue.push(status_line(status), false) {
                status.clone_into(&mut queue.status);
            }
        });
    }

    /// The server reads its configuration again; [`ready`](Notify::ready) follows.
    pub(super) fn reloading(&self) {
        self.report(|queue| {
            queue.push(NotifyState::Reloading.to_string(), false);
        });
    }

    /// The server stops, which may take as long as `max`. No other report but more of this follows.
    pub(super) fn stopping(&self, max: Duration) {
        let stopping = NotifyState::Stopping;
        let status = status_line("stopping; lets answers and jobs under way end");
        let text = format!("{stopping}\n{}\n{status}", more_time(max));
        if let Some(line) = &self.0 {
            let mut queue = line.queue.lock();
            queue.is_stopping = true;
            queue.needs_time = false;
            queue.push(text, true);
            line.changed.notify_one();
        }
        self.flush();
    }

    /// Feeds the watchdog.
    pub(super) fn alive(&self) {
        if let Some(line) = &self.0 {
            line.queue
                .lock()
                .push(NotifyState::Watchdog.to_string(), false);
            line.changed.notify_one();
        }
    }

    /// Requests more time again and again, until the result is dropped.
    pub(super) fn more_time(&self, status: &str) -> MoreTime {
        self.status(status);
        self.report(|queue| queue.needs_time = true);
        MoreTime(self.clone())
    }

    /// Waits until all reports are sent, for some seconds at most.
    pub(super) fn flush(&self) {
        let Some(line) = &self.0 else { return };
        let mut queue = line.queue.lock();
        line.sent.wait_while_for(
            &mut queue,
            |queue| match queue.state {
                Sending::Idle => !queue.waiting.is_empty(),
                Sending::Busy => true,
                Sending::Failing => false,
            },
            FLUSH_TIMEOUT,
        );
    }

    fn report(&self, change: impl FnOnce(&mut Queue)) {
        let Some(line) = &self.0 else { return };
        let mut queue = line.queue.lock();
        if !queue.is_stopping {
            change(&mut queue);
            line.changed.notify_one();
        }
    }
}

impl Queue {
    /// Whether the report is queued.
    fn push(&mut self, text: String, must_arrive: bool) -> bool {
        let is_full = self.waiting.len() >= MAX_QUEUED;
        if is_full && must_arrive {
            // The newest replaces those before it.
            self.waiting.clear();
        } else if is_full {
            return false;
        }
        self.waiting.push_back(Report { text, must_arrive });
        // A flush waits for this report, whatever became of the last one.
        if self.state == Sending::Failing {
            self.state = Sending::Idle;
        }
        true
    }
}

impl Line {
    fn send_all(&self, send: impl Fn(&str) -> io::Result<()>) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(report) = queue.waiting.pop_front() {
                self.send(&mut queue, report, &send);
            } else if queue.needs_time {
                let report = Report {
                    text: more_time(MORE_TIME),
                    must_arrive: false,
                };
                self.send(&mut queue, report, &send);
                self.changed.wait_for(&mut queue, MORE_TIME_INTERVAL);
            } else {
                self.changed.wait(&mut queue);
            }
        }
    }

    fn send(
        &self,
        queue: &mut MutexGuard<'_, Queue>,
        report: Report,
        by: impl Fn(&str) -> io::Result<()>,
    ) {
        queue.state = Sending::Busy;
        let outcome = MutexGuard::unlocked(queue, || by(&report.text));
        queue.state = match outcome {
            Ok(()) => Sending::Idle,
            Err(_) => Sending::Failing,
        };
        self.sent.notify_all();
        let Err(error) = outcome else { return };
        tracing::debug!(%error, "could not report to the service manager");
        queue.status.clear();
        if report.must_arrive {
            queue.waiting.push_front(report);
            self.changed.wait_for(queue, RETRY_INTERVAL);
        }
    }
}

fn more_time(time: Duration) -> String {
    // The crate's own type ends at 71 minutes.
    format!("EXTEND_TIMEOUT_USEC={}", time.as_micros())
}

/// A status text in one line: control characters from other sources must not break the protocol.
fn status_line(status: &str) -> String {
    let shown: String = status
        .chars()
        .filter(|letter| !letter.is_control())
        .take(MAX_STATUS)
        .collect();
    NotifyState::Status(&shown).to_string()
}

/// Requests more time until it is dropped.
#[must_use]
pub(super) struct MoreTime(Notify);

impl Drop for MoreTime {
    fn drop(&mut self) {
        self.0.report(|queue| queue.needs_time = false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel, sync_channel},
    };

    use super::*;

    /// A manager whose socket takes as many reports as `room` before it has to be read.
    fn manager(room: usize) -> (Receiver<String>, Notify) {
        let (sender, receiver) = sync_channel(room);
        let notify = Notify::by(move |text| {
            sender
                .send(text.to_owned())
                .map_err(|_gone| io::ErrorKind::ConnectionRefused.into())
        });
        (receiver, notify)
    }

    fn next(manager: &Receiver<String>) -> String {
        manager.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn a_status_is_reported_once_and_in_one_line() {
        let (manager, notify) = manager(8);
        notify.ready("serving");
        notify.status("serving");
        notify.status("one\nREADY=1");
        notify.alive();
        assert_eq!(next(&manager), "READY=1\nSTATUS=serving");
        assert_eq!(next(&manager), "STATUS=oneREADY=1");
        assert_eq!(next(&manager), "WATCHDOG=1");
    }

    #[test]
    fn more_time_is_requested_until_the_next_report() {
        let (manager, notify) = manager(8);
        let more_time = notify.more_time("opening the store");
        assert_eq!(next(&manager), "STATUS=opening the store");
        assert_eq!(next(&manager), "EXTEND_TIMEOUT_USEC=60000000");
        drop(more_time);
        notify.ready("serving");
        assert_eq!(next(&manager), "READY=1\nSTATUS=serving");
    }

    #[test]
    fn a_manager_that_does_not_read_gets_ready_and_holds_up_nobody() {
        let (manager, notify) = manager(0);
        for number in 0..100 {
            notify.status(&number.to_string());
            notify.alive();
        }
        notify.ready("serving");
        notify.status("more");
        let reports: Vec<String> = std::iter::from_fn(|| {
            let report = next(&manager);
            (report != "STATUS=more").then_some(report)
        })
        .collect();
        assert_eq!(reports.last().unwrap(), "READY=1\nSTATUS=serving");
        assert!(reports.len() <= MAX_QUEUED + 2, "{reports:?}");
    }

    #[test]
    fn ready_is_sent_again_after_a_failure() {
        let (sender, manager) = channel();
        let is_down = Arc::new(AtomicBool::new(true));
        let down = Arc::clone(&is_down);
        let notify = Notify::by(move |text| {
            if down.swap(false, Ordering::SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            sender.send(text.to_owned()).unwrap();
            Ok(())
        });
        notify.ready("serving");
        assert_eq!(next(&manager), "READY=1\nSTATUS=serving");
        assert!(!is_down.load(Ordering::SeqCst));
    }

    #[test]
    fn after_stopping_only_more_time_to_stop_and_the_watchdog_are_reported() {
        let (manager, notify) = manager(8);
        notify.stopping(Duration::from_secs(1));
        notify.reloading();
        notify.ready("serving");
        notify.status("serving");
        notify.stopping(Duration::from_secs(2));
        notify.alive();
        assert!(next(&manager).starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=1000000\n"));
        assert!(next(&manager).starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000\n"));
        assert_eq!(next(&manager), "WATCHDOG=1");
    }

    #[test]
    fn without_a_manager_nothing_is_sent() {
        let notify = Notify::to(&ServiceManager::default());
        assert!(!notify.is_wanted());
        notify.stopping(Duration::from_secs(1));
    }
}
