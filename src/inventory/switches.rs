//! NVSwitches.

use super::{Entity, Inventory, Kind, Scope, selections};
use crate::dcgm::{EntityGroup, Result, Session};

pub(super) fn add(session: &Session, scope: &Scope, inventory: &mut Inventory) -> Result<()> {
    let present = session.entities(EntityGroup::Switch)?;
    let (switches, _) = selections(&scope.switches);
    inventory.warn_missing("--switch-devices", "NVSwitch", &switches, &present);
    for id in switches.of(&present) {
        let labels = scope.names.finish(vec![("nvswitch", format!("nvswitch{id}"))]);
        inventory.entities.push(Entity::of_node(EntityGroup::Switch, id, Kind::Switch, labels));
    }
    Ok(())
}
