//! [`HttpMeters`]: what a server has answered.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counted where things happen.
#[derive(Debug, Default)]
pub struct HttpMeters {
    /// Answers by the first digit of their status, from 2 to 5.
    answers: [AtomicU64; 4],
    bytes_sent: AtomicU64,
    connections: AtomicU64,
    connections_cut: AtomicU64,
}

/// The totals since the start, and what is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct HttpTotals {
    /// Answers by the first digit of their status, from 2 to 5.
    pub answers: [u64; 4],
    /// Bytes of bodies that were sent.
    pub bytes_sent: u64,
    /// Connections that are open now.
    pub connections: u64,
    /// Connections that were ended because nothing moved for too long.
    pub connections_cut: u64,
}

impl HttpMeters {
    /// All of them now.
    pub fn totals(&self) -> HttpTotals {
        HttpTotals {
            answers: std::array::from_fn(|n| self.answers[n].load(Relaxed)),
            bytes_sent: self.bytes_sent.load(Relaxed),
            connections: self.connections.load(Relaxed),
            connections_cut: self.connections_cut.load(Relaxed),
        }
    }

    pub(super) fn answered(&self, status: hyper::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(2, 5);
        self.answers[class - 2].fetch_add(1, Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn closed(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    pub(super) fn cut(&self) {
        self.connections_cut.fetch_add(1, Relaxed);
    }
}
