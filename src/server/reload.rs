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
}

impl Monitor {
    /// Reads the configuration for the first time.
    ///
    /// Errors: as [`WebConfig::read`].
    pub fn start(file: &Path) -> Result<(WebConfig, Monitor), Vec<String>> {
        let mut files = files::Monitor::default();
        let config = read(file, &mut files)?;
        let has_tls = config.tls.is_some();
        Ok((config, Monitor { file: file.to_owned(), files, has_tls }))
    }

    /// Reads the files again if they have changed and stayed so since the last look.
    ///
    /// Errors: what is wrong with them, or why it needs a restart; whoever asks keeps what there was.
    pub fn look(&mut self) -> Option<Result<WebConfig, Vec<String>>> {
        if !self.files.changed() {
            return None;
        }
        self.files = files::Monitor::default();
        let config = read(&self.file, &mut self.files);
        Some(config.and_then(|config| match config.tls.is_some() == self.has_tls {
            true => Ok(config),
            false => {
                let (from, to) = if self.has_tls { ("HTTPS", "HTTP") } else { ("HTTP", "HTTPS") };
                Err(vec![format!("{}: a change from {from} to {to} needs a restart", self.file.display())])
            }
        }))
    }
}
