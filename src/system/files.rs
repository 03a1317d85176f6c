//! Reads files that other programs write, and may be replacing at this moment; replaces files that others read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, XattrFlags, fchmod, fsetxattr, openat, renameat, unlinkat};

/// Reads a regular file of at most `longest` bytes.
///
/// The file is opened once and without waiting, so that a FIFO in its place does not block the caller.
///
/// Errors: the system's, `InvalidInput` for what is no regular file, `FileTooLarge` for a longer one.
pub fn read(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {longest} bytes")));
    }
    Ok(bytes)
}

/// Replaces a file of a directory whole: written aside under another name, and then put in its place, so that a reader
/// sees all of it or nothing. With `should_sync` it is on the disk before it is in its place. Who may read it is set by
/// `give` before there is anything in it.
///
/// The name aside may be known to others who can write in the directory: a link there is not followed.
///
/// Errors: the system's, or that of `give`; then the file is as it was, and nothing is left aside.
pub fn replace(
    directory: impl AsFd,
    name: &str,
    aside: &str,
    give: impl FnOnce(&File) -> io::Result<()>,
    bytes: &[u8],
    should_sync: bool,
) -> io::Result<()> {
    let directory = directory.as_fd();
    let _ = unlinkat(directory, aside, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut new = File::from(openat(directory, aside, flags, Mode::RUSR | Mode::WUSR)?);
    let written = give(&new)
        .and_then(|()| new.write_all(bytes))
        .and_then(|()| if should_sync { new.sync_all() } else { Ok(()) })
        .and_then(|()| Ok(renameat(directory, aside, directory, name)?));
    written.inspect_err(|_| {
        let _ = unlinkat(directory, aside, AtFlags::empty());
    })
}

/// Whether what belongs to this user is root's or this process's own.
pub fn is_roots_or_own(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Why something is refused: others than root and this process's own user could change it. With the command that closes it,
/// which its path follows; `mode` is what `chmod` is to be told. `None` if nobody else can.
pub fn refusal(stat: &Stat, mode: &str) -> Option<(String, String)> {
    if !is_roots_or_own(stat.st_uid) {
        return Some((format!("belongs to user {} and is refused", stat.st_uid), "chown root".to_owned()));
    }
    let found = stat.st_mode & 0o7777;
    let is_open = found & 0o022 != 0;
    is_open.then(|| (format!("has mode {found:04o}, others can write there, and is refused"), format!("chmod {mode}")))
}

/// Gives a file this mode, whatever the umask is.
///
/// Errors: the system's.
pub fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    Ok(fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Lets one more user read a file, which its owner may do without being root: an access control list, as `setfacl -m
/// u:UID:r` writes it. The file's mode stays as it is; of its group's rights only reading.
///
/// Errors: the system's, `EOPNOTSUPP` on a file system without such lists.
pub fn let_user_read(file: &File, user: u32) -> io::Result<()> {
    // The kernel's form, linux/posix_acl_xattr.h: a version, then tag, rights and id of each entry, in this order.
    const VERSION: u32 = 2;
    let [owner, one_user, group, mask, others] = [0x01u16, 0x02, 0x04, 0x10, 0x20];
    let [read, write] = [4u16, 2];
    const NOBODY: u32 = u32::MAX;
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, rights, id) in [
        (owner, read | write, NOBODY),
        (one_user, read, user),
        (group, read, NOBODY),
        (mask, read, NOBODY),
        (others, 0, NOBODY),
    ] {
        list.extend(tag.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(id.to_le_bytes()));
    }
    Ok(fsetxattr(file, "system.posix_acl_access", &list, XattrFlags::empty())?)
}

/// Reads a text file of at most 1 MiB, with what is no UTF-8 replaced; `None` for one that cannot be read.
pub fn text(path: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&read(path, 1 << 20).ok()?).into_owned())
}

