//! The page in the OpenMetrics format, version 1.0.0, made from its text in the Prometheus format.
//!
//! Names and samples stay as they are; only the lines about a metric change. OpenMetrics lets a counter's samples end in
//! `_total` alone, in lower case, and names the metric without it, so:
//!
//! | on the page | in OpenMetrics |
//! | --- | --- |
//! | gauge | gauge |
//! | counter `x_total` | counter `x`, unless another metric is called `x` or `x_created` |
//! | any other | unknown |
//!
//! A counter below zero, or that is not a number, would be illegal; such a metric is unknown, too.

use std::collections::HashSet;

/// Units that a name may end in, as OpenMetrics and Prometheus write them.
const UNITS: [&str; 9] = ["seconds", "bytes", "celsius", "joules", "watts", "volts", "amperes", "hertz", "ratio"];

/// A metric on the page: slices of its text.
#[derive(Default)]
struct Metric<'a> {
    name: &'a [u8],
    kind: &'a [u8],
    /// With the escapes of the Prometheus format.
    help: &'a [u8],
    samples: &'a [u8],
}

/// Appends a page, which has to be as [`super`] writes it: each metric in one piece, HELP and TYPE first.
pub fn convert(page: &[u8], out: &mut Vec<u8>) {
    let metrics = metrics(page);
    out.reserve(page.len() + page.len() / 8 + 64);
    let mut taken: HashSet<Vec<u8>> = metrics.iter().map(|metric| metric.name.to_vec()).collect();
    for metric in &metrics {
        let (name, kind) = match counter_name(metric, &mut taken) {
            Some(name) => (name, "counter"),
            None if metric.kind == b"gauge" => (metric.name, "gauge"),
            None => (metric.name, "unknown"),
        };
        let mut put = |keyword: &str, value: &[u8]| {
            for part in [b"# ", keyword.as_bytes(), b" ", name, b" ", value, b"\n"] {
                out.extend_from_slice(part);
            }
        };
        put("TYPE", kind.as_bytes());
        if let Some(unit) = UNITS.into_iter().find(|unit| has_unit(name, unit)) {
            put("UNIT", unit.as_bytes());
        }
        if !metric.help.is_empty() {
            put("HELP", &quotes_escaped(metric.help));
        }
        out.extend_from_slice(metric.samples);
    }
    out.extend_from_slice(b"# EOF\n");
}

/// Takes a page apart.
fn metrics(page: &[u8]) -> Vec<Metric<'_>> {
    let mut metrics: Vec<Metric<'_>> = Vec::new();
    // Where the samples of the last metric begin.
    let mut first = 0;
    let mut at = 0;
    while at < page.len() {
        let end = page[at..].iter().position(|byte| *byte == b'\n').map_or(page.len(), |length| at + length);
        let line = &page[at..end];
        at = (end + 1).min(page.len());
        let about = about(line);
        if let Some((_, name, _)) = about
            && metrics.last().is_none_or(|metric| metric.name != name)
        {
            metrics.push(Metric { name, ..Metric::default() });
        }
        let Some(metric) = metrics.last_mut() else { continue };
        match about {
            Some((is_help, _, text)) => {
                *(if is_help { &mut metric.help } else { &mut metric.kind }) = text;
                first = at;
            }
            None => metric.samples = &page[first..at],
        }
    }
    metrics
}

/// Whether a line is HELP, or else TYPE, with its name and text; `None` for a sample.
fn about(line: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let rest = line.strip_prefix(b"# ")?;
    let (is_help, rest) = match rest.strip_prefix(b"HELP ") {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix(b"TYPE ")?),
    };
    let name = rest.split(|byte| *byte == b' ').next()?;
    Some((is_help, name, rest.get(name.len() + 1..).unwrap_or_default()))
}

