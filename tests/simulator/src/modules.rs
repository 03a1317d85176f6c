//! Which part of DCGM serves a field of an entity.
//!
//! Switches, their links, ConnectX, CPUs and cores belong to modules with threads of their own: their values come by the
//! module's clock at the watch interval, also in MANUAL mode, and carry its time stamps. Everything else is sampled by
//! the engine when it updates.

use crate::answers::Kind;
use crate::codes::is_profiling;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Driver,
    Profiling,
    SwitchModule,
    SystemMonitor,
}

impl Server {
    pub fn of(kind: Option<Kind>, field: u16) -> Server {
        match kind {
            Some(Kind::Switch | Kind::SwitchLink | Kind::ConnectX) => Server::SwitchModule,
            Some(Kind::GpuLink) if is_switch_field(field) => Server::SwitchModule,
            Some(Kind::Cpu | Kind::Core) => Server::SystemMonitor,
            _ if is_profiling(field) => Server::Profiling,
            _ => Server::Driver,
        }
    }

    pub fn has_a_clock(self) -> bool {
        matches!(self, Server::SwitchModule | Server::SystemMonitor)
    }
}

/// Fields that the switch module serves.
pub fn is_switch_field(field: u16) -> bool {
    matches!(field, 700..=824 | 856..=878 | 1300..=1399)
}

/// Whether NVSDM fails on this pair, which ends its update and discards everything that was due with it.
pub fn fails_in_nvsdm(kind: Option<Kind>, field: u16) -> bool {
    match kind {
        Some(Kind::Switch | Kind::ConnectX) => matches!(field, 782 | 856),
        Some(Kind::SwitchLink) => matches!(field, 782 | 700..=779 | 856..=864),
        Some(Kind::GpuLink) => matches!(field, 700..=782 | 870 | 856..=864),
        _ => false,
    }
}

/// Fields of which NVSDM never had a sample.
pub fn has_no_sample_in_nvsdm(field: u16) -> bool {
    matches!(field, 702..=704 | 706 | 707 | 856 | 857 | 859 | 860 | 782 | 783 | 786..=824)
}

/// Utilisation of CPUs is a difference: the first look has none.
pub fn needs_two_looks(server: Server, field: u16) -> bool {
    match server {
        Server::Profiling => true,
        Server::SystemMonitor => matches!(field, 1100..=1104),
        _ => false,
    }
}
