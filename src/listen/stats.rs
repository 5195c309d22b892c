//! What the listener counts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::heartbeat::{Beats, Pulse};

/// What the listener counts; read at any time.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) open: AtomicUsize,
    pub(super) refusing: AtomicUsize,
    pub(super) http1: AtomicU64,
    pub(super) http2: AtomicU64,
    pub(super) upgraded: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) beats: Arc<Beats>,
}

impl Stats {
    /// How the workers are.
    pub fn pulse(&self) -> Pulse {
        self.beats.pulse()
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that spoke HTTP/1.1.
    pub fn http1(&self) -> u64 {
        self.http1.load(Ordering::Relaxed)
    }

    /// Connections that spoke HTTP/2 from the first byte.
    pub fn http2(&self) -> u64 {
        self.http2.load(Ordering::Relaxed)
    }

    /// Connections that went from HTTP/1.1 to HTTP/2.
    pub fn upgraded(&self) -> u64 {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Connections turned away because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections ended by a time limit, idle ones among them.
    pub fn timed_out(&self) -> u64 {
        self.timed_out.load(Ordering::Relaxed)
    }
}

/// One more in a gauge until it is dropped.
pub(super) struct Slot<'a>(pub(super) &'a AtomicUsize);

impl<'a> Slot<'a> {
    pub(super) fn take(gauge: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let slot = (gauge.fetch_add(1, Ordering::AcqRel) < limit, Self(gauge));
        slot.0.then_some(slot.1)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
