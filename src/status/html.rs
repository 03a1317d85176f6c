//! The page as one HTML document that needs nothing from elsewhere: style and script are in it, and the
//! Content-Security-Policy names their hashes. All other texts are escaped: names of jobs, users and nodes are not ours.

use std::fmt::{self, Display, Write};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::history::{Curve, POINTS};
use super::model::{Gpu, Jobs, Measure, Snapshot};
use super::{Said, model};
use crate::system::printable::acts_on_terminal;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Nothing but this document, its own style and its own script; the script fetches this page again.
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        format!("'sha256-{}'", BASE64_STANDARD.encode(digest.as_ref()))
    };
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; form-action \
         'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// Text for an element or a quoted attribute.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other if acts_on_terminal(other) => f.write_char('\u{fffd}')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

pub fn beginning(age: Option<Duration>) -> String {
    let age = age.map_or_else(String::new, |age| format!("{:.1}", age.as_secs_f64()));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"age\" content=\"{age}\">\n"
    )
}

/// All that follows [`beginning`].
pub fn render(snapshot: Option<&Snapshot>, said: &Said) -> String {
    let mut out = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = write(&mut out, snapshot, said);
    out
}

fn write(out: &mut String, snapshot: Option<&Snapshot>, said: &Said) -> fmt::Result {
    let nothing = Snapshot::default();
    let is_here = snapshot.is_some();
    let snapshot = snapshot.unwrap_or(&nothing);
    let node = if snapshot.node.is_empty() { "this node" } else { &snapshot.node };
    let refresh = snapshot.interval.as_secs().clamp(2, 60);
    let reload = snapshot.interval.as_secs().max(10);
    write!(
        out,
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" \
         content=\"light dark\">\n<meta name=\"refresh-seconds\" content=\"{refresh}\">\n<noscript><meta \
         http-equiv=\"refresh\" content=\"{reload}\"></noscript>\n<title>{} \u{b7} GPU Exporter</title>\n<link rel=\"icon\" \
         href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{}</h1>\n",
        Escaped(node),
        Escaped(node)
    )?;
    let class = if said.is_well { "well" } else { "bad" };
    writeln!(out, "<p id=\"state\"><strong class=\"{class}\">{}</strong></p>", Escaped(&said.text))?;
    match snapshot.time {
        Some(time) => writeln!(
            out,
            "<p id=\"data\">Data of {} <span id=\"age\"></span>, collected every {}</p>",
            Time(time),
            humantime::format_duration(snapshot.interval)
        )?,
        None => writeln!(out, "<p id=\"data\">No samples yet <span id=\"age\"></span></p>")?,
    }
    out.push_str(
        "<nav aria-label=\"Other forms\"><a href=\"./metrics\">Metrics</a> <a href=\"./health\">Health</a> <a \
         href=\"./?text\">Text</a> <a href=\"./status.json\">JSON</a></nav>\n</header>\n<main id=\"main\">\n",
    );
    problems(out, snapshot)?;
    gpus(out, snapshot, is_here)?;
    for group in &snapshot.others {
        lines(out, group.title, group.lines.iter().map(|(name, text)| (name.as_str(), text.as_str())))?;
    }
    if !snapshot.facts.is_empty() {
        lines(out, "Exporter", snapshot.facts.iter().map(|(name, text)| (*name, text.as_str())))?;
    }
    skipped(out, snapshot)?;
    write!(
        out,
        "</main>\n<footer><p>dcgm-exporter {}</p></footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn problems(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    if snapshot.problems.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section id=\"problems\" aria-labelledby=\"h-problems\">\n<h2 id=\"h-problems\">Problems</h2>\n<ul>"
    )?;
    for model::Problem { what, fix } in &snapshot.problems {
        writeln!(out, "<li><strong>{}</strong><br><span class=\"fix\">{}</span></li>", Escaped(what), Escaped(fix))?;
    }
    out.push_str("</ul>\n</section>\n");
    Ok(())
}

const COLUMNS: [&str; 8] = ["GPU", "Utilisation", "Memory", "Power", "Temperature", "Throttling", "XID", "Job"];

