//! Room for connections that nobody has accepted yet.

use std::io;
use std::net::TcpListener;

/// A load of a thousand streams opens its connections at once. What finds no room is dropped by
/// the kernel and tried again by the client a second later, which then passes for latency.
const BACKLOG: i32 = 4096;

/// Makes `listener` ready for tokio, with room for as many as the system allows of [`BACKLOG`].
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    socket2::SockRef::from(listener).listen(BACKLOG)
}
