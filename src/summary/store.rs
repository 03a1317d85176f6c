//! The directory of summaries: a file per job, each replaced whole, so that a reader never sees half of one.
//!
//! A file can be read by root, by the directory's group where that is passed on (set-group-ID), and by the job's own
//! user, by an access control list. Others can neither read a file nor list the directory.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, fstat, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::Summary;
use super::file;
use crate::system::files;

/// Bytes that are read of a file: some 700 per GPU or instance.
const LONGEST_FILE: u64 = 1 << 20;
/// Behind the name of a file that is none of ours.
const ASIDE: &str = ".bad";
const BEING_WRITTEN: &str = ".new-";
/// Before the name of a job's file while the job runs: an empty file beside it, so that at the start nothing else is opened.
const RUNNING: &str = ".running-";
/// A user can open the file that he may read, and not see which others there are.
const DIRECTORY_MODE: Mode = Mode::RWXU.union(Mode::XGRP).union(Mode::XOTH);
const NO_SUCH_FILE: &str = "no such file";
/// What the job map calls the number of a job's user.
const UID: &str = "uid";

pub struct Store {
    opened: OwnedFd,
    path: PathBuf,
    /// It was told that users cannot be let in.
    told_no_lists: Cell<bool>,
}

impl Store {
    /// Opens the directory, and makes it if it is not there.
    ///
    /// Errors: a sentence with what is wrong and how to fix it.
    pub fn open(path: &Path) -> Result<Store, String> {
        let shown = path.display();
        let made = mkdirat(CWD, path.components().as_path(), DIRECTORY_MODE);
        let store = Store::read_in(path).map_err(|error| match made {
            Err(why) if why != Errno::EXIST => format!("--job-summary-dir {shown} cannot be made: {why}"),
            _ => error,
        })?;
        if made.is_ok() {
            // Whatever the umask is.
            let _ = chmodat(&store.opened, ".", DIRECTORY_MODE, AtFlags::empty());
        }
        Ok(store)
    }