fn gpus(out: &mut String, snapshot: &Snapshot, is_here: bool) -> fmt::Result {
    out.push_str("<section id=\"gpus\" aria-labelledby=\"h-gpus\">\n<h2 id=\"h-gpus\">GPUs</h2>\n");
    if snapshot.gpus.is_empty() {
        let why = if is_here { "DCGM reports no GPU." } else { "Nothing has been collected yet." };
        return writeln!(out, "<p>{why}</p>\n</section>");
    }
    let columns = &COLUMNS[..if snapshot.has_jobs { 8 } else { 7 }];
    // Roles, because as a list of cards on a narrow screen it would be no table to a screen reader.
    out.push_str(
        "<table role=\"table\">\n<caption>GPUs and GPU instances; the graphs show the last 15 minutes</caption>\n<thead \
         role=\"rowgroup\"><tr role=\"row\">",
    );
    for column in columns {
        write!(out, "<th role=\"columnheader\" scope=\"col\">{column}</th>")?;
    }
    out.push_str("</tr></thead>\n<tbody role=\"rowgroup\">\n");
    for gpu in &snapshot.gpus {
        row(out, gpu, snapshot.has_jobs)?;
    }
    out.push_str("</tbody>\n</table>\n");
    let mut wishes = snapshot.wishes().peekable();
    if wishes.peek().is_some() {
        out.push_str("<p class=\"hint\">Not in the counters file, so not shown: ");
        for (index, (what, row)) in wishes.enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{what} (<code>{row}</code>)")?;
        }
        writeln!(out, ". Add these rows to <code>{}</code>.</p>", Escaped(&snapshot.counters_file))?;
    }
    out.push_str("</section>\n");
    Ok(())
}

fn row(out: &mut String, gpu: &Gpu, has_jobs: bool) -> fmt::Result {
    let class = if gpu.answers { "" } else { " class=\"lost\"" };
    let detail = [&gpu.model, &gpu.profile, &gpu.pci_bus_id].map(String::as_str);
    let detail: Vec<&str> = detail.into_iter().filter(|text| !text.is_empty()).collect();
    write!(
        out,
        "<tr role=\"row\"{class}><th role=\"rowheader\" scope=\"row\" title=\"{}\">{}<small>{}</small></th>",
        Escaped(&gpu.uuid),
        Escaped(&gpu.name),
        Escaped(&detail.join(" "))
    )?;
    let cell = |out: &mut String, name: &str, class: &str| {
        write!(
            out,
            "<td role=\"cell\" data-label=\"{name}\"{}{class}{}>",
            if class.is_empty() { "" } else { " class=\"" },
            if class.is_empty() { "" } else { "\"" }
        )
    };
    cell(out, COLUMNS[1], "number")?;
    number(out, gpu.utilisation, 0)?;
    unit(out, gpu.utilisation, "%")?;
    graph(out, gpu, Curve::Utilisation, Some(100.0))?;
    out.push_str("</td>");

    cell(out, COLUMNS[2], "number")?;
    let gib = |mib: f64| mib / 1024.0;
    number(out, gpu.memory.map(gib), 1)?;
    limit(out, gpu.memory, gpu.memory_total.map(gib), 1)?;
    unit(out, gpu.memory, "GiB")?;
    graph(out, gpu, Curve::Memory, gpu.memory_total.value())?;
    out.push_str("</td>");

    cell(out, COLUMNS[3], "number")?;
    number(out, gpu.power, 0)?;
    limit(out, gpu.power, gpu.power_limit, 0)?;
    unit(out, gpu.power, "W")?;
    graph(out, gpu, Curve::Power, gpu.power_limit.value())?;
    out.push_str("</td>");

    cell(out, COLUMNS[4], if gpu.is_hot() { "number bad" } else { "number" })?;
    number(out, gpu.temperature, 0)?;
    limit(out, gpu.temperature, gpu.slowdown, 0)?;
    unit(out, gpu.temperature, "\u{b0}C")?;
    graph(out, gpu, Curve::Temperature, gpu.slowdown.value().or(Some(100.0)))?;
    if let Some(memory) = gpu.memory_temperature.value() {
        write!(out, "<small>memory {memory:.0} \u{b0}C</small>")?;
    }
    out.push_str("</td>");

    cell(out, COLUMNS[5], if gpu.is_throttled_by_fault() { "bad" } else { "" })?;
    match gpu.throttled() {
        Some(reasons) if reasons.is_empty() => out.push_str("none"),
        Some(reasons) => out.push_str(&reasons.join(", ")),
        None => number(out, gpu.clock_events, 0)?,
    }
    out.push_str("</td>");

    cell(out, COLUMNS[6], if gpu.xid_code().is_some() { "bad" } else { "" })?;
    match gpu.xid_code() {
        Some(code) => write!(out, "<b>{code}</b> {}", Escaped(gpu.xid_text))?,
        None if gpu.xid.value().is_some() => out.push_str("none"),
        None => number(out, gpu.xid, 0)?,
    }
    if let Some(count) = gpu.xid_events.filter(|count| *count > 0) {
        write!(out, "<small>{count} since the start</small>")?;
    }
    out.push_str("</td>");

    if has_jobs {
        cell(out, COLUMNS[7], "")?;
        jobs(out, &gpu.jobs)?;
        out.push_str("</td>");
    }
    out.push_str("</tr>\n");
    Ok(())
}

