//! `DCGM_EXP_NVLINK_LINKS`: how many NVLinks of each GPU are up, down and disabled.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::dcgm::query::LinkStates;
use crate::dcgm::{EntityGroup, Result, Session};
use crate::metrics::number::Number;
use crate::metrics::sample::{Sample, Samples};
use crate::metrics::source::{Context, Setup, Source};

pub const LINKS: &str = "DCGM_EXP_NVLINK_LINKS";

/// `dcgmNvLinkLinkState_t`, as labels. 0 is a place without a link.
const STATES: [(u32, &str); 3] = [(1, "disabled"), (2, "down"), (3, "up")];

/// The engine asks the driver about each link of each GPU and switch, up to 400 of them. A link that fails stays down
/// until a reset, so ten seconds lose nothing.
const ASK_EVERY: Duration = Duration::from_secs(10);

pub struct NvLinks {
    session: Rc<Session>,
    asked: Option<Instant>,
    links: Vec<LinkStates>,
}

/// `None` without GPUs.
pub fn new(setup: &mut Setup<'_>) -> Result<Option<Box<dyn Source>>> {
    if setup.inventory.reported_gpus().is_empty() || !setup.wants(&[LINKS]) {
        return Ok(None);
    }
    Ok(Some(Box::new(NvLinks { session: setup.session.clone(), asked: None, links: Vec::new() })))
}

impl NvLinks {
    fn ask(&mut self) -> Result<()> {
        // A collection that comes a little early still asks.
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY.mul_f64(0.9)) {
            return Ok(());
        }
        self.asked = None;
        self.links = match self.session.link_states() {
            Err(error) if error.is_absence() => Vec::new(),
            other => other?,
        };
        self.asked = Some(Instant::now());
        Ok(())
    }
}

impl Source for NvLinks {
    fn name(&self) -> &'static str {
        "nvlink_links"
    }

    /// Adds three samples per GPU that is reported and has links.
    fn collect(&mut self, context: &mut Context<'_>, samples: &mut Samples) -> Result<()> {
        self.ask()?;
        let Some(list) = samples.list(LINKS) else { return Ok(()) };
        for (entity, gpu) in context.inventory.reported_gpus() {
            let is_its = |links: &&LinkStates| links.parent.group == EntityGroup::Gpu && links.parent.id == gpu;
            let Some(links) = self.links.iter().find(is_its) else { continue };
            let count = |state: u32| links.states.iter().filter(|known| **known == state).count();
            if STATES.iter().all(|(state, _)| count(*state) == 0) {
                continue;
            }
            list.extend(STATES.iter().map(|(state, name)| {
                Sample::new(entity, vec![("state", (*name).to_owned())], Number::Int(count(*state) as i64))
            }));
        }
        Ok(())
    }
}