    /// Opens the directory to read in it.
    ///
    /// Errors: as [`Store::open`].
    pub fn read_in(path: &Path) -> Result<Store, String> {
        let shown = path.display();
        // Without the slash at its end, behind which a link would be followed.
        let path = path.components().as_path();
        // Files in it can be opened by those who may not list it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => {
                format!("--job-summary-dir {shown} is a link or no directory; name a directory")
            }
            _ => format!("--job-summary-dir {shown} cannot be opened: {error}"),
        })?;
        Ok(Store { opened, path: path.to_owned(), told_no_lists: Cell::new(false) })
    }

    /// Refuses a directory in which others could forge what is read back.
    ///
    /// Errors: as [`Store::open`].
    pub fn check_owner(&self) -> Result<(), String> {
        let shown = self.path.display();
        let stat = fstat(&self.opened).map_err(|error| format!("{shown}: {error}"))?;
        match files::refusal(&stat, "go-w") {
            Some((found, fix)) => Err(format!("--job-summary-dir {shown} {found}; {fix} {shown}")),
            None => Ok(()),
        }
    }

    /// Whether the path still leads here: the directory may have been moved or removed, and another one made.
    pub fn is_in_place(&self) -> bool {
        let named = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        let opened = fstat(&self.opened);
        named
            .and_then(|named| Ok((named, opened?)))
            .is_ok_and(|(named, opened)| (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino))
    }

    /// Writes a job's file: aside, and then in its place. One of another node is left alone; `ours` are names that this node
    /// has had.
    ///
    /// Errors: the system's; `AlreadyExists` if there is a file of another node.
    pub fn write(&self, summary: &Summary, ours: &BTreeSet<String>) -> std::io::Result<()> {
        let name = file_name(&summary.job);
        match self.read_file(&name) {
            Ok(found) if !ours.contains(&found.hostname) => {
                let found =
                    format!("{name} is a summary of node {}; give each node a directory of its own", found.hostname);
                return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, found));
            }
            Ok(_) => {}
            Err(why) if why == NO_SUCH_FILE => {}
            Err(why) => log::warn!("{}", self.put_aside(&name, &why)),
        }
        let marker = format!("{RUNNING}{name}");
        if !summary.is_over() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(&self.opened, &marker, flags, Mode::RUSR | Mode::WUSR)?;
        }
        self.replace(summary, &name)?;
        if summary.is_over() {
            let _ = unlinkat(&self.opened, &marker, AtFlags::empty());
        }
        Ok(())
    }

    fn replace(&self, summary: &Summary, name: &str) -> std::io::Result<()> {
        files::replace(
            &self.opened,
            name,
            &format!("{BEING_WRITTEN}{name}"),
            |file| {
                files::set_mode(file, 0o640)?;
                self.let_user_read(file, summary);
                Ok(())
            },
            file::write(summary).as_bytes(),
            false,
        )
    }

    /// Without it, root can read the file all the same.
    fn let_user_read(&self, file: &File, summary: &Summary) {
        let mut about = summary.about.iter();
        let Some(user) = about.find_map(|(name, value)| if name == UID { value.parse().ok() } else { None }) else {
            return;
        };
        if let Err(error) = files::let_user_read(file, user)
            && !self.told_no_lists.replace(true)
        {
            log::info!(
                directory = self.path.display().to_string(), error = error.to_string();
                "users cannot read the summaries of their own jobs here, because the file system has no access control lists"
            );
        }
    }

    /// Reads a job's file.
    ///
    /// Errors: why it cannot be used.
    pub fn read(&self, job: &str) -> Result<Summary, String> {
        let summary = self.read_file(&file_name(job))?;
        if *summary.job == *job { Ok(summary) } else { Err(format!("it is of job {}", summary.job)) }
    }

    fn read_file(&self, name: &str) -> Result<Summary, String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(&self.opened, name, flags, Mode::empty()).map_err(|error| match error {
            Errno::LOOP => "it is a link".to_owned(),
            Errno::NOENT => NO_SUCH_FILE.to_owned(),
            error => error.to_string(),
        })?;
        let stat = fstat(&opened).map_err(|error| error.to_string())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err("it is not a regular file".to_owned());
        }
        let mut bytes = Vec::new();
        let read = File::from(opened).take(LONGEST_FILE + 1).read_to_end(&mut bytes);
        read.map_err(|error| error.to_string())?;
        if bytes.len() as u64 > LONGEST_FILE {
            return Err("it is longer than 1 MiB".to_owned());
        }
        file::read(&bytes)
    }

    /// The jobs of this node that were running when they were last written down. A file that cannot be used gets another
    /// name, once, and a sentence in `problems`; those of other nodes are left alone.
    pub fn unfinished(&self, host: &str, problems: &mut Vec<String>) -> Vec<Summary> {
        let mut found = Vec::new();
        let mut others: BTreeMap<String, usize> = BTreeMap::new();
        for marker in self.names() {
            let Some(name) = marker.strip_prefix(RUNNING) else { continue };
            match self.read_file(name) {
                Ok(summary) if summary.hostname != host => {
                    *others.entry(summary.hostname).or_default() += 1;
                    continue;
                }
                Ok(summary) if file_name(&summary.job) != name => {
                    problems.push(self.put_aside(name, &format!("it is of job {}", summary.job)));
                }
                Ok(summary) if !summary.is_over() => {
                    found.push(summary);
                    continue;
                }
                Ok(_) => {}
                Err(why) if why == NO_SUCH_FILE => {}
                Err(why) => problems.push(self.put_aside(name, &why)),
            }
            let _ = unlinkat(&self.opened, &marker, AtFlags::empty());
        }
        problems.extend(others.into_iter().map(|(host, count)| {
            let shown = self.path.display();
            format!("{shown} has {count} running jobs of node {host}, which are left alone; give each node a directory of its own")
        }));
        found
    }

    fn put_aside(&self, name: &str, why: &str) -> String {
        let aside = format!("{name}{ASIDE}");
        let file = self.path.join(name);
        match renameat(&self.opened, name, &self.opened, &aside) {
            Ok(()) => format!("{} is no summary of a job: {why}; it is kept as {aside}", file.display()),
            Err(error) => format!("{} is no summary of a job: {why}; it cannot be renamed: {error}", file.display()),
        }
    }

    /// Removes what has not changed for so long, but not what other nodes wrote.
    pub fn prune(&self, age: Duration, ours: &BTreeSet<String>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        for name in self.names() {
            let is_left_over = name.starts_with(BEING_WRITTEN) || name.ends_with(&format!(".json{ASIDE}"));
            if !is_left_over && (!name.ends_with(".json") || name.starts_with(RUNNING)) {
                continue;
            }
            let is_old = statat(&self.opened, &name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| now - stat.st_mtime > age.as_secs() as i64);
            if is_old && (is_left_over || self.read_file(&name).is_ok_and(|found| ours.contains(&found.hostname))) {
                let _ = unlinkat(&self.opened, &name, AtFlags::empty());
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(&self.opened, ".", flags, Mode::empty());
        let Ok(entries) = opened.and_then(Dir::new) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned)).collect();
        names.sort();
        names
    }
}

