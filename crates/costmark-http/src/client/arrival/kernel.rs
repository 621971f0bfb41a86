//! Reads bytes together with the kernel's note of when they came.

use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use costmark_core::{Clock, MonotonicClock};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use super::{Arrival, Stamp};

/// Most bytes per read; events are smaller, and one buffer for all sockets stays in the cache.
const BUFFER_BYTES: usize = 16 << 10;
/// The wall clock and ours run at one rate. Where their distance changes by more than this
/// between two reads, the wall clock was set, or this thread lost its core between two readings:
/// either way the note says nothing.
const STEP_NS: u128 = 1_000_000;

/// What reading needs, shared by the sockets of a thread.
pub(crate) struct Receiver {
    bytes: Box<[u8]>,
    control: Vec<u8>,
    /// What the wall clock was ahead of ours at the read before.
    ahead_ns: Option<i128>,
}

impl Receiver {
    /// On this system there is one.
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            bytes: vec![0; BUFFER_BYTES].into(),
            control: nix::cmsg_space!(TimeSpec),
            ahead_ns: None,
        })
    }

    /// Asks for notes of what comes in on `socket`; whether there will be some.
    pub(crate) fn prepare(socket: &TcpStream) -> bool {
        setsockopt(socket, ReceiveTimestampns, &true).is_ok()
    }

    /// Reads what there is, at most [`BUFFER_BYTES`], and notes in `stamp` when it came.
    pub(crate) fn poll_read(
        &mut self,
        socket: &TcpStream,
        clock: MonotonicClock,
        stamp: &Stamp,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let room = buf.remaining().min(BUFFER_BYTES);
            let mut read = None;
            let tried = socket.try_io(Interest::READABLE, || {
                let (n, noted) = self.receive(socket, room)?;
                read = Some((n, noted));
                if 0 < n && n < room {
                    // There is no more: to say so now saves the call that finds it out.
                    return Err(ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match (read, tried) {
                (Some((n, noted)), _) => {
                    buf.put_slice(&self.bytes[..n]);
                    if n > 0 {
                        let before_ns = stamp.get().at_ns;
                        stamp.set(self.arrival(clock, noted, before_ns));
                    }
                    return Poll::Ready(Ok(()));
                }
                (None, Err(error)) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => {}
                    _ => return Poll::Ready(Err(error)),
                },
                (None, Ok(())) => {} // It ran nothing: asked again.
            }
        }
    }

    /// How many bytes, and what the wall clock showed when the last of them came.
    fn receive(
        &mut self,
        socket: &TcpStream,
        room: usize,
    ) -> io::Result<(usize, Option<Duration>)> {
        let mut parts = [IoSliceMut::new(&mut self.bytes[..room])];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut self.control),
            MsgFlags::empty(),
        )?;
        let noted = message.cmsgs()?.find_map(|note| match note {
            ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
            _ => None,
        });
        Ok((message.bytes, noted))
    }

    /// When bytes came that were just read: by the kernel's note, where that can be believed.
    fn arrival(
        &mut self,
        clock: MonotonicClock,
        noted: Option<Duration>,
        before_ns: u64,
    ) -> Arrival {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let read_ns = clock.now_ns();
        let noted = noted.zip(wall.ok()).and_then(|(noted, wall)| {
            let ahead_ns = wall.as_nanos().cast_signed() - i128::from(read_ns);
            let last_ns = self.ahead_ns.replace(ahead_ns).unwrap_or(ahead_ns);
            on_our_clock(noted, ahead_ns, last_ns)
        });
        Arrival {
            // Not before what came earlier, and not in the future.
            at_ns: noted.map_or(read_ns, |at_ns| at_ns.max(before_ns).min(read_ns)),
            read_ns,
            by_kernel: noted.is_some(),
        }
    }
}

/// What our clock showed when the wall clock showed `noted`, by how far the wall clock is ahead
/// of ours now; `None` if that was another distance at the read before.
fn on_our_clock(noted: Duration, ahead_ns: i128, last_ahead_ns: i128) -> Option<u64> {
    if ahead_ns.abs_diff(last_ahead_ns) > STEP_NS {
        return None;
    }
    u64::try_from(noted.as_nanos().cast_signed() - ahead_ns).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_not_believed() {
        let noted = Duration::from_secs(1_700_000_000);
        let ahead_ns = noted.as_nanos().cast_signed() - 5_000;
        assert_eq!(
            on_our_clock(noted, ahead_ns, ahead_ns - 900_000),
            Some(5_000)
        );
        for set_by_ns in [-2_000_000, 2_000_000, 3_600_000_000_000] {
            assert_eq!(on_our_clock(noted, ahead_ns, ahead_ns + set_by_ns), None);
        }
        // Before our clock was started.
        assert_eq!(on_our_clock(noted, ahead_ns + 6_000, ahead_ns), None);
    }
}
