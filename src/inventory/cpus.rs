//! CPUs and their cores, which DCGM sees on Grace.

use super::{Entity, Inventory, Kind, Scope, selections};
use crate::config::devices::Selection;
use crate::dcgm::modules::sysmon_crash;
use crate::dcgm::{EntityGroup, Mode, Result, Session};

pub(super) fn add(session: &Session, scope: &Scope, inventory: &mut Inventory) -> Result<()> {
    let not_loaded = sysmon_crash(session.library().major()).filter(|_| session.mode() == Mode::Embedded);
    if let Some(reason) = not_loaded {
        inventory.absent.push((Kind::Cpu, reason));
        return Ok(());
    }
    let cpus = session.cpus()?;
    let (major, minor) = selections(&scope.cpus);
    let present: Vec<u32> = cpus.iter().map(|(id, _)| *id).collect();
    inventory.warn_missing("--cpu-devices", "CPU", &major, &present);
    if scope.wants(Kind::Cpu) {
        let serials = if scope.names.cpu_serials { serials(session)? } else { Vec::new() };
        for id in major.of(&present) {
            let serial = serials.iter().find(|(cpu, _)| *cpu == id).map(|(_, serial)| serial.as_str());
            let labels = scope.names.cpu(id, serial);
            inventory.entities.push(Entity::of_node(EntityGroup::Cpu, id, Kind::Cpu, labels));
        }
    }
    if scope.wants(Kind::Core) {
        // A list of cores alone means cores of whichever CPU has them.
        let of_cpus = if major == Selection::None { Selection::All } else { major };
        for (cpu, cores) in cpus.iter().filter(|(cpu, _)| of_cpus.contains(*cpu)) {
            for core in minor.of(cores) {
                let labels = scope.names.finish(vec![("cpucore", core.to_string()), ("cpu", cpu.to_string())]);
                inventory.entities.push(Entity::of_node(EntityGroup::Core, core, Kind::Core, labels));
            }
        }
    }
    Ok(())
}

/// Serial numbers by CPU: none with DCGM 3, which does not tell them.
fn serials(session: &Session) -> Result<Vec<(u32, String)>> {
    match session.cpu_serials() {
        Err(error) if error.is_connection_lost() => Err(error),
        Err(error) => {
            log::debug!("serial numbers of CPUs cannot be read: {error}");
            Ok(Vec::new())
        }
        serials => serials,
    }
}
