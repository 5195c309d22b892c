//! Tells the service manager how things go: the protocol of `sd_notify`, datagrams of `KEY=value`
//! lines. Where there is no service manager nothing is sent, and trouble in telling harms nothing.
//!
//! Two words change what the manager does, and it has no other way to know them: that this server is
//! ready, and that it stops. For those a manager that is busy is waited for; all others are said again
//! before long, so that they may be lost, and whoever says them never waits.
//!
//! The crate `sd-notify` is no help here: it looks for the socket in the environment, which only the
//! room of the configuration reads, and it waits without an end where the manager does not read.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;

use crate::config::ServiceManager;

/// How long a start or a stop may take from each word on.
const MORE_TIME: Duration = Duration::from_secs(60);

/// How often it is asked for.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The longest status text; the manager cuts longer ones.
const MOST_STATUS: usize = 250;

/// How long a manager that does not read is waited for where the word matters.
const WORTH_WAITING: Duration = Duration::from_secs(5);

/// The way to the service manager. A handle: all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Notify(Option<Arc<Line>>);

#[derive(Debug)]
struct Line {
    /// It gives up at once.
    hasty: UnixDatagram,
    /// It waits.
    patient: UnixDatagram,
    to: SocketAddr,
    /// Held while something is told, so that words come in order.
    told: Mutex<Told>,
}

/// What the manager has heard.
#[derive(Debug, Default)]
struct Told {
    /// The last status text, which is not sent twice.
    status: String,
    /// That the server is ready did not get through.
    owes_ready: bool,
    /// After that nothing else is true.
    is_stopping: bool,
}

impl Notify {
    /// The way that the environment names; where it leads nowhere, nobody is told.
    pub(super) fn to(manager: &ServiceManager) -> Notify {
        let Some(name) = &manager.notify else {
            return Notify(None);
        };
        match Line::open(name) {
            Ok(line) => Notify(Some(Arc::new(line))),
            Err(error) => {
                tracing::warn!(%error, "could not reach the service manager by NOTIFY_SOCKET");
                Notify(None)
            }
        }
    }

    /// Whether somebody wants to know.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// It answers now. Waits some seconds for a manager that is busy; where that is not enough,
    /// [`status`](Notify::status) says it.
    pub(super) fn ready(&self, status: &str) {
        let Some(line) = &self.0 else { return };
        let mut told = line.told.lock();
        if !told.is_stopping {
            told.owes_ready = !line.tell(&line.patient, "READY=1", status, &mut told.status);
        }
    }

    /// How it goes, in one line. Never waits.
    pub(super) fn status(&self, status: &str) {
        let Some(line) = &self.0 else { return };
        // Somebody waits for the manager; this is said again.
        let Some(mut told) = line.told.try_lock() else {
            return;
        };
        if told.is_stopping || (told.status == status && !told.owes_ready) {
            return;
        }
        let state = if told.owes_ready { "READY=1" } else { "" };
        if line.tell(&line.hasty, state, status, &mut told.status) {
            told.owes_ready = false;
        }
    }

    /// It reads its configuration; [`ready`](Notify::ready) follows.
    pub(super) fn reloading(&self) {
        let Some(line) = &self.0 else { return };
        let told = line.told.lock();
        if !told.is_stopping {
            line.send(&line.hasty, "RELOADING=1");
        }
    }

    /// It ends, which may take as long as `most`. Nothing but more of this is told after it.
    pub(super) fn stopping(&self, most: Duration) {
        let Some(line) = &self.0 else { return };
        let micros = most.as_micros();
        let state = format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}");
        let status = "stopping; lets answers and jobs under way end";
        let mut told = line.told.lock();
        told.is_stopping = true;
        line.tell(&line.patient, &state, status, &mut told.status);
    }

    /// A sign of life.
    pub(super) fn alive(&self) {
        if let Some(line) = &self.0 {
            line.send(&line.hasty, "WATCHDOG=1");
        }
    }

    /// Keeps asking for more time, for what takes as long as it takes, until the result is dropped.
    pub(super) fn patience(&self, status: &str) -> Patience {
        let Some(line) = self.0.clone() else {
            return Patience(None);
        };
        Notify(Some(Arc::clone(&line))).status(status);
        let (over, wait) = mpsc::channel::<()>();
        let ask = move || {
            let more = format!("EXTEND_TIMEOUT_USEC={}", MORE_TIME.as_micros());
            loop {
                line.send(&line.hasty, &more);
                match wait.recv_timeout(ASK_AGAIN) {
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let asking = std::thread::Builder::new().name("orlop-patience".to_owned());
        Patience(asking.spawn(ask).ok().map(|thread| (over, thread)))
    }
}

impl Line {
    fn open(name: &OsStr) -> io::Result<Line> {
        let to = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                return Err(io::Error::other(
                    "it is neither a path nor an abstract name",
                ));
            }
        };
        let (hasty, patient) = (UnixDatagram::unbound()?, UnixDatagram::unbound()?);
        // A manager that does not read must not hold up the service.
        hasty.set_nonblocking(true)?;
        patient.set_write_timeout(Some(WORTH_WAITING))?;
        Ok(Line {
            hasty,
            patient,
            to,
            told: Mutex::default(),
        })
    }

    /// Says `state` with a status text, and notes the text in `last` once it got through.
    fn tell(&self, by: &UnixDatagram, state: &str, status: &str, last: &mut String) -> bool {
        // One line, which the words of others in it must not break.
        let shown: String = status
            .chars()
            .filter(|letter| !letter.is_control())
            .take(MOST_STATUS)
            .collect();
        let is_told = self.send(by, format!("{state}\nSTATUS={shown}").trim_start());
        if is_told {
            status.clone_into(last);
        }
        is_told
    }

    /// Whether it got through.
    fn send(&self, by: &UnixDatagram, text: &str) -> bool {
        let sent = by.send_to_addr(text.as_bytes(), &self.to);
        if let Err(error) = &sent {
            tracing::debug!(%error, "could not tell the service manager");
        }
        sent.is_ok()
    }
}

