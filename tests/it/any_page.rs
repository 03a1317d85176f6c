//! Pages of every kind that the exposition can write, in the Prometheus text format.

use crate::common::Random;

/// Names with every ending that OpenMetrics has a meaning for, some of which clash with each other there.
const STEMS: [&str; 5] = ["x", "DCGM_FI_DEV_A", "dcgm_exporter_own_cpu_seconds", "a:b", "_"];
const ENDINGS: [&str; 14] = [
    "",
    "_total",
    "_created",
    "_total_total",
    "_created_total",
    "_TOTAL",
    "_info",
    "_bucket",
    "_count",
    "_sum",
    "_bytes",
    "_bytes_total",
    "_seconds_total",
    "_gcount",
];
/// As the exposition writes them, and what a counters file can make of a type.
const KINDS: [&str; 5] = ["gauge", "counter", "counter", "untyped", "histogram"];
const VALUES: [&str; 10] = [
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "0.000000",
    "-0.000000",
    "100000000000000000000.000000",
    "NaN",
    "+Inf",
    "-Inf",
];
/// Parts of help texts and of label values, escaped for both.
const TEXTS: [&str; 16] =
    ["", " ", "a", "ü 日本", "\\\\", "\\n", "\\\"", "# EOF", "# TYPE x gauge", "{", "}", ",", "=", "\t", "\\\\n", "\r"];

/// A page; another for each number.
pub fn page(seed: u64) -> String {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
    let mut names: Vec<String> = Vec::new();
    let mut page = String::new();
    for _ in 0..random.below(24) {
        let name = format!("{}{}", pick(&mut random, &STEMS), pick(&mut random, &ENDINGS));
        if names.contains(&name) {
            continue;
        }
        let kind = pick(&mut random, &KINDS);
        // Quotes stand as they are in help texts of this format.
        let help = text(&mut random).replace("\\\"", "\"");
        page.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        // A counter seldom has a value that makes it none.
        let values = if random.below(4) > 0 { &VALUES[..2] } else { &VALUES[..] };
        match random.below(4) {
            0 => {}
            1 => page.push_str(&format!("{name} {}\n", pick(&mut random, values))),
            _ => {
                for index in 0..=random.below(4) {
                    let (label, value) = (text(&mut random), pick(&mut random, values));
                    page.push_str(&format!("{name}{{gpu=\"{index}\",le=\"{label}\"}} {value}\n"));
                }
            }
        }
        names.push(name);
    }
    page
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[random.below(from.len() as u64) as usize]
}

fn text(random: &mut Random) -> String {
    (0..random.below(4)).map(|_| pick(random, &TEXTS)).collect()
}
