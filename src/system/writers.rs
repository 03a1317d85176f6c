//! Who may change a file: code that root runs must come from where nobody else writes.
//!
//! Whoever may write a directory on the way to a file can put another file in its place, so all of them are looked at,
//! also those that links lead through.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::files::is_roots_or_own;

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// A file or directory that somebody besides root and this process's user may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writable {
    path: PathBuf,
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Everybody,
    Owner(u32),
    Group(u32),
}

impl Writable {
    /// Whether every user of the node may change it, and not only one user or group.
    pub fn by_everybody(&self) -> bool {
        self.by == By::Everybody
    }

    /// What an administrator can do.
    pub fn fix(&self) -> String {
        let path = self.path.display();
        match self.by {
            By::Everybody => format!("chmod o-w {path}, and remove what does not belong there"),
            By::Owner(_) => format!("chown root {path}"),
            By::Group(_) => format!("chmod g-w {path}"),
        }
    }
}

impl fmt::Display for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.by {
            By::Everybody => write!(f, "every user can write {path}"),
            By::Owner(user) => write!(f, "{path} belongs to user {user}"),
            By::Group(group) => write!(f, "group {group} can write {path}"),
        }
    }
}

/// What others may change of a file or directory, or on the way to it: first what everybody may, else the first on the way.
/// Something that does not exist is theirs if they may make it.
///
/// Errors: the system's, also `NotFound` for what does not exist and others cannot make.
pub fn others(path: &Path) -> io::Result<Option<Writable>> {
    let mut found = Vec::new();
    let walked = walk(&std::path::absolute(path)?, &mut found);
    found.sort_by_key(|writable: &Writable| !writable.by_everybody());
    match found.into_iter().next() {
        Some(writable) => Ok(Some(writable)),
        None => walked.map(|()| None),
    }
}

fn walk(path: &Path, found: &mut Vec<Writable>) -> io::Result<()> {
    let mut rest: VecDeque<OsString> = VecDeque::new();
    follow(path, &mut rest);
    let (mut here, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = rest.pop_front() {
        if name == "/" {
            here = PathBuf::from("/");
            continue;
        }
        if name == ".." {
            here.pop();
            continue;
        }
        let directory = here.symlink_metadata()?;
        found.extend(judge(&here, &directory));
        let next = here.join(&name);
        let metadata = match next.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // In a directory with the sticky bit they may not replace a file, but make one.
                let by = (directory.mode() & 0o002 != 0).then_some(By::Everybody);
                found.extend(by.map(|by| Writable { path: here.clone(), by }));
                return Err(error);
            }
            other => other?,
        };
        if !metadata.is_symlink() {
            here = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many links"));
        }
        // Everybody may write a link itself, which says nothing; its owner may replace it.
        found.extend(owner(&next, &metadata));
        follow(&std::fs::read_link(&next)?, &mut rest);
    }
    found.extend(judge(&here, &here.symlink_metadata()?));
    Ok(())
}

/// Puts the parts of a path before the rest of the way.
fn follow(path: &Path, rest: &mut VecDeque<OsString>) {
    for component in path.components().rev() {
        match component {
            Component::CurDir | Component::Prefix(_) => {}
            other => rest.push_front(other.as_os_str().to_owned()),
        }
    }
}

fn owner(path: &Path, metadata: &std::fs::Metadata) -> Option<Writable> {
    (!is_roots_or_own(metadata.uid())).then(|| Writable { path: path.to_owned(), by: By::Owner(metadata.uid()) })
}

fn judge(path: &Path, metadata: &std::fs::Metadata) -> Option<Writable> {
    // With the sticky bit only the owner of a file may replace it, and that one is looked at next.
    let mode = if metadata.is_dir() && metadata.mode() & 0o1000 != 0 { 0 } else { metadata.mode() };
    let group = metadata.gid();
    let by = match mode {
        mode if mode & 0o002 != 0 => By::Everybody,
        // A user's own group has nobody else in it, as a rule.
        mode if mode & 0o020 != 0 && group != 0 && group != rustix::process::getegid().as_raw() => By::Group(group),
        _ => return owner(path, metadata),
    };
    Some(Writable { path: path.to_owned(), by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn mode(path: &Path, mode: u32) {
        set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn by(path: &Path) -> Option<(PathBuf, By)> {
        others(path).unwrap().map(|found| (found.path, found.by))
    }

    #[test]
    fn whoever_may_put_another_file_there_is_found() {
        let top = std::env::temp_dir().join(format!("dcgm-exporter-writers-{}", std::process::id()));
        let (open, kept) = (top.join("open"), top.join("kept"));
        create_dir_all(open.join("sub")).unwrap();
        create_dir_all(&kept).unwrap();
        for directory in [&top, &open, &kept, &open.join("sub")] {
            mode(directory, 0o755);
        }
        let file = kept.join("library");
        write(&file, "").unwrap();
        mode(&file, 0o644);
        // Above it is a directory with the sticky bit, as /tmp is.
        assert_eq!(by(&file), None);
        mode(&file, 0o666);
        assert_eq!(by(&file), Some((file.clone(), By::Everybody)));
        mode(&file, 0o644);
        mode(&kept, 0o777);
        assert_eq!(by(&file), Some((kept.clone(), By::Everybody)));
        mode(&kept, 0o1777);
        assert_eq!(by(&file), None, "nobody can replace the file");
        assert_eq!(by(&kept.join("missing")), Some((kept.clone(), By::Everybody)), "but make another");
        mode(&kept, 0o755);
        assert_eq!(others(&kept.join("missing/too")).unwrap_err().kind(), io::ErrorKind::NotFound);
        // A link leads through directories of its own.
        mode(&open, 0o777);
        symlink("../../kept/library", open.join("sub/link")).unwrap();
        assert_eq!(by(&open.join("sub/link")), Some((open.clone(), By::Everybody)));
        symlink(open.join("sub/../sub/link"), kept.join("far")).unwrap();
        assert_eq!(by(&kept.join("far")), Some((open.clone(), By::Everybody)));
        symlink("round", kept.join("round")).unwrap();
        assert!(others(&kept.join("round")).is_err());
        mode(&open, 0o755);
        assert_eq!(by(&kept.join("far")), None);
        if rustix::process::geteuid().is_root() {
            chown(&file, Some(1234), None).unwrap();
            assert_eq!(by(&file), Some((file.clone(), By::Owner(1234))));
            chown(&file, Some(0), None).unwrap();
            chown(&kept, None, Some(1234)).unwrap();
            assert_eq!(by(&file), None);
            mode(&kept, 0o775);
            assert_eq!(by(&file), Some((kept.clone(), By::Group(1234))));
            mode(&file, 0o666);
            assert_eq!(by(&file), Some((file.clone(), By::Everybody)), "the worst");
            // The link's owner may make it lead elsewhere.
            mode(&kept, 0o1777);
            mode(&file, 0o644);
            std::os::unix::fs::lchown(kept.join("far"), Some(1234), None).unwrap();
            assert_eq!(by(&kept.join("far")), Some((kept.join("far"), By::Owner(1234))));
        }
        std::fs::remove_dir_all(&top).unwrap();
    }
}
