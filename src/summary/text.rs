//! A summary for people: a line per GPU, and what stands out.

use std::time::Duration;

use super::Summary;
use crate::metrics::accounts::{ACTIVITIES, Account, Record};
use crate::system::printable::{printable, printable_lines};

/// Before the line of a job that has not ended; `dist/slurm/job-summary.sh` waits while it is there.
const RUNNING: &str = "still running: ";
/// A GPU below this mean utilisation is hardly used.
const HARDLY: f64 = 0.1;

/// A few lines. `now` is in microseconds since 1970.
pub fn long(summary: &Summary, now: i64) -> String {
    let records = &summary.records;
    let held = records.iter().map(|record| record.account.held_seconds).fold(0.0, f64::max);
    let about: Vec<String> = summary
        .about
        .iter()
        .filter(|(name, _)| ["user", "account", "partition"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    let held = duration(held);
    let state = match summary.is_over() {
        true => format!("GPUs were held for {held}"),
        false => format!("still running, GPUs held for {held}{}", age(summary, now)),
    };
    let mut out = format!("Job {}{about} on {}: {state}\n", summary.job, printable(&summary.hostname));
    let mut rows =
        vec![["GPU", "held", "busy", "memory", "energy", "SM", "tensor", "DRAM", ""].map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(row));
    let columns = rows[0].len();
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(index, (cell, &width))| match index {
                0 => format!("{cell:<width$}"),
                _ if index + 1 == columns => cell.clone(),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    for sentence in verdict(summary) {
        out.push_str(&sentence);
        out.push('\n');
    }
    printable_lines(&out)
}

/// One line, for a job's comment.
pub fn short(summary: &Summary) -> String {
    let parts: Vec<String> =
        verdict(summary).iter().map(|sentence| sentence.trim_end_matches('.').to_owned()).collect();
    let state = if summary.is_over() { "" } else { RUNNING };
    printable(&format!("{state}{}", parts.join("; "))).replace('\n', " ")
}

/// Figures are those of the last collection.
fn age(summary: &Summary, now: i64) -> String {
    let updated = summary.records.iter().map(|record| record.updated).max().unwrap_or(now);
    match (now - updated) / 1_000_000 {
        ..1 => String::new(),
        seconds => format!(" until {} ago", duration(seconds as f64)),
    }
}

fn row(record: &Record) -> Vec<String> {
    let Record { device, account, .. } = record;
    let name = match device.instance.is_empty() {
        true => device.gpu.clone(),
        false => format!("{}.{} {}", device.gpu, device.instance, device.profile),
    };
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0));
    let mut cells = vec![
        name,
        duration(account.held_seconds),
        percent(account.busy.value()),
        account.memory_max.map_or("-".to_owned(), |used| format!("{:.1} GiB", used as f64 / 1024.0)),
        account.energy_millijoules.map_or("-".to_owned(), |used| energy(used / 1e3)),
    ];
    cells.extend(account.activities.iter().map(|mean| percent(mean.value())));
    debug_assert_eq!(account.activities.len(), ACTIVITIES.len());
    cells.push(notes(account).join(", "));
    cells
}

fn notes(account: &Account) -> Vec<String> {
    let mut notes = Vec::new();
    let xids: Vec<String> = account.xids.iter().map(|(code, count)| format!("{code} ({count})")).collect();
    if !xids.is_empty() {
        notes.push(format!("XID {}", xids.join(", ")));
    }
    if account.throttled_seconds >= 1.0 {
        notes.push(format!("throttled for {}", duration(account.throttled_seconds)));
    }
    if account.shared_seconds >= 1.0 {
        notes.push(format!("shared for {}, energy divided", duration(account.shared_seconds)));
    }
    notes
}

/// What stands out, a sentence each.
pub fn verdict(summary: &Summary) -> Vec<String> {
    let records = &summary.records;
    let accounts = || records.iter().map(|record| &record.account);
    let all = records.len();
    let what =
        if records.iter().any(|record| !record.device.instance.is_empty()) { "GPUs or instances" } else { "GPUs" };
    let what = if all == 1 { what.trim_end_matches('s') } else { what };
    let known = accounts().filter(|account| account.busy.seconds > 0.0);
    let unused = known.clone().filter(|account| account.busy.sum == 0.0).count();
    let hardly = known.clone().filter(|account| account.busy.sum > 0.0 && account.busy.value() < Some(HARDLY)).count();
    let mut sentences = Vec::new();
    match unused {
        0 => {}
        _ if unused == all && all == 1 => sentences.push("The GPU was never used.".to_owned()),
        _ => sentences.push(format!("{unused} of {all} {what} never used.")),
    }
    if hardly > 0 {
        sentences.push(format!("{hardly} of {all} {what} busy for less than {:.0} % of the time.", HARDLY * 100.0));
    }
    let (busy, seconds) =
        known.fold((0.0, 0.0), |(busy, seconds), account| (busy + account.busy.sum, seconds + account.busy.seconds));
    let held: f64 = accounts().map(|account| account.held_seconds).sum();
    let mean = if seconds > 0.0 { format!("{:.0} % busy", busy / seconds * 100.0) } else { "use not known".to_owned() };
    let mut total = format!("{all} {what}, {:.2} GPU hours, {mean}", held / 3600.0);
    let used: Vec<f64> = accounts().filter_map(|account| account.energy_millijoules).collect();
    if !used.is_empty() {
        total.push_str(&format!(", {}", energy(used.iter().sum::<f64>() / 1e3)));
    }
    sentences.push(total + ".");
    let with_xids = accounts().filter(|account| !account.xids.is_empty()).count();
    if with_xids > 0 {
        sentences.push(format!("XID errors on {with_xids} of {all} {what}."));
    }
    sentences
}

/// Joules below an hour of a watt, else watt hours.
fn energy(joules: f64) -> String {
    match joules {
        joules if joules < 3600.0 => format!("{joules:.0} J"),
        joules if joules < 3.6e6 => format!("{:.1} Wh", joules / 3600.0),
        joules => format!("{:.2} kWh", joules / 3.6e6),
    }
}

/// In whole seconds.
fn duration(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.clamp(0.0, 1e12).round() as u64)).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::summary;
    use super::*;
    use crate::metrics::accounts::Mean;

    #[test]
    fn a_line_per_gpu_and_a_verdict() {
        let mut summary = summary();
        summary.records[1].account.busy = Mean { sum: 0.0, seconds: 10.0 };
        let updated = summary.records[0].updated;
        let text = long(&summary, updated + 12_000_000);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Job 17 (user o\"neil) on node\u{e4}: still running, GPUs held for 1m 40s until 12s ago");
        assert_eq!(long(&summary, updated + 999_999).lines().next(), lines[0].strip_suffix(" until 12s ago"));
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>()[..6], ["0", "1m", "40s", "41", "%", "1.2"]);
        assert!(lines[2].ends_with("XID 31 (2), 79 (1), throttled for 4s"), "{text}");
        assert!(lines[3].starts_with("1.7 1g.18gb"), "{text}");
        assert_eq!(lines[4], "1 of 2 GPUs or instances never used.");
        assert_eq!(lines[5], "2 GPUs or instances, 0.03 GPU hours, 37 % busy, 1235 J.");
        assert_eq!(lines[6], "XID errors on 1 of 2 GPUs or instances.");
        assert_eq!(lines.len(), 7);
        assert_eq!(short(&summary).matches("; ").count(), 2);
        assert!(short(&summary).starts_with("still running: 1 of 2 GPUs or instances never used; "));
        summary.records[0].account.ended = Some(1);
        assert!(short(&summary).starts_with("1 of 2 GPUs or instances never used; "));
        assert!(long(&summary, i64::MAX).contains(": GPUs were held for 1m 40s\n"));
    }

    #[test]
    fn one_gpu_and_nothing_known() {
        let mut summary = summary();
        summary.records.remove(0);
        summary.records[0].device.instance.clear();
        assert_eq!(verdict(&summary), ["1 GPU, 0.00 GPU hours, use not known."]);
        summary.records[0].account.busy.seconds = 1.0;
        summary.about[0].1 = "\u{1b}[2J".to_owned();
        let text = long(&summary, 0);
        assert!(text.contains("The GPU was never used.") && !text.contains('\u{1b}'), "{text}");
    }
}
