//! Supervised threads: one that ends without a request to end makes the process exit, with a reason.
//!
//! If one thread were gone and the others went on, the port would be open and systemd would report "running", while
//! pages are old or requests unanswered. So every thread is started here, and `main` waits for [`Unexpected`] ends.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The end of a thread that was not told to end.
#[derive(Debug)]
pub struct Unexpected {
    pub thread: String,
    pub why: String,
}

/// Starts supervised threads. Clones report to the same place.
#[derive(Clone)]
pub struct Supervisor {
    ended: Sender<Unexpected>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Supervisor {
    /// `wake` is called after each unexpected end, by the thread that ends.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> (Supervisor, Receiver<Unexpected>) {
        let (ended, ends) = channel();
        (Supervisor { ended, wake: Arc::new(wake) }, ends)
    }

    /// Starts a thread. `work` returns `Ok` if it was told to end, and else why it ended.
    ///
    /// Errors: the system cannot start another thread.
    pub fn spawn(
        &self,
        name: &str,
        stack: usize,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        test_fault(&format!("spawn-{name}")).map_err(io::Error::other)?;
        let (supervisor, thread) = (self.clone(), name.to_owned());
        std::thread::Builder::new().name(thread.clone()).stack_size(stack).spawn(move || {
            // Unwind safety: the thread's own values are dropped while it unwinds, and no other thread has them.
            let why = match catch_unwind(AssertUnwindSafe(work)) {
                Ok(Ok(())) => return,
                Ok(Err(why)) => why,
                Err(panic) => format!("panicked: {}", message(&*panic)),
            };
            // The main thread may be exiting already.
            let _ = supervisor.ended.send(Unexpected { thread, why });
            (supervisor.wake)();
        })
    }
}

/// Makes something that readers can do without: a panic in it is logged, by the panic hook with its place, and costs the
/// outcome alone. `work` has to leave what it changes usable when it stops halfway.
pub fn contained<T>(what: &str, work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(made) => Some(made),
        Err(_) => {
            log::error!("{what} could not be made; this is a bug, please report it");
            None
        }
    }
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// For tests, in builds with debug assertions: the file that `DCGM_EXPORTER_TEST_FAULT` names says which fault which
/// thread has, as in `panic watcher`, `return connections` or `hang routes`; a thread hangs as long as the file says
/// so. `return inotify` makes inotify fail, `return spawn-watcher` the start of that thread, and
/// `panic page`, `panic status` and `panic answer` break the making of a page. In a release build this is nothing.
pub fn test_fault(thread: &str) -> Result<(), String> {
    let fault = || {
        let text = std::fs::read_to_string(std::env::var_os("DCGM_EXPORTER_TEST_FAULT")?).ok()?;
        text.trim().split_once(' ').filter(|(_, name)| *name == thread).map(|(fault, _)| fault.to_owned())
    };
    while cfg!(debug_assertions) {
        match fault().as_deref() {
            Some("panic") => panic!("a test asked for it"),
            Some("return") => return Err("a test asked for it".to_owned()),
            Some("hang") => std::thread::sleep(std::time::Duration::from_millis(10)),
            _ => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_unexpected_ends_are_reported() {
        let woken = Arc::new(AtomicU32::new(0));
        let (supervisor, ends) = Supervisor::new({
            let woken = woken.clone();
            move || {
                woken.fetch_add(1, Ordering::SeqCst);
            }
        });
        const STACK: usize = 64 * 1024;
        supervisor.spawn("told", STACK, || Ok(())).unwrap().join().unwrap();
        supervisor.spawn("gave up", STACK, || Err("no more".to_owned())).unwrap().join().unwrap();
        supervisor.spawn("broke", STACK, || panic!("number {}", 7)).unwrap().join().unwrap();
        drop(supervisor);
        let ends: Vec<_> = ends.iter().map(|end| (end.thread, end.why)).collect();
        let pair = |thread: &str, why: &str| (thread.to_owned(), why.to_owned());
        assert_eq!(ends, [pair("gave up", "no more"), pair("broke", "panicked: number 7")]);
        assert_eq!(woken.load(Ordering::SeqCst), 2);
    }
}
