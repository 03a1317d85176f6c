//! HTTP: serves the published page, with bounds on what any client can cost.
//!
//! ```text
//!  scraper ─► listen ─► connections ─► request ─► credentials ─► backend ─► routes
//!                       (poll loop)    (a head,   (passwords,    (tiny_http  (what is
//!             stream ◄─ bytes          judged)     rate limit)    within)     answered)
//! ```
//!
//! - [`listen`]: the public sockets.
//! - [`connections`]: one thread that owns them and bounds the cost of clients; [`connection`] is one of them.
//! - [`stream`]: bytes of a connection, plain or through [`tls`].
//! - [`request`]: the head of a request, judged and rewritten; [`response`]: the head of an answer.
//! - [`accept`]: the form of the page that a client takes.
//! - [`web_config`]: TLS, users, headers and rate limit, read again by [`reload`]; [`client_certificates`],
//!   [`credentials`] and [`rate_limit`] act on it.
//! - [`backend`]: questions to tiny_http; [`worker`] runs it behind a private socket, and [`routes`] has its answers.
//! - [`file_sd`]: a file that tells Prometheus where this exporter is.
//! - [`watchdog`]: notifications to systemd's watchdog.
//!
//! Nothing here waits for DCGM or formats metrics: the page is sent from the memory in which it was published. Only the
//! page in OpenMetrics is made here, on the worker's thread, when a client asks for it.

pub mod accept;
pub mod backend;
pub mod client_certificates;
pub mod connection;
pub mod connections;
pub mod credentials;
pub mod file_sd;
pub mod listen;
pub mod rate_limit;
pub mod reload;
pub mod request;
pub mod response;
pub mod routes;
pub mod stream;
pub mod tls;
pub mod watchdog;
pub mod web_config;
pub mod worker;

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::OpenMetrics;
use crate::config::listen::Timeouts;
use crate::publish::PublishedPage;
use crate::system::threads::Supervisor;
use backend::Backend;
use connections::{Connections, Policy};
use credentials::Credentials;
use listen::Listener;
use reload::Monitor;
use watchdog::Watchdog;
use web_config::WebConfig;

/// The poll loop holds a few buffers of some kilobytes, and a TLS handshake on its stack.
const STACK: usize = 512 * 1024;

/// The web configuration, read and monitored for changes.
pub struct Web(Option<(WebConfig, Monitor)>);

impl Web {
    /// Reads the file, if there is one.
    ///
    /// Errors: all that is wrong with it, a line each.
    pub fn open(file: Option<&Path>) -> Result<Web, String> {
        let web = file.map(Monitor::start).transpose().map_err(|problems| problems.join("\n"))?;
        if let Some((config, _)) = &web {
            config.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        }
        Ok(Web(web))
    }

    pub fn has_tls(&self) -> bool {
        self.0.as_ref().is_some_and(|(config, _)| config.tls.is_some())
    }
}

/// Starts serving the page on these sockets. Returns at once; the threads live as long as the process.
///
/// Errors: a thread or the private socket cannot be made.
pub fn start(
    listeners: Arc<Vec<Listener>>,
    published: &Arc<PublishedPage>,
    timeouts: Timeouts,
    open_metrics: OpenMetrics,
    web: Web,
    supervisor: &Supervisor,
) -> io::Result<()> {
    let backend = Backend::start(published.clone(), supervisor.clone())?;
    let credentials = match web.0 {
        None => Credentials::none(),
        Some((config, monitor)) => Credentials::start(config, monitor, supervisor)?,
    };
    let watchdog = Watchdog::from_environment();
    let policy = Policy { timeouts, open_metrics };
    let connections = Connections::new(listeners, backend, credentials, published.clone(), policy, watchdog);
    supervisor.spawn("connections", STACK, move || connections.run())?;
    Ok(())
}
