//! Reads the web configuration again when it, a certificate or a key has changed.

use std::path::{Path, PathBuf};

use super::web_config::{Seen, WebConfig, read};
use crate::system::files::{self, Stamp};

/// Reads a configuration, and again when one of its files has changed.
pub struct Monitor {
    file: PathBuf,
    /// What was last read, well or not.
    seen: Vec<Seen>,
    /// A change that is seen once may be half written; one that is seen twice is taken.
    unsettled: Option<Vec<Option<Stamp>>>,
    has_tls: bool,
}

impl Monitor {
    /// Reads the configuration for the first time.
    ///
    /// Errors: as [`WebConfig::read`].
    pub fn start(file: &Path) -> Result<(WebConfig, Monitor), Vec<String>> {
        let mut seen = Vec::new();
        let config = read(file, &mut seen)?;
        let has_tls = config.tls.is_some();
        Ok((config, Monitor { file: file.to_owned(), seen, unsettled: None, has_tls }))
    }

    /// Reads the files again if they have changed and stayed so since the last look.
    ///
    /// Errors: what is wrong with them, or why it needs a restart; whoever asks keeps what there was.
    pub fn look(&mut self) -> Option<Result<WebConfig, Vec<String>>> {
        let now: Vec<Option<Stamp>> = self.seen.iter().map(|(path, _)| files::stamp(path)).collect();
        if now.iter().eq(self.seen.iter().map(|(_, stamp)| stamp)) {
            self.unsettled = None;
            return None;
        }
        if self.unsettled.as_ref() != Some(&now) {
            self.unsettled = Some(now);
            return None;
        }
        self.unsettled = None;
        self.seen.clear();
        let config = read(&self.file, &mut self.seen);
        Some(config.and_then(|config| match config.tls.is_some() == self.has_tls {
            true => Ok(config),
            false => {
                let (from, to) = if self.has_tls { ("HTTPS", "HTTP") } else { ("HTTP", "HTTPS") };
                Err(vec![format!("{}: a change from {from} to {to} needs a restart", self.file.display())])
            }
        }))
    }
}
