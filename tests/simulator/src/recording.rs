//! The recorded answers of a real H200, idle and under a load, played as a load that comes and goes.

use std::collections::HashMap;

use crate::values::{Answer, Value, blank, ok};

static RECORDING: &str = include_str!("../h200.csv");

/// A row: the answers of an idle and of a busy GPU.
pub struct Recorded {
    status: i32,
    idle: Value,
    busy: Value,
    grows: bool,
}

pub fn read() -> HashMap<u16, Recorded> {
    let mut rows = HashMap::new();
    let mut reader = csv::Reader::from_reader(RECORDING.as_bytes());
    for record in reader.records().map(|record| record.expect("the recording is CSV")) {
        let value = |text: &str| match &record[2] {
            "i" => text.parse().ok().map(Value::Int),
            "d" => text.parse().ok().map(Value::Double),
            "s" => Some(Value::Text(text.into())),
            _ => Some(Value::Binary),
        };
        let (Some(idle), Ok(status)) = (value(&record[4]).or_else(|| value("0")), record[3].parse()) else { continue };
        // A field that was not recorded under load stays as it was idle, but for shares, which then follow the load.
        let busy = value(&record[6]).unwrap_or_else(|| match &idle {
            Value::Double(_) => Value::Double(0.5),
            other => other.clone(),
        });
        let grows =
            ["TOTAL", "COUNT", "CONSUMPTION", "VIOLATION", "REPLAY", "_NS"].iter().any(|part| record[1].contains(part));
        rows.insert(record[0].parse().unwrap(), Recorded { status, idle, busy, grows });
    }
    rows
}

/// 0 is idle, 1 is busy: a minute's wave, out of step from GPU to GPU.
pub fn load(gpu: u32, seconds: f64) -> f64 {
    // Like a cosine, but without libm: its 0.6 MB would count as the exporter's, which has no use for it.
    let turns = seconds / 60.0 + f64::from(gpu) / 8.0;
    let rise = 1.0 - (2.0 * (turns - turns as i64 as f64) - 1.0).abs();
    rise * rise * (3.0 - 2.0 * rise)
}

pub fn replayed(recorded: &Recorded, field: u16, kind: u8, gpu: u32, seconds: f64) -> Answer {
    const ENERGY_MILLIJOULES: u16 = 156;
    const POWER_WATTS: (f64, f64) = (78.0, 690.0);
    if recorded.status != 0 {
        return blank(kind, recorded.status);
    }
    let load = load(gpu, seconds);
    let value = match (&recorded.idle, &recorded.busy) {
        (Value::Int(idle), Value::Int(_)) if field == ENERGY_MILLIJOULES => {
            let watts = (POWER_WATTS.0 + POWER_WATTS.1) / 2.0;
            Value::Int(idle + i64::from(gpu) * 1_000_000 + (watts * seconds * 1000.0) as i64)
        }
        (Value::Int(idle), Value::Int(busy)) if recorded.grows && busy > idle => {
            Value::Int(idle + ((busy - idle) as f64 * seconds / 60.0) as i64)
        }
        (Value::Int(idle), Value::Int(busy)) if *idle > i64::MAX - 32 || *busy > i64::MAX - 32 => Value::Int(*idle),
        (Value::Int(idle), Value::Int(busy)) => Value::Int(idle + ((busy - idle) as f64 * load).round() as i64),
        (Value::Double(idle), Value::Double(busy)) if *idle > 1e14 || *busy > 1e14 => Value::Double(*idle),
        (Value::Double(idle), Value::Double(busy)) => Value::Double(idle + (busy - idle) * load),
        (other, _) => other.clone(),
    };
    ok(kind, value)
}
