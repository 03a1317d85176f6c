//! The project's Markdown files and the blocks in them, for the tests that hold them to what is there.

use std::path::{Path, PathBuf};

/// What stands between two fences.
pub struct Block {
    /// `README.md:12`
    pub place: String,
    /// What follows the opening fence: `sh run`.
    pub info: String,
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file that belongs to the project, by its path in it, with its text.
pub fn files() -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![root().to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            // What is built, and what is linked in beside the project, is not of it.
            if path.is_dir() && !path.is_symlink() && !["target", "shared", ".git", ".e2e"].contains(&name.as_str()) {
                open.push(path);
            } else if name.ends_with(".md") {
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "{found:?}");
    found
}

/// The blocks of a file, in their order. Those in lists are indented.
pub fn blocks(file: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (index, line) in text.lines().enumerate() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            if is_open {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            continue;
        };
        is_open = !is_open;
        if is_open {
            let place = format!("{file}:{}", index + 1);
            blocks.push(Block { place, info: info.trim().to_owned(), text: String::new() });
        }
        assert!(is_open || info.is_empty(), "{file}:{}: a block within a block", index + 1);
    }
    assert!(!is_open, "{file}: the last block has no end");
    blocks
}

/// All blocks of all files whose first line begins so.
pub fn all_blocks(info: &str) -> Vec<Block> {
    let files = files();
    let blocks = files.iter().flat_map(|(file, text)| blocks(file, text));
    blocks.filter(|block| block.info == info || block.info.starts_with(&format!("{info} "))).collect()
}
