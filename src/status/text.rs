//! The page as a table for a terminal. Names that are not ours cannot move its cursor or its text.

use std::fmt::{self, Write};
use std::time::Duration;

use super::Said;
use super::model::{Gpu, Jobs, Measure, Snapshot};
use crate::system::printable::acts_on_terminal;

fn plain(text: &str) -> String {
    text.chars().map(|character| if acts_on_terminal(character) { '?' } else { character }).collect()
}

pub fn beginning(age: Option<Duration>) -> String {
    match age {
        Some(age) => format!("data: {} s old\n", age.as_secs()),
        None => "data: none yet\n".to_owned(),
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
    writeln!(out, "state: {}", plain(&said.text))?;
    let Some(snapshot) = snapshot else { return Ok(()) };
    for (name, text) in &snapshot.facts {
        writeln!(out, "{}: {}", name.to_lowercase(), plain(text))?;
    }
    if !snapshot.problems.is_empty() {
        out.push_str("\nPROBLEMS\n");
        for problem in &snapshot.problems {
            writeln!(out, "! {}\n  {}", plain(&problem.what), plain(&problem.fix))?;
        }
    }
    out.push('\n');
    if snapshot.gpus.is_empty() {
        out.push_str("no GPU\n");
    } else {
        gpus(out, snapshot);
        for (what, row) in snapshot.wishes() {
            writeln!(out, "not in the counters file: {what} ({row})")?;
        }
    }
    for group in &snapshot.others {
        writeln!(out, "\n{}", group.title.to_uppercase())?;
        let rows: Vec<Vec<String>> = group.lines.iter().map(|(name, text)| vec![plain(name), plain(text)]).collect();
        table(out, &rows);
    }
    if !snapshot.skipped.is_empty() {
        out.push_str("\nSKIPPED COUNTERS\n");
        let rows: Vec<Vec<String>> =
            snapshot.skipped.iter().map(|(name, reason)| vec![plain(name), plain(reason)]).collect();
        table(out, &rows);
    }
    Ok(())
}

fn gpus(out: &mut String, snapshot: &Snapshot) {
    let head = ["GPU", "UTIL %", "MEMORY GiB", "POWER W", "TEMP C", "THROTTLING", "XID", "JOB"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(snapshot.gpus.iter().map(row));
    if !snapshot.has_jobs {
        rows.iter_mut().for_each(|row| drop(row.pop()));
    }
    table(out, &rows);
}

fn row(gpu: &Gpu) -> Vec<String> {
    let number = |measure: Measure, digits: usize| match measure.value() {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    let of = |measure: Measure, limit: Measure, digits: usize| match limit.value() {
        Some(limit) => format!("{} / {limit:.digits$}", number(measure, digits)),
        None => number(measure, digits),
    };
    let gib = |mib: f64| mib / 1024.0;
    let throttled = match gpu.throttled() {
        Some(reasons) if reasons.is_empty() => "none".to_owned(),
        Some(reasons) => reasons.join(", "),
        None => "-".to_owned(),
    };
    let xid = match gpu.xid_code() {
        Some(code) => format!("{code} {}", gpu.xid_text),
        None if gpu.xid.value().is_some() => "none".to_owned(),
        None => "-".to_owned(),
    };
    let jobs = match &gpu.jobs {
        Jobs::Unknown => "-".to_owned(),
        Jobs::Count(0) => "free".to_owned(),
        Jobs::Count(count) => format!("{count} in use"),
        Jobs::Named(jobs) if jobs.is_empty() => "free".to_owned(),
        Jobs::Named(jobs) => {
            let jobs = jobs.iter().map(|job| match job.user.is_empty() {
                true => job.id.clone(),
                false => format!("{} ({})", job.id, job.user),
            });
            jobs.collect::<Vec<_>>().join(", ")
        }
    };
    let name = if gpu.answers { gpu.name.clone() } else { format!("{} (no answer)", gpu.name) };
    let cells = [
        name,
        number(gpu.utilisation, 0),
        of(gpu.memory.map(gib), gpu.memory_total.map(gib), 1),
        of(gpu.power, gpu.power_limit, 0),
        of(gpu.temperature, gpu.slowdown, 0),
        throttled,
        xid,
        jobs,
    ];
    cells.map(|cell| plain(&cell)).to_vec()
}

/// Columns as wide as their widest cell, two blanks between them.
fn table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