/// Opens a regular file for reading, without waiting.
///
/// Errors: the system's, `InvalidInput` for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags as i32).open(path)?;
    let kind = file.metadata()?.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(file),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{what}, not a regular file")))
}

/// Metadata that changes with a file's content, owner or mode, so that a change is noticed without reading the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    modified: SystemTime,
    /// Seconds and nanoseconds; a change of mode or owner moves it.
    changed: (i64, i64),
    inode: u64,
    length: u64,
}

/// The stamp of a file; `None` for one that cannot be found.
pub fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        modified: metadata.modified().ok()?,
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
        length: metadata.len(),
    })
}

/// Files whose changes are noticed by looking at them from time to time. Unlike inotify that works through symbolic links
/// and on file systems that several nodes share.
#[derive(Debug, Default)]
pub struct Monitor {
    files: Vec<(PathBuf, Option<Stamp>)>,
    /// What the last look found, if that was new.
    unsettled: Option<Vec<Option<Stamp>>>,
}

impl Monitor {
    /// Takes in a file as it is now. To be called before it is read.
    pub fn add(&mut self, file: &Path) {
        self.files.push((file.to_owned(), stamp(file)));
    }

    /// Whether a file has changed, come or gone, and stayed so between two looks: what is being written is not read.
    pub fn changed(&mut self) -> bool {
        let now: Vec<_> = self.files.iter().map(|(path, _)| stamp(path)).collect();
        if self.files.iter().map(|(_, before)| before).eq(&now) {
            self.unsettled = None;
            return false;
        }
        if self.unsettled.as_ref() != Some(&now) {
            self.unsettled = Some(now);
            return false;
        }
        self.unsettled = None;
        self.files.iter_mut().zip(now).for_each(|((_, before), now)| *before = now);
        true
    }

    /// Whether all files were there at the last look that counts.
    pub fn are_all_there(&self) -> bool {
        self.files.iter().all(|(_, stamp)| stamp.is_some())
    }

    /// Whether the last look found something new that may still be written.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_behind_links_change_with_what_the_links_lead_to() {
        let directory = std::env::temp_dir().join(format!("dcgm-exporter-monitor-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        let link = |target: &str, name: &str| {
            let aside = directory.join("aside");
            std::os::unix::fs::symlink(target, &aside).unwrap();
            std::fs::rename(&aside, directory.join(name)).unwrap();
        };
        for version in ["..1", "..2"] {
            std::fs::create_dir_all(directory.join(version)).unwrap();
            std::fs::write(directory.join(version).join("file"), version).unwrap();
        }
        link("..1", "..data");
        link("..data/file", "file");
        let mut monitor = Monitor::default();
        monitor.add(&directory.join("file"));
        assert!(!monitor.changed() && !monitor.is_unsettled());
        link("..2", "..data");
        assert!(!monitor.changed() && monitor.is_unsettled());
        assert!(monitor.changed() && !monitor.is_unsettled() && !monitor.changed());
        std::fs::write(directory.join("..2/file"), "written in place").unwrap();
        assert!(!monitor.changed() && monitor.changed());
        std::fs::remove_file(directory.join("file")).unwrap();
        assert!(monitor.are_all_there() && !monitor.changed() && monitor.changed() && !monitor.are_all_there());
        std::fs::remove_dir_all(&directory).unwrap();
    }
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_may_be_read_again_is_another_state_of_it() {
        let path = std::env::temp_dir().join(format!("dcgm-exporter-files-{}", std::process::id()));
        std::fs::write(&path, "text").unwrap();
        let before = stamp(&path).unwrap();
        assert_eq!(stamp(&path), Some(before));
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_ne!(stamp(&path), Some(before));
        assert_eq!(read(&path, 4).unwrap(), b"text");
        assert_eq!(read(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        std::fs::remove_file(&path).unwrap();
        for other in ["/", "/dev/null"] {
            assert_eq!(read(Path::new(other), 100).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{other}");
        }
    }
}