/// Asks for more time until it is dropped.
#[must_use]
pub(super) struct Patience(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some((over, thread)) = self.0.take() {
            drop(over);
            // It has no more to say after this, so that nothing comes after what is told next.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixDatagram, Notify, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let notify = Notify::to(&ServiceManager {
            notify: Some(path.into()),
            watchdog: None,
        });
        (manager, notify, dir)
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn a_status_is_told_once_and_in_one_line() {
        let (manager, notify, _dir) = pair();
        notify.ready("serving");
        notify.status("serving");
        notify.status("one\nREADY=1");
        notify.alive();
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving");
        assert_eq!(heard(&manager), "STATUS=oneREADY=1");
        assert_eq!(heard(&manager), "WATCHDOG=1");
    }

    #[test]
    fn patience_asks_for_time_and_ends_before_the_next_word() {
        let (manager, notify, _dir) = pair();
        let patience = notify.patience("opening the store");
        assert_eq!(heard(&manager), "STATUS=opening the store");
        assert_eq!(heard(&manager), "EXTEND_TIMEOUT_USEC=60000000");
        drop(patience);
        notify.ready("serving");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving");
    }

    /// Until the manager's queue is full.
    fn flood(notify: &Notify) -> usize {
        let line = notify.0.as_ref().unwrap();
        let mut count = 0;
        while line.send(&line.hasty, "X=1") {
            count += 1;
        }
        count
    }

    #[test]
    fn a_manager_that_is_busy_hears_that_it_is_ready_all_the_same() {
        let (manager, notify, _dir) = pair();
        let count = flood(&notify);
        assert!(count > 0);
        // Not noted, so that it is said when there is room.
        notify.status("serving");
        let telling = std::thread::spawn({
            let notify = notify.clone();
            move || notify.ready("serving")
        });
        for _ in 0..count {
            assert_eq!(heard(&manager), "X=1");
        }
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving");
        telling.join().unwrap();
    }

    #[test]
    fn a_word_that_was_lost_is_said_again() {
        let (manager, notify, _dir) = pair();
        let line = notify.0.clone().unwrap();
        let timeout = Some(Duration::from_millis(1));
        line.patient.set_write_timeout(timeout).unwrap();
        let count = flood(&notify);
        notify.ready("serving");
        notify.status("serving");
        for _ in 0..count {
            assert_eq!(heard(&manager), "X=1");
        }
        notify.status("serving");
        notify.status("serving");
        notify.alive();
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving");
        assert_eq!(heard(&manager), "WATCHDOG=1");
    }

    #[test]
    fn nothing_but_the_stop_is_told_after_it_began() {
        let (manager, notify, _dir) = pair();
        notify.stopping(Duration::from_secs(1));
        notify.reloading();
        notify.ready("serving");
        notify.status("serving");
        notify.alive();
        assert!(heard(&manager).starts_with("STOPPING=1\n"));
        assert_eq!(heard(&manager), "WATCHDOG=1");
    }

    #[test]
    fn an_abstract_name_is_reached_and_nonsense_is_nobody() {
        let name = format!("orlop-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let to = |name: String| {
            Notify::to(&ServiceManager {
                notify: Some(name.into()),
                watchdog: None,
            })
        };
        to(format!("@{name}")).alive();
        assert_eq!(heard(&manager), "WATCHDOG=1");
        assert!(!to("nonsense".to_owned()).is_wanted());
        to("/nobody/is/here".to_owned()).alive();
    }
}
