//! The JSON of one job: an object with what is known of the job, and a list of its GPUs.
//!
//! Everything that is needed to go on after a restart is in it. Times are seconds since 1970, unless their names say
//! otherwise; a number that is not known is null.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::Summary;
use crate::metrics::accounts::{ACTIVITIES, Account, Device, Mean, Record};
use crate::system::json::Json;
use crate::system::json_reader::{Malformed, Reader, Result};

/// Of the file. Another one is not read.
const FORMAT: i64 = 1;
const MIB: i64 = 1 << 20;

pub fn write(summary: &Summary) -> String {
    let mut out = String::new();
    let state = if summary.is_over() { "ended" } else { "running" };
    let began = summary.records.iter().map(|record| record.account.began).min().unwrap_or(0);
    let updated = summary.records.iter().map(|record| record.updated).max().unwrap_or(0);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "{{\"format\":{FORMAT},\"job\":{},\"state\":\"{state}\",\"hostname\":{},\"began\":{},\"updated\":{},\"about\":",
        Json(&summary.job),
        Json(&summary.hostname),
        Time(Some(began)),
        Time(Some(updated))
    );
    crate::system::json::push_object(&mut out, summary.about.iter().map(|(name, value)| (&**name, &**value)));
    out.push_str(",\"gpus\":[");
    for (index, record) in summary.records.iter().enumerate() {
        out.push_str(if index == 0 { "\n" } else { ",\n" });
        push_gpu(&mut out, record);
    }
    out.push_str("\n]}\n");
    out
}

fn push_gpu(out: &mut String, record: &Record) {
    let Record { device, account, updated, energy_reading, idle_since, .. } = record;
    let _ = write!(
        out,
        "{{\"gpu\":{},\"uuid\":{},\"instance\":{},\"profile\":{},\"began\":{},\"ended\":{},\"updated\":{},\
         \"held_seconds\":{},\"shared_seconds\":{},\"energy_joules\":{},\"busy_seconds\":{},\"observed_seconds\":{},\
         \"memory_used_max_bytes\":{}",
        Json(&device.gpu),
        Json(&device.uuid),
        Json(&device.instance),
        Json(&device.profile),
        Time(Some(account.began)),
        Time(account.ended),
        Time(Some(*updated)),
        account.held_seconds,
        account.shared_seconds,
        Real(account.energy_millijoules.map(|used| used / 1e3)),
        account.busy.sum,
        account.busy.seconds,
        Whole(account.memory_max.map(|used| used.saturating_mul(MIB))),
    );
    for ((_, name), mean) in ACTIVITIES.iter().zip(account.activities) {
        let _ = write!(out, ",\"{name}\":{},\"{name}_observed_seconds\":{}", Real(mean.value()), mean.seconds);
    }
    out.push_str(",\"xids\":{");
    for (index, (code, count)) in account.xids.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}\"{code}\":{count}");
    }
    let _ = write!(
        out,
        "}},\"throttled_seconds\":{},\"power_capped_seconds\":{},\"idle_since\":{},\"energy_counter_time\":{},\
         \"energy_counter_millijoules\":{}}}",
        account.throttled_seconds,
        account.power_capped_seconds,
        Time(*idle_since),
        Time(energy_reading.map(|(time, _)| time)),
        Whole(energy_reading.map(|(_, value)| value)),
    );
}

/// Microseconds as seconds.
struct Time(Option<i64>);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(time) => write!(f, "{}.{:06}", time.div_euclid(1_000_000), time.rem_euclid(1_000_000)),
            None => f.write_str("null"),
        }
    }
}

struct Real(Option<f64>);

impl std::fmt::Display for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.filter(|number| number.is_finite()) {
            Some(number) => write!(f, "{number}"),
            None => f.write_str("null"),
        }
    }
}

struct Whole(Option<i64>);

impl std::fmt::Display for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}"),
            None => f.write_str("null"),
        }
    }
}

/// Errors: a sentence on why this is no such file.
pub fn read(bytes: &[u8]) -> std::result::Result<Summary, String> {
    let mut format = None;
    let (mut job, mut hostname, mut about, mut gpus) = (String::new(), String::new(), Vec::new(), Vec::new());
    let mut reader = Reader::new(bytes);
    let read = reader.object(&mut |name, reader| {
        match name {
            "format" => format = reader.integer()?,
            "job" => job = reader.text()?,
            "hostname" => hostname = reader.text()?,
            "about" => {
                about.clear();
                reader.object(&mut |name, reader| {
                    about.push((name.to_owned(), reader.text()?));
                    Ok(())
                })?;
            }
            "gpus" => {
                gpus.clear();
                reader.array(&mut |reader| {
                    gpus.push(gpu(reader)?);
                    Ok(())
                })?;
            }
            _ => reader.skip()?,
        }
        Ok(())
    });
    read.and_then(|()| reader.end()).map_err(|Malformed(at)| format!("it is no JSON at byte {at}"))?;
    match format {
        Some(FORMAT) => {}
        _ => return Err(format!("it has no \"format\": {FORMAT}")),
    }
    if job.is_empty() || gpus.is_empty() {
        return Err("it names no job or no GPU".to_owned());
    }
    let job: Arc<str> = job.into();
    gpus.iter_mut().for_each(|record| record.job = job.clone());
    if gpus.iter().any(|record| record.device.uuid.is_empty()) {
        return Err("a GPU in it has no UUID".to_owned());
    }
    Ok(Summary { job, hostname, about, records: gpus })
}