/// `<id>.json`. What could mean another place in an id is written as %XX.
pub fn file_name(job: &str) -> String {
    let mut name = String::new();
    for (index, byte) in job.bytes().enumerate() {
        match byte {
            b'.' if index == 0 => name.push_str("%2E"),
            byte if byte.is_ascii_alphanumeric() || b"._-+[]:,@#=~".contains(&byte) => name.push(char::from(byte)),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name + ".json"
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::summary;
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const HOST: &str = "node\u{e4}";

    fn ours() -> BTreeSet<String> {
        [HOST.to_owned()].into()
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dcgm-exporter-summary-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn an_id_is_never_another_place() {
        assert_eq!(file_name("17_[1-9]"), "17_[1-9].json");
        assert_eq!(file_name("../../etc/x"), "%2E./..".replace("/..", "%2F..%2Fetc%2Fx.json"));
        assert_eq!(file_name("a b%"), "a%20b%25.json");
        assert_eq!(file_name(".new-17"), "%2Enew-17.json");
    }

    #[test]
    fn files_are_replaced_whole_and_links_are_not_followed() {
        let path = directory("write");
        let store = Store::open(&path).unwrap();
        store.check_owner().unwrap();
        let victim = path.join("victim");
        std::fs::write(&victim, "x").unwrap();
        symlink(&victim, path.join("17.json")).unwrap();
        symlink(&victim, path.join(".new-17.json")).unwrap();
        assert_eq!(store.read("17"), Err("it is a link".to_owned()));
        let mut written = summary();
        store.write(&written, &ours()).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "x");
        assert_eq!(std::fs::metadata(path.join("17.json")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(store.read("17").as_ref(), Ok(&written));
        assert_eq!(store.unfinished(HOST, &mut Vec::new()), [written.clone()]);
        written.records[0].account.ended = Some(1);
        store.write(&written, &ours()).unwrap();
        assert_eq!(store.unfinished(HOST, &mut Vec::new()), []);
        assert_eq!(store.read("18"), Err("no such file".to_owned()));
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn what_is_no_summary_is_kept_aside_and_told_once() {
        let path = directory("bad");
        let store = Store::open(&path).unwrap();
        std::fs::write(path.join("18.json"), "{").unwrap();
        std::fs::write(path.join("19.json"), file::write(&summary())).unwrap();
        std::fs::create_dir(path.join("20.json")).unwrap();
        for name in ["18.json", "19.json", "20.json"] {
            std::fs::write(path.join(format!("{RUNNING}{name}")), "").unwrap();
        }
        std::fs::write(path.join("21.json"), "is not read").unwrap();
        std::fs::write(path.join("README"), "not ours").unwrap();
        let mut problems = Vec::new();
        assert_eq!(store.unfinished(HOST, &mut problems), []);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("18.json is no summary of a job: it is no JSON"), "{problems:?}");
        assert!(path.join("18.json.bad").exists() && path.join("21.json").exists() && path.join("README").exists());
        assert!(store.unfinished(HOST, &mut problems).is_empty() && problems.len() == 3);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn old_files_go() {
        let path = directory("old");
        let store = Store::open(&path).unwrap();
        store.write(&summary(), &ours()).unwrap();
        std::fs::write(path.join("README"), "not ours").unwrap();
        let old = SystemTime::now() - Duration::from_secs(3 * 86_400);
        for name in ["17.json", "README"] {
            std::fs::File::options().write(true).open(path.join(name)).unwrap().set_modified(old).unwrap();
        }
        store.prune(Duration::from_secs(4 * 86_400), &ours());
        assert!(path.join("17.json").exists());
        store.prune(Duration::from_secs(2 * 86_400), &ours());
        assert!(!path.join("17.json").exists() && path.join("README").exists());
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// Whatever its umask is, which is 0077 for the service.
    #[test]
    fn the_jobs_user_may_read_and_nobody_may_list() {
        let path = directory("user");
        let store = Store::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o711);
        let mut of_user = summary();
        of_user.about.push(("uid".to_owned(), "4711".to_owned()));
        store.write(&of_user, &ours()).unwrap();
        let file = path.join("17.json");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        let mut list = [0; 200];
        match rustix::fs::getxattr(&file, "system.posix_acl_access", &mut list[..]) {
            Err(Errno::OPNOTSUPP) => assert!(store.told_no_lists.get()),
            length => {
                let entries: Vec<&[u8]> = list[4..length.unwrap()].chunks(8).collect();
                assert_eq!(entries.len(), 5);
                assert_eq!(entries[1], [2, 0, 4, 0, 0x67, 0x12, 0, 0], "user 4711 reads");
                assert_eq!(entries[4][..4], [0x20, 0, 0, 0], "others do not");
            }
        }
        for (uid, job) in [("x", "18"), ("-1", "19"), ("4294967296", "20")] {
            let mut summary = of_user.clone();
            (summary.job, summary.about[1].1) = (job.into(), uid.to_owned());
            store.write(&summary, &ours()).unwrap();
            let found =
                rustix::fs::getxattr(path.join(format!("{job}.json")), "system.posix_acl_access", &mut list[..]);
            assert!(found.is_err(), "{uid}");
        }
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// systemd's StateDirectory= with DynamicUser=: a link to what only root can enter from outside.
    #[test]
    fn a_service_with_a_user_of_its_own_has_it_below_a_link() {
        let path = directory("state");
        std::fs::create_dir_all(path.join("private/dcgm-exporter")).unwrap();
        symlink("private/dcgm-exporter", path.join("dcgm-exporter")).unwrap();
        let store = Store::open(&path.join("dcgm-exporter/jobs")).unwrap();
        store.check_owner().unwrap();
        store.write(&summary(), &ours()).unwrap();
        assert!(path.join("private/dcgm-exporter/jobs/17.json").exists());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let path = directory("open");
        let store = Store::open(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(store.check_owner().unwrap_err().contains("chmod go-w"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o2750)).unwrap();
        store.check_owner().unwrap();
        let link = path.with_extension("link");
        let _ = std::fs::remove_file(&link);
        symlink(&path, &link).unwrap();
        assert!(Store::open(&link).err().unwrap().contains("is a link"));
        std::fs::remove_file(&link).unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
}
