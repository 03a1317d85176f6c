//! Paths inside of an image's tree.
//!
//! An absolute link of an image means a file of that image. Followed by the kernel of the head node it would lead to the
//! head node's own file, such as its settings or its keys.

use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// Where a path of the tree lies, all links followed as if `root` were `/`. The answer has no link below `root`, and does
/// not lead out of it; it need not exist.
pub fn resolve(root: &Path, path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    push(&mut rest, path);
    let (mut inside, mut links) = (PathBuf::new(), 0);
    while let Some(part) = rest.pop() {
        if part == ".." {
            inside.pop();
            continue;
        }
        match fs::read_link(root.join(&inside).join(&part)) {
            Ok(_) if links >= MOST_LINKS => return root.join(inside).join("too-many-links").join(part),
            Ok(target) => {
                links += 1;
                if target.is_absolute() {
                    inside = PathBuf::new();
                }
                push(&mut rest, &target);
            }
            // No link, or nothing at all.
            Err(_) => inside.push(part),
        }
    }
    root.join(inside)
}

/// Puts the parts of a path in front of what is still to be followed.
fn push(rest: &mut Vec<OsString>, path: &Path) {
    rest.extend(path.components().rev().filter_map(|component| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_out_of_the_tree() {
        let scratch = std::env::temp_dir().join(format!("dcgm-exporter-tree-{}", std::process::id()));
        let root = scratch.join("image");
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/real"), "").unwrap();
        for (target, link) in [
            ("usr/lib", "lib"),
            ("/etc/real", "etc/absolute"),
            ("../../../../../../etc/real", "etc/above"),
            ("/etc/passwd", "etc/outside"),
            ("loop", "etc/loop"),
            ("/lib/x", "usr/lib/chain"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        for (path, expected) in [
            ("/etc/real", "etc/real"),
            ("/lib/x", "usr/lib/x"),
            ("/etc/absolute", "etc/real"),
            ("etc/above", "etc/real"),
            ("/../../etc/real", "etc/real"),
            ("/etc/outside", "etc/passwd"),
            ("/lib/chain", "usr/lib/x"),
            ("/nowhere/at/all", "nowhere/at/all"),
        ] {
            assert_eq!(resolve(&root, Path::new(path)), root.join(expected), "{path}");
        }
        assert!(fs::metadata(resolve(&root, Path::new("/etc/outside"))).is_err(), "not the head node's file");
        assert!(fs::metadata(resolve(&root, Path::new("/etc/loop"))).is_err());
        fs::remove_dir_all(scratch).unwrap();
    }
}
