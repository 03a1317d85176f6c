//! Reads the web configuration again when it, a certificate or a key has changed.

use std::path::{Path, PathBuf};

use super::web_config::{WebConfig, read};
use crate::system::files;

/// Reads a configuration, and again when one of its files has changed.
pub struct Monitor {
    file: PathBuf,
    /// What was last read, well or not.
    files: files::Monitor,
    has_tls: bool,
    has_users: bool,
}

impl Monitor {
    /// Reads the configuration for the first time.
    ///
    /// Errors: as [`WebConfig::read`].
    pub fn start(file: &Path) -> Result<(WebConfig, Monitor), Vec<String>> {
        let mut files = files::Monitor::default();
        let config = read(file, &mut files)?;
        let (has_tls, has_users) = (config.tls.is_some(), !config.users.is_empty());
        Ok((config, Monitor { file: file.to_owned(), files, has_tls, has_users }))
    }

    /// Reads the files again if they have changed and stayed so since the last look.
    ///
    /// Errors: what is wrong with them, or why it needs a restart; whoever asks keeps what there was.
    pub fn look(&mut self) -> Option<Result<WebConfig, Vec<String>>> {
        if !self.files.changed() {
            return None;
        }
        self.files = files::Monitor::default();
        let config = match read(&self.file, &mut self.files) {
            Ok(config) => config,
            Err(problems) => return Some(Err(problems)),
        };
        // A file that somebody emptied, or wrote half, takes no protection away.
        let change = match (self.has_tls, config.tls.is_some()) {
            (true, false) => Some("from HTTPS to HTTP"),
            (false, true) => Some("from HTTP to HTTPS"),
            _ if self.has_users && config.users.is_empty() => Some("from users to none, which lets everybody in,"),
            _ => None,
        };
        if let Some(change) = change {
            return Some(Err(vec![format!("{}: a change {change} needs a restart", self.file.display())]));
        }
        self.has_users = !config.users.is_empty();
        Some(Ok(config))
    }
}
