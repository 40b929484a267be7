//! Work that is done on all threads, and given back in order.
//!
//! One thread reads, the others work, and the caller's takes what they made. Piece i goes to thread `i % threads` and is
//! taken back from there, so that the order is that of reading, and never more than a few pieces are in memory.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::error::Result;

/// Pieces that wait before and behind each thread.
const WAITING: usize = 2;

/// Gives what `next` reads, until it reads nothing more, to `work`, and what that makes of it to `sink`, in the order of
/// reading. `sink` may answer with `Break`: that is the end.
///
/// # Errors
/// Those of `sink`. Nothing is read after one.
pub(super) fn run<Piece: Send, Done: Send>(
    threads: usize,
    mut next: impl FnMut() -> Option<Piece> + Send,
    work: impl Fn(Piece) -> Done + Sync,
    mut sink: impl FnMut(Done) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let threads = threads.max(1);
    thread::scope(|scope| {
        let mut to_threads = Vec::new();
        let mut from_threads: Vec<Receiver<Done>> = Vec::new();
        for _ in 0..threads {
            let (send_piece, pieces) = sync_channel::<Piece>(WAITING);
            let (send_done, done) = sync_channel(WAITING);
            to_threads.push(send_piece);
            from_threads.push(done);
            let work = &work;
            scope.spawn(move || {
                while let Ok(piece) = pieces.recv() {
                    if send_done.send(work(piece)).is_err() {
                        return; // nobody wants more
                    }
                }
            });
        }
        scope.spawn(move || {
            for thread in to_threads.iter().cycle() {
                let Some(piece) = next() else { return };
                if thread.send(piece).is_err() {
                    return;
                }
            }
        });
        // When this returns early, the receivers go, and with them every thread that waits for one.
        for done in (0..threads).cycle().map(|i| from_threads[i].recv()) {
            let Ok(done) = done else { return Ok(()) }; // the reader has come to the end
            if sink(done)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn results_come_in_the_order_of_reading() {
        for threads in [0, 1, 3, 8] {
            for n in [0u64, 1, 2, 100] {
                let mut numbers = 0..n;
                let mut found = Vec::new();
                let work = |i: u64| {
                    thread::sleep(std::time::Duration::from_micros(i * 7919 % 200));
                    i * i
                };
                let sink = |i| {
                    found.push(i);
                    Ok(ControlFlow::Continue(()))
                };
                run(threads, || numbers.next(), work, sink).unwrap();
                assert_eq!(found, (0..n).map(|i| i * i).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_end_before_the_last_leaves_no_thread_waiting() {
        let stop = |i| match i {
            5 => Ok(ControlFlow::Break(())),
            _ => Ok(ControlFlow::Continue(())),
        };
        run(3, || Some(()), |()| 5, stop).unwrap();
        let mut numbers = 0..;
        run(3, || numbers.next(), |i: u64| i, stop).unwrap();
        let fail = |i: u64| if i == 7 { Err(Error::new("seven")) } else { Ok(ControlFlow::Continue(())) };
        let mut numbers = 0..;
        assert_eq!(run(2, || numbers.next(), |i| i, fail).unwrap_err().to_string(), "seven");
    }
}
