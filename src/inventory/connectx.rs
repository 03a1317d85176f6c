//! ConnectX adapters.

use super::{Entity, Inventory, Kind, Scope};
use crate::dcgm::{EntityGroup, Result, Session};

pub(super) fn add(session: &Session, scope: &Scope, inventory: &mut Inventory) -> Result<()> {
    for id in session.entities(EntityGroup::ConnectX)? {
        let labels = scope.names.finish(vec![("connectx", id.to_string())]);
        inventory.entities.push(Entity::of_node(EntityGroup::ConnectX, id, Kind::ConnectX, labels));
    }
    Ok(())
}
