//! Hearing of changes in a directory, through inotify.
//!
//! The directory may be missing, be replaced, or be mounted over; so its identity is compared at every look, which the
//! owner takes at least once a second.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;

pub struct DirectoryMonitor {
    directory: PathBuf,
    inotify: Option<OwnedFd>,
    /// Device and inode of what is watched.
    watched: Option<(u64, u64)>,
}

impl DirectoryMonitor {
    pub fn new(directory: &Path) -> DirectoryMonitor {
        let mut watch = DirectoryMonitor { directory: directory.to_owned(), inotify: None, watched: None };
        watch.rearm();
        watch
    }

    /// What to wait on; `None` where inotify is not to be had, and the directory is to be read at every look.
    pub fn descriptor(&self) -> Option<&OwnedFd> {
        self.inotify.as_ref()
    }

    /// Whether something in the directory may have changed since the last look.
    pub fn changed(&mut self) -> bool {
        let drained = self.drain();
        let now = identity(&self.directory);
        if now != self.watched {
            self.rearm();
            return true;
        }
        drained || (self.inotify.is_none() && now.is_some())
    }

    fn drain(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut buffer = [0u8; 4096];
        let mut any = false;
        while matches!(rustix::io::read(inotify, &mut buffer), Ok(1..)) {
            any = true;
        }
        any
    }

    fn rearm(&mut self) {
        use inotify::{CreateFlags, WatchFlags};
        self.watched = identity(&self.directory);
        self.inotify = self.watched.and_then(|_| {
            let created = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
            let events = WatchFlags::CREATE
                | WatchFlags::MODIFY
                | WatchFlags::ATTRIB
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR;
            inotify::add_watch(&created, &self.directory, events).ok()?;
            Some(created)
        });
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    rustix::fs::stat(directory).ok().map(|stat| (stat.st_dev, stat.st_ino))
}