/// The name in OpenMetrics of a metric that may be a counter there.
fn counter_name<'a>(metric: &Metric<'a>, taken: &mut HashSet<Vec<u8>>) -> Option<&'a [u8]> {
    let name = metric.name.strip_suffix(b"_total").filter(|name| !name.is_empty() && metric.kind == b"counter")?;
    let created = [name, b"_created"].concat();
    let is_free = !taken.contains(name) && !taken.contains(&created);
    if !is_free || metric.samples.split(|byte| *byte == b'\n').any(is_below_zero) {
        return None;
    }
    taken.extend([name.to_vec(), created]);
    Some(name)
}

/// Whether a sample's value has a minus sign or is not a number.
fn is_below_zero(line: &[u8]) -> bool {
    let value = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    matches!(value.first(), Some(b'-' | b'N'))
}

fn has_unit(name: &[u8], unit: &str) -> bool {
    name.strip_suffix(unit.as_bytes()).is_some_and(|rest| rest.len() > 1 && rest.ends_with(b"_"))
}

/// OpenMetrics escapes quotes in help texts, too.
fn quotes_escaped(help: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(help.len() + 8);
    for byte in help {
        if *byte == b'"' {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(page: &str) -> String {
        let mut out = Vec::new();
        convert(page.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn types_names_units_and_escapes() {
        let page = "# HELP a say \"hi\" \\\\ \\n\n# TYPE a gauge\na{b=\"# HELP x \\\"y\\\"\"} 1\na{b=\"2\"} NaN\n\
                    # HELP LEGACY_TOTAL c\n# TYPE LEGACY_TOTAL counter\nLEGACY_TOTAL 5\n\
                    # HELP s_seconds_total t\n# TYPE s_seconds_total counter\ns_seconds_total{x=\"-1\"} 0.500000\n\
                    # HELP u \n# TYPE u untyped\nu 1\n# HELP h x\n# TYPE h histogram\nh 1\n";
        let expected = "# TYPE a gauge\n# HELP a say \\\"hi\\\" \\\\ \\n\na{b=\"# HELP x \\\"y\\\"\"} 1\na{b=\"2\"} NaN\n\
                        # TYPE LEGACY_TOTAL unknown\n# HELP LEGACY_TOTAL c\nLEGACY_TOTAL 5\n\
                        # TYPE s_seconds counter\n# UNIT s_seconds seconds\n# HELP s_seconds t\n\
                        s_seconds_total{x=\"-1\"} 0.500000\n\
                        # TYPE u unknown\nu 1\n# TYPE h unknown\n# HELP h x\nh 1\n# EOF\n";
        assert_eq!(converted(page), expected);
    }

    #[test]
    fn counters_that_would_clash_or_are_below_zero() {
        for (page, types) in [
            ("# TYPE x_total counter\nx_total 1\n# TYPE x gauge\nx 1\n", "x_total unknown, x gauge"),
            ("# TYPE x_total counter\nx_total 1\n# TYPE x_created gauge\n", "x_total unknown, x_created gauge"),
            (
                "# TYPE x_total counter\nx_total 1\n# TYPE x_created_total counter\n",
                "x counter, x_created_total unknown",
            ),
            ("# TYPE x_total_total counter\n# TYPE x_total counter\n", "x_total_total unknown, x counter"),
            ("# TYPE _total counter\n_total 1\n", "_total unknown"),
            ("# TYPE x_total counter\nx_total 1\nx_total{a=\"b\"} -1\n", "x_total unknown"),
            ("# TYPE x_total counter\nx_total NaN\n", "x_total unknown"),
            ("# TYPE x_total counter\nx_total +Inf\n", "x counter"),
            ("# TYPE x_total gauge\nx_total 1\n", "x_total gauge"),
        ] {
            let text = converted(page);
            let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
            assert_eq!(found.join(", "), types, "{page}");
        }
    }

    #[test]
    fn a_page_without_a_metric() {
        assert_eq!(converted(""), "# EOF\n");
        assert_eq!(converted("# HELP x y\n# TYPE x gauge\n"), "# TYPE x gauge\n# HELP x y\n# EOF\n");
    }
}
