//! Adoption: brings the records to the crate files that are there.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{
    blob_store::{BlobStore as _, BlobWalk},
    codec::View,
    error::Error,
    facts::Adoption,
    handle::Store,
    queue::{Job, Mark, RecordEdit},
};

/// How many names' marks go to the committer at a time.
const MARKS_AT_A_TIME: usize = 512;

impl Store {
    /// Looks through all crate files and brings the records and the counts to what is there. A job
    /// for the time after the start: it takes seconds on a large store, and does little when the
    /// last stop was in order. Removes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn adopt(&self, stop: &AtomicBool) -> Result<Adoption, Error> {
        let queue = &self.shared().queue;
        queue.call(Job::WalkBegin)?;
        let Some(walk) = BlobWalk::through(&self.shared().blobs, stop)? else {
            return Ok(Adoption {
                stopped: true,
                ..Adoption::default()
            });
        };
        let mut adoption = Adoption {
            blobs: walk.held.blobs,
            blob_bytes: walk.held.bytes,
            not_understood: walk.not_understood,
            ..Adoption::default()
        };
        if !self.shared().agrees(&walk.held) && !self.mark_all(&walk, stop, &mut adoption)? {
            adoption.stopped = true;
            return Ok(adoption);
        }
        queue.call(|reply| Job::Edit(RecordEdit::WalkEnd(walk), reply))?;
        Ok(adoption)
    }

    /// `false`: it was stopped.
    fn mark_all(
        &self,
        walk: &BlobWalk,
        stop: &AtomicBool,
        adoption: &mut Adoption,
    ) -> Result<bool, Error> {
        let mut marks = Vec::new();
        let mut outcome = Ok(());
        self.visit(&mut |_key, view| {
            marks.extend(self.marks_of(view, walk, adoption));
            if marks.len() >= MARKS_AT_A_TIME {
                outcome = self.send_marks(std::mem::take(&mut marks));
            }
            outcome.is_ok() && !stop.load(Relaxed)
        })?;
        outcome?;
        self.send_marks(marks)?;
        Ok(!stop.load(Relaxed))
    }

    fn send_marks(&self, marks: Vec<Mark>) -> Result<(), Error> {
        if marks.is_empty() {
            return Ok(());
        }
        self.shared()
            .queue
            .call(|reply| Job::Edit(RecordEdit::Mark(marks), reply))
    }

    fn marks_of(&self, view: &View<'_>, walk: &BlobWalk, adoption: &mut Adoption) -> Option<Mark> {
        let mut checksums = Vec::new();
        for row in view.rows() {
            let marked = self.shared().is_held(&row);
            if marked == walk.checksums.may_contain(&row.checksum) {
                continue;
            }
            let held = self.shared().blobs.has(&row.checksum);
            if held != marked {
                checksums.push(row.checksum);
                adoption.adopted += u64::from(held);
                adoption.lost += u64::from(marked);
            }
        }
        let name = view.name().ok()?;
        (!checksums.is_empty()).then_some(Mark { name, checksums })
    }
}
