//! The threads that compute.
//!
//! A token takes about 150 short parallel steps (a few microseconds each while decoding), so a thread that has
//! nothing to do spins for a while before it sleeps: waking one through the kernel costs more than the step itself.
//! Tasks are handed out one by one; which thread takes which never changes a result, because one task owns each
//! output element.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Rounds of waiting before a thread sleeps: some 200 µs.
const SPINS: u32 = 20_000;

/// The function of a step, without its lifetime: [`Pool::run`] does not return before every worker has let go of it.
#[derive(Clone, Copy)]
struct Job {
    call: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: the function is `Sync`, and outlives its use by the workers (see `Pool::run`).
unsafe impl Send for Job {}

#[derive(Default)]
struct Shared {
    /// The current step. Written only while no worker is `inside`.
    job: Mutex<Option<Job>>,
    /// Number of steps begun; a worker takes part in each once, if it comes in time.
    epoch: AtomicUsize,
    /// The step that workers may still enter; 0 when there is none.
    open: AtomicUsize,
    /// The next task to take.
    next: AtomicUsize,
    /// Workers that have entered the current step, and not left it.
    inside: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: Mutex<()>,
    wake: Condvar,
}

/// A fixed number of threads, of which the caller of [`Pool::run`] is one.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One step at a time, whoever calls.
    running: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` threads (at least 1), the caller's included. Falls back to fewer when the system refuses.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads)
            .filter_map(|i| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("wootz-{i}")).spawn(move || work(&shared)).ok()
            })
            .collect();
        Pool { shared, workers, running: Mutex::new(()) }
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` for every `i` below `tasks`, each once, on all threads; returns when all are done.
    ///
    /// A task must not call `run` of the same pool. A panic in a task is passed on to the caller.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(task);
        }
        let _one_at_a_time = lock(&self.running);
        let shared = &*self.shared;
        let call: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: only the lifetime is dropped. The function lives until the end of this call, which closes the step
        // and then waits until `inside` is 0: no worker calls it after that.
        let call = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(call)
        };
        *lock(&shared.job) = Some(Job { call, tasks });
        shared.next.store(0, Ordering::Relaxed);
        let epoch = shared.epoch.load(Ordering::Relaxed) + 1;
        shared.open.store(epoch, Ordering::SeqCst);
        shared.epoch.store(epoch, Ordering::SeqCst);
        // A worker checks the epoch under this lock before it sleeps, so none can miss the new one.
        drop(lock(&shared.sleepers));
        shared.wake.notify_all();

        let own = catch_unwind(AssertUnwindSafe(|| take_tasks(shared, &task, tasks)));
        // All tasks are taken. A worker that has not come by now is not waited for: on a busy machine it may not be
        // running at all.
        shared.open.store(0, Ordering::SeqCst);
        let mut spins = 0;
        while shared.inside.load(Ordering::SeqCst) > 0 {
            spins += 1;
            if spins < SPINS / 10 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panic = lock(&shared.panic).take().or(own.err());
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Splits `0..len` into runs of at most `grain` and calls `task(start..end)` for each.
    pub fn run_ranges(&self, len: usize, grain: usize, task: impl Fn(std::ops::Range<usize>) + Sync) {
        let grain = grain.max(1);
        self.run(len.div_ceil(grain), |i| task(i * grain..len.min((i + 1) * grain)));
    }

    /// Calls `task(row, part)` for every row of `width` elements of `slice`, `grain` rows to a task.
    ///
    /// Panics if the slice is no whole number of rows.
    pub fn for_each_row<T: Send>(
        &self,
        slice: &mut [T],
        width: usize,
        grain: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        assert!(
            width > 0 && slice.len().is_multiple_of(width),
            "{} elements in rows of {width}",
            slice.len()
        );
        let rows = slice.len() / width;
        let shares = Shares::new(slice);
        self.run_ranges(rows, grain, |range| {
            for row in range {
                // SAFETY: a row is handed out once.
                task(row, unsafe { shares.get(row * width..(row + 1) * width) });
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleepers));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn take_tasks(shared: &Shared, task: &(dyn Fn(usize) + Sync), tasks: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= tasks {
            return;
        }
        task(i);
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen && !shared.stop.load(Ordering::Relaxed) {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            let mut guard = lock(&shared.sleepers);
            while shared.epoch.load(Ordering::SeqCst) == seen && !shared.stop.load(Ordering::SeqCst) {
                guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        seen = shared.epoch.load(Ordering::Acquire);
        // First in, then the look whether the step is open: `run` closes it first and then looks who is in. Whichever
        // of the two comes first sees the other.
        shared.inside.fetch_add(1, Ordering::SeqCst);
        if shared.open.load(Ordering::SeqCst) == seen
            && let Some(job) = *lock(&shared.job)
        {
            // SAFETY: `run` waits until this worker has counted itself out of `inside` below.
            let call = unsafe { &*job.call };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| take_tasks(shared, call, job.tasks))) {
                lock(&shared.panic).get_or_insert(panic);
            }
        }
        shared.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A pointer to a slice from which tasks write disjoint parts.
///
/// The borrow checker cannot see that tasks of [`Pool::run`] touch different elements; whoever calls
/// [`Shares::get`] promises it.
#[derive(Clone, Copy)]
pub struct Shares<'a, T> {
    start: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: tasks on different threads get disjoint parts (contract of `get`), as with `split_at_mut`.
unsafe impl<T: Send> Send for Shares<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    /// Shares a slice out.
    pub fn new(slice: &'a mut [T]) -> Self {
        Shares { start: slice.as_mut_ptr(), len: slice.len(), slice: std::marker::PhantomData }
    }

    /// Elements of the whole slice.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the slice is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `range`. Panics when the range is not inside the slice.
    ///
    /// # Safety
    /// No other part that is alive overlaps this one.
    #[allow(clippy::mut_from_ref)] // that is the point
    pub unsafe fn get(&self, range: std::ops::Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the slice, and disjoint from every other part, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Threads to use when nothing is said: one for each physical core that this process may use.
///
/// Two hardware threads of one core share its multipliers, and two that spin get in each other's way.
pub fn default_threads() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    let siblings = std::fs::read_to_string("/sys/devices/system/cpu/smt/active");
    if siblings.is_ok_and(|active| active.trim() == "1") { logical.div_ceil(2) } else { logical }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 3, 7, 100] {
                for _ in 0..50 {
                    let mut counts = vec![0u8; tasks];
                    let shares = Shares::new(&mut counts);
                    // SAFETY: task i touches element i alone.
                    pool.run(tasks, |i| unsafe { shares.get(i..i + 1)[0] += 1 });
                    assert!(counts.iter().all(|&n| n == 1), "{threads} threads, {tasks} tasks: {counts:?}");
                }
            }
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            pool.run(10, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let broken = catch_unwind(AssertUnwindSafe(|| pool.run(8, |i| assert!(i != 5, "task five"))));
        assert!(broken.is_err());
        let ran = AtomicUsize::new(0);
        pool.run(8, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 8);
    }
}
