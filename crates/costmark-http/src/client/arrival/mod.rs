//! When the bytes of a socket arrived.
//!
//! Linux notes for TCP as well when a packet came in (`SO_TIMESTAMPNS`). With that, what this
//! process takes to wake up, and to come round to the socket, is no part of a latency. Elsewhere,
//! and where the note is missing, the time of the read stands for it.

#[cfg_attr(not(target_os = "linux"), path = "unstamped.rs")]
mod kernel;

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use costmark_core::{Clock, MonotonicClock};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub(crate) use kernel::Receiver;

/// When bytes came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The last of them arrived at this machine, as far as that is known.
    pub(crate) at_ns: u64,
    /// They left the socket.
    pub(crate) read_ns: u64,
    /// `at_ns` is the kernel's, not the time of the read.
    pub(crate) by_kernel: bool,
}

/// How late token events were read, and who says when they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Punctuality {
    events: u64,
    /// Of these, those whose instant is the kernel's.
    by_kernel: u64,
    /// From their arrival to their reading: sum, and most of one.
    late_ns: u64,
    latest_ns: u64,
}

impl Punctuality {
    pub(crate) fn add(&mut self, arrival: Arrival) {
        let late_ns = arrival.read_ns - arrival.at_ns;
        self.merge(Self {
            events: 1,
            by_kernel: u64::from(arrival.by_kernel),
            late_ns,
            latest_ns: late_ns,
        });
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.events += other.events;
        self.by_kernel += other.by_kernel;
        self.late_ns += other.late_ns;
        self.latest_ns = self.latest_ns.max(other.latest_ns);
    }

    /// In words, once there was an event.
    pub(crate) fn note(&self) -> Option<String> {
        if self.events == 0 {
            return None;
        }
        if self.by_kernel == 0 {
            return Some(
                "Token instants are when their bytes were read from the socket: this system does \
                 not tell when they arrived."
                    .into(),
            );
        }
        let which = match self.events - self.by_kernel {
            0 => "Token instants are when their bytes arrived".to_owned(),
            others => format!(
                "Token instants are when their bytes arrived, but for {others} of {}, which have \
                 the time of the read",
                self.events
            ),
        };
        Some(format!(
            "{which}, as the system's kernel tells; they were read {:.3} ms later on average, at \
             most {:.1} ms.",
            self.late_ns as f64 / self.by_kernel as f64 / 1e6,
            self.latest_ns as f64 / 1e6
        ))
    }
}

/// What was read last from a socket.
pub(crate) type Stamp = Rc<Cell<Arrival>>;

/// Notes the time of whatever is read, below TLS and before any parsing.
pub(crate) struct Stamped {
    socket: TcpStream,
    clock: MonotonicClock,
    stamp: Stamp,
    /// Reads with the kernel's notes, where it makes some.
    receiver: Option<Rc<RefCell<Receiver>>>,
}

impl Stamped {
    /// Notes arrivals in `stamp`. All sockets of a thread share one `receiver`, if there is one.
    pub(crate) fn new(
        socket: TcpStream,
        clock: MonotonicClock,
        stamp: Stamp,
        receiver: Option<Rc<RefCell<Receiver>>>,
    ) -> Self {
        let receiver = receiver.filter(|_| Receiver::prepare(&socket));
        Self {
            socket,
            clock,
            stamp,
            receiver,
        }
    }
}

impl AsyncRead for Stamped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(receiver) = &self.receiver {
            let mut receiver = receiver.borrow_mut();
            return receiver.poll_read(&self.socket, self.clock, &self.stamp, cx, buf);
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            let now_ns = self.clock.now_ns();
            self.stamp.set(Arrival {
                at_ns: now_ns,
                read_ns: now_ns,
                by_kernel: false,
            });
        }
        read
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