fn jobs(out: &mut String, jobs: &Jobs) -> fmt::Result {
    match jobs {
        Jobs::Unknown => out.push_str(ABSENT),
        Jobs::Count(0) => out.push_str("free"),
        Jobs::Count(count) => write!(out, "{count} job{}", if *count == 1 { "" } else { "s" })?,
        Jobs::Named(jobs) if jobs.is_empty() => out.push_str("free"),
        Jobs::Named(jobs) => {
            for (index, job) in jobs.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                write!(out, "{comma}<b>{}</b>", Escaped(&job.id))?;
                if !job.user.is_empty() {
                    write!(out, " {}", Escaped(&job.user))?;
                }
            }
        }
    }
    Ok(())
}

const ABSENT: &str = "<span class=\"absent\" aria-label=\"no sample\" role=\"img\" title=\"no sample\">\u{2013}</span>";
const NOT_ASKED: &str = "<span class=\"absent\" aria-label=\"not in the counters file\" role=\"img\" title=\"not in the \
                         counters file\">\u{2013}</span>";

fn number(out: &mut String, measure: Measure, digits: usize) -> fmt::Result {
    match measure {
        Measure::Value(value) => write!(out, "<b>{value:.digits$}</b>"),
        Measure::NoSample => out.write_str(ABSENT),
        Measure::NotAsked => out.write_str(NOT_ASKED),
    }
}

/// The limit of a number that there is.
fn limit(out: &mut String, measure: Measure, limit: Measure, digits: usize) -> fmt::Result {
    if measure.value().is_none() {
        return Ok(());
    }
    out.push_str("<span class=\"of\"> / ");
    match limit.value() {
        Some(limit) => write!(out, "{limit:.digits$}")?,
        None => number(out, limit, digits)?,
    }
    out.push_str("</span>");
    Ok(())
}

fn unit(out: &mut String, measure: Measure, unit: &str) -> fmt::Result {
    match measure.value() {
        Some(_) => write!(out, "<span class=\"of\"> {unit}</span>"),
        None => Ok(()),
    }
}

/// A small graph from 0 to `top`, or to the greatest value where that is not known.
fn graph(out: &mut String, gpu: &Gpu, curve: Curve, top: Option<f64>) -> fmt::Result {
    const HEIGHT: f32 = 16.0;
    let points = gpu.history.points(curve);
    if points.is_empty() {
        return Ok(());
    }
    let greatest = points.iter().fold(0.0, |greatest: f32, (_, value)| greatest.max(*value));
    let top = top.map_or(0.0, |top| top as f32).max(greatest).max(1e-3);
    write!(
        out,
        "<svg viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\" focusable=\"false\"><polyline \
         points=\"",
        POINTS - 1
    )?;
    let y = |value: f32| HEIGHT - 1.0 - (value.max(0.0) / top) * (HEIGHT - 2.0);
    // One point alone would not be seen.
    if let [(place, value)] = points[..] {
        write!(out, "{},{:.1} ", place.saturating_sub(1), y(value))?;
    }
    for (place, value) in points {
        write!(out, "{place},{:.1} ", y(value))?;
    }
    out.truncate(out.trim_end().len());
    out.push_str("\"/></svg>");
    Ok(())
}

fn lines<'a>(out: &mut String, title: &str, lines: impl Iterator<Item = (&'a str, &'a str)>) -> fmt::Result {
    let id: String = title.chars().filter(char::is_ascii_alphanumeric).collect();
    writeln!(out, "<section aria-labelledby=\"h-{id}\">\n<h2 id=\"h-{id}\">{}</h2>\n<dl>", Escaped(title))?;
    for (name, text) in lines {
        writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(text))?;
    }
    out.push_str("</dl>\n</section>\n");
    Ok(())
}

fn skipped(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    if snapshot.skipped.is_empty() {
        return Ok(());
    }
    let count = snapshot.skipped.len();
    writeln!(
        out,
        "<section aria-labelledby=\"h-skipped\">\n<h2 id=\"h-skipped\">Skipped counters</h2>\n<details id=\"skipped\"><summary>{count} row{} of \
         <code>{}</code> without samples here</summary>\n<dl>",
        if count == 1 { "" } else { "s" },
        Escaped(&snapshot.counters_file)
    )?;
    for (name, reason) in &snapshot.skipped {
        writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(reason))?;
    }
    out.push_str("</dl></details>\n</section>\n");
    Ok(())
}

struct Time(SystemTime);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_rfc3339_seconds(self.0).to_string();
        write!(f, "<time datetime=\"{text}\">{}</time>", text.replace('T', " ").replace('Z', " UTC"))
    }
}
