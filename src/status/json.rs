//! The page as JSON, with the same content. A number that is not known is null, and `hints` names the rows of the counters
//! file that would bring it.

use std::fmt::{self, Write};
use std::time::Duration;

use super::Said;
use super::model::{Gpu, Jobs, Measure, Snapshot};
use crate::system::json::Json;

pub fn beginning(age: Option<Duration>) -> String {
    match age {
        Some(age) => format!("{{\"age_seconds\":{:.3},", age.as_secs_f64()),
        None => "{\"age_seconds\":null,".to_owned(),
    }
}

/// All that follows [`beginning`].
pub fn render(snapshot: Option<&Snapshot>, said: &Said) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, snapshot, said);
    out
}

fn write(out: &mut String, snapshot: Option<&Snapshot>, said: &Said) -> fmt::Result {
    let version = Json(env!("CARGO_PKG_VERSION"));
    write!(out, "\"version\":{version},\"state\":{},\"is_well\":{}", Json(&said.text), said.is_well)?;
    let nothing = Snapshot::default();
    let snapshot = snapshot.unwrap_or(&nothing);
    let time = snapshot.time.map(|time| humantime::format_rfc3339_seconds(time).to_string());
    write!(out, ",\"time\":")?;
    match &time {
        Some(time) => write!(out, "{}", Json(time))?,
        None => out.push_str("null"),
    }
    write!(out, ",\"interval_seconds\":{},\"node\":{}", snapshot.interval.as_secs_f64(), Json(&snapshot.node))?;
    out.push_str(",\"exporter\":{");
    list(out, &snapshot.facts, |out, (name, text)| write!(out, "{}:{}", Json(name), Json(text)))?;
    out.push_str("},\"problems\":[");
    list(out, &snapshot.problems, |out, problem| {
        write!(out, "{{\"what\":{},\"fix\":{}}}", Json(&problem.what), Json(&problem.fix))
    })?;
    out.push_str("],\"gpus\":[");
    list(out, &snapshot.gpus, gpu)?;
    out.push_str("],\"others\":[");
    let others: Vec<(&str, &(String, String))> =
        snapshot.others.iter().flat_map(|group| group.lines.iter().map(|line| (group.title, line))).collect();
    list(out, &others, |out, (kind, (name, text))| {
        write!(out, "{{\"kind\":{},\"name\":{},\"text\":{}}}", Json(kind), Json(name), Json(text))
    })?;
    out.push_str("],\"skipped\":[");
    list(out, &snapshot.skipped, |out, (name, reason)| {
        write!(out, "{{\"name\":{},\"reason\":{}}}", Json(name), Json(reason))
    })?;
    out.push_str("],\"hints\":[");
    let hints: Vec<_> = snapshot.wishes().collect();
    list(out, &hints, |out, (what, row)| write!(out, "{{\"missing\":{},\"row\":{}}}", Json(what), Json(row)))?;
    out.push_str("]}\n");
    Ok(())
}

fn gpu(out: &mut String, gpu: &Gpu) -> fmt::Result {
    let texts = [
        ("name", &gpu.name),
        ("uuid", &gpu.uuid),
        ("pci_bus_id", &gpu.pci_bus_id),
        ("model", &gpu.model),
        ("profile", &gpu.profile),
    ];
    out.push('{');
    list(out, &texts, |out, (name, text)| write!(out, "\"{name}\":{}", Json(text)))?;
    write!(out, ",\"answers\":{}", gpu.answers)?;
    for (name, measure) in [
        ("utilisation_percent", gpu.utilisation),
        ("memory_used_mib", gpu.memory),
        ("memory_total_mib", gpu.memory_total),
        ("power_watts", gpu.power),
        ("power_limit_watts", gpu.power_limit),
        ("temperature_celsius", gpu.temperature),
        ("slowdown_celsius", gpu.slowdown),
        ("memory_temperature_celsius", gpu.memory_temperature),
        ("xid", gpu.xid),
        ("xid_events", gpu.xid_events.map_or(Measure::NotAsked, |count| Measure::Value(count as f64))),
    ] {
        match measure.value().filter(|value| value.is_finite()) {
            Some(value) => write!(out, ",\"{name}\":{value}")?,
            None => write!(out, ",\"{name}\":null")?,
        }
    }
    out.push_str(",\"throttling\":");
    match gpu.throttled() {
        Some(reasons) => {
            out.push('[');
            list(out, &reasons, |out, reason| write!(out, "{}", Json(reason)))?;
            out.push(']');
        }
        None => out.push_str("null"),
    }
    out.push_str(",\"jobs\":");
    match &gpu.jobs {
        Jobs::Unknown => out.push_str("null"),
        Jobs::Count(count) => write!(out, "{count}")?,
        Jobs::Named(jobs) => {
            out.push('[');
            list(out, jobs, |out, job| write!(out, "{{\"id\":{},\"user\":{}}}", Json(&job.id), Json(&job.user)))?;
            out.push(']');
        }
    }
    out.push('}');
    Ok(())
}

/// Items with commas between them.
fn list<T>(out: &mut String, items: &[T], mut put: impl FnMut(&mut String, &T) -> fmt::Result) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        put(out, item)?;
    }
    Ok(())
}
