//! `DCGM_EXP_P2P_STATUS`: whether two GPUs reach each other over NVLink.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::dcgm::{Result, Session};
use crate::inventory::Inventory;
use crate::metrics::number::Number;
use crate::metrics::sample::{Sample, Samples};
use crate::metrics::source::{Context, Setup, Source};

pub const STATUS: &str = "DCGM_EXP_P2P_STATUS";

/// `dcgmLink_State_t` of P2P, as labels, from 0.
const STATES: [&str; 6] =
    ["OK", "ChipsetNotSupported", "GPUNotSupported", "TopologyNotSupported", "DisabledByRegKey", "NotSupported"];

/// How often the engine is asked. The states follow from how GPUs are connected and set up, which changes with a reset of
/// a GPU or of the fabric; each question asks the driver about every pair of GPUs.
const ASK_EVERY: Duration = Duration::from_secs(60);

pub struct P2pStates {
    session: Rc<Session>,
    asked: Option<Instant>,
    answer: Vec<Sample>,
}

/// `None` without GPUs.
pub fn new(setup: &mut Setup<'_>) -> Result<Option<Box<dyn Source>>> {
    if setup.inventory.reported_gpus().is_empty() || !setup.wants(&[STATUS]) {
        return Ok(None);
    }
    Ok(Some(Box::new(P2pStates { session: setup.session.clone(), asked: None, answer: Vec::new() })))
}

impl Source for P2pStates {
    fn name(&self) -> &'static str {
        "p2p"
    }

    /// Adds a sample for each ordered pair whose first GPU is reported. None where the call is not supported.
    fn collect(&mut self, context: &mut Context<'_>, samples: &mut Samples) -> Result<()> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            self.asked = None;
            self.answer = ask(&self.session, context.inventory)?;
            self.asked = Some(Instant::now());
        }
        if let Some(list) = samples.list(STATUS) {
            list.extend_from_slice(&self.answer);
        }
        Ok(())
    }
}

fn ask(session: &Session, inventory: &Inventory) -> Result<Vec<Sample>> {
    let rows = match session.p2p_states() {
        Err(error) if error.is_absence() => return Ok(Vec::new()),
        other => other?,
    };
    let mut samples = Vec::new();
    let reported = inventory.reported_gpus();
    for (gpu, states) in &rows {
        let Some((entity, _)) = reported.iter().find(|(_, id)| id == gpu) else { continue };
        for ((peer, _), state) in rows.iter().zip(states).filter(|((peer, _), _)| peer != gpu) {
            let name = STATES.get(*state as usize).copied().unwrap_or("Unknown");
            let labels = vec![("link_status", name.to_owned()), ("peer_gpu", peer.to_string())];
            samples.push(Sample::new(*entity, labels, Number::Int(i64::from(*state))));
        }
    }
    Ok(samples)
}
