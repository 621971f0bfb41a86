use super::*;

use std::future::poll_fn;
use std::io::Write;
use std::net::{TcpListener, TcpStream as StdStream};
use std::time::Duration;

use tokio::io::AsyncReadExt;

/// How long the reader is kept from reading.
const BUSY: Duration = Duration::from_millis(50);

/// Both ends of a connection, the second one stamped.
fn connection(clock: MonotonicClock, stamp: &Stamp) -> (StdStream, Stamped) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    far.set_nodelay(true).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    let near = TcpStream::from_std(near).unwrap();
    let receiver = Receiver::new().map(RefCell::new).map(Rc::new);
    (far, Stamped::new(near, clock, Rc::clone(stamp), receiver))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = super::super::worker::runtime().unwrap();
    runtime.block_on(future)
}

#[test]
fn a_late_read_does_not_make_bytes_late() {
    block_on(async {
        let (clock, stamp) = (MonotonicClock::start(), Stamp::default());
        let (mut far, mut near) = connection(clock, &stamp);
        // The kernel's first notes may be missing: it begins with them in its own time.
        for _ in 0..20 {
            let before_ns = clock.now_ns();
            far.write_all(b"one").unwrap();
            let after_ns = clock.now_ns();
            std::thread::sleep(BUSY);
            let mut read = [0; 64];
            assert_eq!(near.read(&mut read).await.unwrap(), 3);
            let arrival = stamp.get();
            assert!(arrival.read_ns >= after_ns + 50_000_000, "{arrival:?}");
            if !arrival.by_kernel {
                assert_eq!(arrival.at_ns, arrival.read_ns);
                continue;
            }
            // On this machine bytes arrive while they are written, give or take the reading of
            // two clocks.
            let allowed = before_ns.saturating_sub(1_000_000)..=after_ns + 1_000_000;
            assert!(allowed.contains(&arrival.at_ns), "{arrival:?} {allowed:?}");
            return;
        }
        assert_ne!(std::env::consts::OS, "linux", "the kernel notes nothing");
    });
}

#[test]
fn what_is_read_together_came_with_its_last_part() {
    block_on(async {
        let (clock, stamp) = (MonotonicClock::start(), Stamp::default());
        let (mut far, mut near) = connection(clock, &stamp);
        far.write_all(b"one").unwrap();
        std::thread::sleep(BUSY);
        let before_ns = clock.now_ns();
        far.write_all(b"two").unwrap();
        std::thread::sleep(BUSY);
        let mut read = [0; 64];
        assert_eq!(near.read(&mut read).await.unwrap(), 6);
        let arrival = stamp.get();
        assert!(arrival.at_ns + 1_000_000 >= before_ns, "{arrival:?}");
        assert!(arrival.at_ns <= arrival.read_ns, "{arrival:?}");
    });
}

#[test]
fn all_bytes_come_and_then_the_end() {
    block_on(async {
        let (clock, stamp) = (MonotonicClock::start(), Stamp::default());
        let (mut far, mut near) = connection(clock, &stamp);
        let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let written = sent.clone();
        let writer = std::thread::spawn(move || {
            for portion in written.chunks(7_919) {
                far.write_all(portion).unwrap();
            }
        });
        let (mut got, mut last_ns) = (Vec::new(), 0);
        // Less room than there is to read, and more.
        for room in [1, 100, 70_000].into_iter().cycle() {
            let mut part = vec![0; room];
            let n = near.read(&mut part).await.unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&part[..n]);
            assert!(stamp.get().at_ns >= last_ns);
            last_ns = stamp.get().at_ns;
        }
        writer.join().unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    });
}

#[test]
fn nothing_to_read_is_waited_for() {
    block_on(async {
        let stamp = Stamp::default();
        let (mut far, mut near) = connection(MonotonicClock::start(), &stamp);
        let mut room = [0; 8];
        poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut room);
            assert!(Pin::new(&mut near).poll_read(cx, &mut buffer).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(stamp.get(), Arrival::default());
        let writer = std::thread::spawn(move || {
            std::thread::sleep(BUSY);
            far.write_all(b"late").unwrap();
        });
        assert_eq!(near.read(&mut room).await.unwrap(), 4);
        writer.join().unwrap();
    });
}

#[test]
fn it_is_told_whose_instants_they_are() {
    let arrival = |at_ns, by_kernel| Arrival {
        at_ns,
        read_ns: 5_000_000,
        by_kernel,
    };
    let mut all = Punctuality::default();
    assert_eq!(all.note(), None);
    all.add(arrival(5_000_000, false));
    assert!(all.note().unwrap().contains("read from the socket"));
    let mut request = Punctuality::default();
    request.add(arrival(2_000_000, true));
    request.add(arrival(4_000_000, true));
    let note = request.note().unwrap();
    assert!(
        note.contains("2.000 ms") && note.contains("at most 3.0 ms"),
        "{note}"
    );
    all.merge(request);
    let note = all.note().unwrap();
    assert!(
        note.contains("1 of 3") && note.contains("2.000 ms"),
        "{note}"
    );
}
