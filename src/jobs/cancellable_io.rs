//! Reads and writes what may stand still for hours, such as a pipe, without being deaf to a cancel.
//!
//! It waits with `poll`, a moment at a time, and not by making the file non-blocking: that would
//! change it for everybody who has it open, and it is somebody's stdin or stdout.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FileType,
    net::SendFlags,
};

use crate::jobs::JobContext;

/// How often a cancel is looked for while nothing moves.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// What a pipe that is ready takes without making its writer wait: POSIX's `PIPE_BUF`.
const PIPE_BYTES: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

/// A file, pipe or socket whose reads and writes end soon after the job is cancelled, with an error
/// of which [`JobContext::is_cancelled`] tells what it is.
#[derive(Debug)]
pub(super) struct CancellableIo<T> {
    inner: T,
    kind: FileType,
    cx: JobContext,
    moved: u64,
}

impl<T: AsFd> CancellableIo<T> {
    pub(super) fn new(inner: T, cx: JobContext) -> CancellableIo<T> {
        // What cannot be asked what it is will say so when it is used.
        let kind = rustix::fs::fstat(&inner).map_or(FileType::RegularFile, |stat| {
            FileType::from_raw_mode(stat.st_mode)
        });
        CancellableIo {
            inner,
            kind,
            cx,
            moved: 0,
        }
    }

    /// How many bytes went through.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    fn count(&mut self, moved: &io::Result<usize>) {
        let moved = *moved.as_ref().unwrap_or(&0);
        self.moved = self.moved.saturating_add(moved as u64);
    }

    /// Until it is ready, or broken: then the read or write itself says how.
    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        loop {
            if self.cx.is_cancelled() {
                // Not `Interrupted`, after which callers try again.
                return Err(io::Error::other("it was cancelled"));
            }
            let mut files = [PollFd::new(&self.inner, flags)];
            match poll(&mut files, Some(&LOOK_EVERY)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Of a file that somebody made non-blocking, and that another one emptied or filled meanwhile.
fn was_too_late(outcome: &io::Result<usize>) -> bool {
    let error = outcome.as_ref().err();
    error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl<T: Read + AsFd> Read for CancellableIo<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            let read = self.inner.read(buffer);
            self.count(&read);
            if !was_too_late(&read) {
                return read;
            }
        }
    }
}

impl<T: Write + AsFd> Write for CancellableIo<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::OUT)?;
            let written = match self.kind {
                FileType::Fifo => {
                    let some = bytes.get(..PIPE_BYTES).unwrap_or(bytes);
                    self.inner.write(some)
                }
                FileType::Socket => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    rustix::net::send(&self.inner, bytes, flags).map_err(io::Error::from)
                }
                // Whole: a tape makes a block of each write.
                _ => self.inner.write(bytes),
            };
            self.count(&written);
            if !was_too_late(&written) {
                return written;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::net::UnixStream,
        sync::{Arc, mpsc},
        time::Duration,
    };

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::jobs::Caller;

    fn cancellable() -> (JobContext, CancellationToken) {
        let cancelled = CancellationToken::new();
        let cx = JobContext::new(
            Caller::owner("a test"),
            Arc::new(|_event| ()),
            cancelled.clone(),
        );
        (cx, cancelled)
    }

    /// Runs `work` on a thread of its own, cancels once it has had time to wait, and returns what
    /// it said; it must end long before whoever holds the other end lets go.
    #[track_caller]
    fn cancelled(work: impl FnOnce(JobContext) -> io::Result<()> + Send + 'static) -> String {
        let (cx, cancelled) = cancellable();
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || done.send(work(cx)));
        std::thread::sleep(Duration::from_millis(50));
        cancelled.cancel();
        let outcome = ended.recv_timeout(Duration::from_secs(20));
        let outcome = outcome.expect("it ends after the cancel");
        outcome.expect_err("it was cancelled").to_string()
    }

    #[test]
    fn a_write_that_nobody_takes_ends_with_the_cancel() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let said = cancelled(|cx| CancellableIo::new(writer, cx).write_all(&vec![7; 1 << 20]));
        assert_eq!(said, "it was cancelled");
        drop(reader);
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let said = cancelled(|cx| CancellableIo::new(ours, cx).write_all(&vec![7; 8 << 20]));
        assert_eq!(said, "it was cancelled");
        drop(theirs);
    }

    #[test]
    fn a_read_that_gets_nothing_ends_with_the_cancel() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let said = cancelled(|cx| {
            let mut reader = CancellableIo::new(reader, cx);
            reader.read(&mut [0; 10]).map(drop)
        });
        assert_eq!(said, "it was cancelled");
        drop(writer);
    }

    #[test]
    fn what_moves_goes_through_whole_and_ends() {
        let bytes: Vec<u8> = (0..=250).cycle().take(300_001).collect();
        let sent = bytes.clone();
        let (reader, writer) = io::pipe().expect("a pipe");
        let sending = std::thread::spawn(move || {
            let mut writer = CancellableIo::new(writer, JobContext::of_test());
            writer.write_all(&sent)
        });
        let mut got = Vec::new();
        let mut reader = CancellableIo::new(reader, JobContext::of_test());
        reader.read_to_end(&mut got).expect("it ends");
        sending.join().expect("no panic").expect("it is taken");
        assert!(got == bytes);

        let mut file =
            CancellableIo::new(tempfile::tempfile().expect("a file"), JobContext::of_test());
        file.write_all(&bytes).expect("a file takes bytes");
        assert_eq!(file.read(&mut [0; 1]).expect("its end"), 0);

        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let broken = CancellableIo::new(writer, JobContext::of_test()).write_all(b"some");
        let kind = broken.expect_err("nobody reads").kind();
        assert_eq!(kind, io::ErrorKind::BrokenPipe);
    }
}