fn gpu(reader: &mut Reader<'_>) -> Result<Record> {
    let (mut device, mut account) = (Device::default(), Account::default());
    let (mut updated, mut idle_since, mut counter_time, mut counter) = (0, None, None, None);
    let mut means = [Mean::default(); ACTIVITIES.len()];
    reader.object(&mut |name, reader| {
        match name {
            "gpu" => device.gpu = reader.text()?,
            "uuid" => device.uuid = reader.text()?,
            "instance" => device.instance = reader.text()?,
            "profile" => device.profile = reader.text()?,
            "began" => account.began = time(reader)?.unwrap_or(0),
            "ended" => account.ended = time(reader)?,
            "updated" => updated = time(reader)?.unwrap_or(0),
            "held_seconds" => account.held_seconds = amount(reader)?.unwrap_or(0.0),
            "shared_seconds" => account.shared_seconds = amount(reader)?.unwrap_or(0.0),
            "energy_joules" => account.energy_millijoules = amount(reader)?.map(|used| used * 1e3),
            "busy_seconds" => account.busy.sum = amount(reader)?.unwrap_or(0.0),
            "observed_seconds" => account.busy.seconds = amount(reader)?.unwrap_or(0.0),
            "memory_used_max_bytes" => account.memory_max = reader.integer()?.map(|used| used / MIB),
            "throttled_seconds" => account.throttled_seconds = amount(reader)?.unwrap_or(0.0),
            "power_capped_seconds" => account.power_capped_seconds = amount(reader)?.unwrap_or(0.0),
            "idle_since" => idle_since = time(reader)?,
            "energy_counter_time" => counter_time = time(reader)?,
            "energy_counter_millijoules" => counter = reader.integer()?,
            "xids" => reader.object(&mut |code, reader| {
                let count = reader.integer()?.and_then(|count| u64::try_from(count).ok());
                if let (Ok(code), Some(count)) = (code.parse(), count) {
                    account.xids.insert(code, count);
                }
                Ok(())
            })?,
            other => match ACTIVITIES.iter().position(|(_, name)| other.strip_prefix(name).is_some()) {
                // The mean first, which is multiplied below.
                Some(index) if other.ends_with("_observed_seconds") => {
                    means[index].seconds = amount(reader)?.unwrap_or(0.0);
                }
                Some(index) => means[index].sum = amount(reader)?.unwrap_or(0.0),
                None => reader.skip()?,
            },
        }
        Ok(())
    })?;
    account.activities = means.map(|mean| Mean { sum: mean.sum * mean.seconds, seconds: mean.seconds });
    let energy_reading = counter_time.zip(counter);
    let xids: BTreeMap<i64, u64> = std::mem::take(&mut account.xids).into_iter().take(1000).collect();
    account.xids = xids;
    Ok(Record { job: Arc::from(""), device, account, updated, energy_reading, idle_since })
}

/// A sum, which is never negative.
fn amount(reader: &mut Reader<'_>) -> Result<Option<f64>> {
    Ok(reader.number()?.filter(|number| *number >= 0.0))
}

/// Seconds as microseconds.
fn time(reader: &mut Reader<'_>) -> Result<Option<i64>> {
    Ok(reader.number()?.map(|seconds| (seconds * 1e6).round() as i64))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn summary() -> Summary {
        let account = Account {
            began: 1_700_000_000_123_456,
            ended: None,
            held_seconds: 100.25,
            shared_seconds: 1.0 / 3.0,
            energy_millijoules: Some(1_234_567.0),
            busy: Mean { sum: 40.1, seconds: 99.0 },
            memory_max: Some(1234),
            activities: [Mean { sum: 12.0, seconds: 96.0 }, Mean::default(), Mean::default()],
            xids: [(31, 2), (79, 1)].into(),
            throttled_seconds: 3.5,
            power_capped_seconds: 60.0,
        };
        let device = Device { uuid: "GPU-a".to_owned(), gpu: "0".to_owned(), ..Device::default() };
        let first = Record {
            job: "17".into(),
            device,
            account,
            updated: 1_700_000_100_000_001,
            energy_reading: Some((1_700_000_100_000_000, 9_000_000_000_001)),
            idle_since: Some(1_700_000_090_000_000),
        };
        let device = Device {
            uuid: "MIG-b".to_owned(),
            gpu: "1".to_owned(),
            instance: "7".to_owned(),
            profile: "1g.18gb".to_owned(),
        };
        let account = Account { began: 1, ended: Some(1_700_000_050_000_000), ..Account::default() };
        let second =
            Record { device, account, energy_reading: None, idle_since: None, updated: 2_000_000, ..first.clone() };
        let about = vec![("user".to_owned(), "o\"neil".to_owned())];
        Summary { job: "17".into(), hostname: "node\u{e4}".to_owned(), about, records: vec![first, second] }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let summary = summary();
        let text = write(&summary);
        assert_eq!(read(text.as_bytes()).unwrap(), summary);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["state"], &json["gpus"][0]["energy_joules"]), (&"running".into(), &1234.567.into()));
        assert_eq!((&json["gpus"][0]["sm_active"], &json["gpus"][0]["xids"]["31"]), (&0.125.into(), &2.into()));
        assert!(json["gpus"][1]["energy_joules"].is_null() && json["gpus"][1]["tensor_active"].is_null());
    }

    #[test]
    fn what_is_none_is_refused() {
        let text = write(&summary());
        for (bad, why) in [
            ("".to_owned(), "no JSON"),
            (text[..text.len() / 2].to_owned(), "no JSON"),
            (format!("{text}x"), "no JSON"),
            (text.replace("\"format\":1", "\"format\":2"), "format"),
            (text.replace("\"job\":\"17\"", "\"job\":\"\""), "names no job"),
            (text.replace("GPU-a", ""), "no UUID"),
        ] {
            let error = read(bad.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_panic(at in 0usize..900, byte in proptest::prelude::any::<u8>()) {
            let mut bytes = write(&summary()).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = read(&bytes);
        }
    }
}
