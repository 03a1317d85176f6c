//! A file that switches something on by being there, which only root or this process's own user can make.
//!
//! It is never opened: what lies there may be a FIFO or a device. What somebody else may have put there switches nothing.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::files::refusal;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    On,
    /// There is no such file, or no directory for it.
    Off,
    /// What is there does not count: what it is, and how to make it count.
    Refused(String),
}

/// Looks at a file, in at most four calls of the system, none of which waits.
pub fn look(path: &Path) -> Switch {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Switch::Refused(format!("{} is not the path of a file", path.display()));
    };
    let shown = directory.display();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(CWD, directory, flags, Mode::empty()).and_then(|opened| Ok((fstat(&opened)?, opened)));
    let (of_directory, opened) = match opened {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Switch::Off,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Switch::Refused(format!(
                "{shown} is a link or not a directory; make it a directory that belongs to root"
            ));
        }
        Err(error) => return Switch::Refused(format!("{shown} cannot be looked at: {error}")),
    };
    let stat = match statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Switch::Off,
        Err(error) => return Switch::Refused(format!("{} cannot be looked at: {error}", path.display())),
    };
    // A directory of others' is of interest only once there is something in it.
    if let Some(fault) = fault(&of_directory, "directory", FileType::Directory) {
        return Switch::Refused(format!("{shown} {fault}; chown root and chmod 0755 it"));
    }
    match fault(&stat, "regular file", FileType::RegularFile) {
        Some(fault) => Switch::Refused(format!("{} {fault}; remove it", path.display())),
        None => Switch::On,
    }
}

/// Why something of this type is not to be trusted.
fn fault(stat: &Stat, what: &str, expected: FileType) -> Option<String> {
    match FileType::from_raw_mode(stat.st_mode) {
        found if found != expected => Some(format!("is not a {what}")),
        _ => refusal(stat, "0755").map(|(found, _)| found),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_a_file_of_roots_or_ones_own_in_such_a_directory() {
        let directory = std::env::temp_dir().join(format!("dcgm-exporter-switch-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        let path = directory.join("switch");
        assert_eq!(look(&path), Switch::Off, "no directory");
        std::fs::create_dir(&directory).unwrap();
        let chmod = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        chmod(&directory, 0o755);
        assert_eq!(look(&path), Switch::Off);
        std::fs::write(&path, "").unwrap();
        chmod(&path, 0o644);
        assert_eq!(look(&path), Switch::On);
        let refused = |expected: &str| match look(&path) {
            Switch::Refused(why) => assert!(why.contains(expected), "{why}"),
            other => panic!("{other:?} instead of '{expected}'"),
        };
        chmod(&path, 0o666);
        refused("switch has mode 0666");
        chmod(&path, 0o644);
        for mode in [0o777, 0o1777, 0o775] {
            chmod(&directory, mode);
            refused("others can write there, and is refused; chown root");
        }
        chmod(&directory, 0o755);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            refused("belongs to user 65534");
        }
        std::fs::remove_file(&path).unwrap();
        for target in ["/etc/passwd", "/nowhere"] {
            symlink(target, &path).unwrap();
            refused("is not a regular file");
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::create_dir(&path).unwrap();
        refused("is not a regular file");
        std::fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        refused("is not a regular file");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        let link = directory.with_extension("link");
        let _ = std::fs::remove_file(&link);
        symlink(&directory, &link).unwrap();
        assert!(matches!(look(&link.join("switch")), Switch::Refused(_)));
        std::fs::remove_file(&link).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
