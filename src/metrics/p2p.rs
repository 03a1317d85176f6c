//! `DCGM_EXP_P2P_STATUS`: whether two GPUs reach each other over NVLink.

use super::computed::{Attribution, ComputedSample};
use super::table::Number;
use crate::dcgm::{Result, Session};
use crate::inventory::Inventory;

/// `dcgmLink_State_t` of P2P, as labels, from 0.
const STATES: [&str; 6] =
    ["OK", "ChipsetNotSupported", "GPUNotSupported", "TopologyNotSupported", "DisabledByRegKey", "NotSupported"];

/// Adds a sample for each ordered pair whose first GPU is reported. None where the call is not supported.
pub fn put(session: &Session, inventory: &Inventory, list: &mut Vec<ComputedSample>) -> Result<()> {
    let rows = match session.p2p_states() {
        Err(error) if error.is_absence() => return Ok(()),
        other => other?,
    };
    let reported = inventory.reported_gpus();
    for (gpu, states) in &rows {
        let Some((entity, _)) = reported.iter().find(|(_, id)| id == gpu) else { continue };
        for ((peer, _), state) in rows.iter().zip(states).filter(|((peer, _), _)| peer != gpu) {
            let name = STATES.get(*state as usize).copied().unwrap_or("Unknown");
            list.push(ComputedSample {
                entity: *entity,
                labels: vec![("link_status", name.to_owned()), ("peer_gpu", peer.to_string())],
                job: Attribution::Current,
                number: Number::Int(i64::from(*state)),
            });
        }
    }
    Ok(())
}
