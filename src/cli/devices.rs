//! The grammar of `-d`, `-s` and `-p`: which devices to report.
//!
//! ```text
//! option := "f" | part [ "+" part ]
//! part   := ("g" | "i") [ ":" item ("," item)* ]
//! item   := number | number "-" number | number "." number
//! ```
//! `g` are whole devices (GPUs, switches, CPUs), `i` what they divide into (GPU instances, links, cores), `f` whatever
//! fits. A number in `i` is DCGM's id of a GPU instance, which counts through the node, as for dcgm-exporter; `0.7` is
//! instance 7 of GPU 0, as nvidia-smi and the page have it. dcgm-exporter has no `+`; a number may carry a plus sign there, so only a `+` before a letter divides parts.

use std::collections::HashSet;

use crate::config::devices::{DeviceSelection, Selection};

/// DCGM's ids are far below this; a larger number (`g:0-4000000000`) is a typing error.
const LARGEST_NUMBER: u32 = u16::MAX as u32;

/// Parses a selection of devices.
///
/// Errors: what would be right, for the end of a message that already names the flag and the value.
pub fn parse(text: &str) -> Result<DeviceSelection, String> {
    if text == "f" {
        return Ok(DeviceSelection::Flex);
    }
    if text.starts_with("f:") {
        return Err("f takes no list; use g:LIST for whole devices or i:LIST for instances".to_owned());
    }
    let (mut major, mut minor) = (Selection::None, Selection::None);
    let mut instances = Vec::new();
    for part in parts(text) {
        let (letter, list) = match part.split_once(':') {
            Some((letter, list)) => (letter, Some(list)),
            None => (part, None),
        };
        let chosen = match letter {
            "g" => &mut major,
            "i" => &mut minor,
            _ => {
                return Err(format!("'{letter}' is not f, g or i, as in f, g:0,1 or g:0-3+i:5"));
            }
        };
        if *chosen != Selection::None {
            return Err(format!("{letter} is given twice; write one list, as in {letter}:0,1"));
        }
        *chosen = match list {
            None => Selection::All,
            Some(list) if letter == "i" => {
                let (numbers, named) = parts_of_gpus(list)?;
                instances = named;
                Selection::These(numbers)
            }
            Some(list) => Selection::These(numbers(list)?),
        };
    }
    Ok(DeviceSelection::Listed { major, minor, instances })
}

/// The same for what is no GPU.
///
/// Errors: as [`parse`].
pub fn parse_other(text: &str) -> Result<DeviceSelection, String> {
    match parse(text)? {
        DeviceSelection::Listed { instances, .. } if !instances.is_empty() => {
            let (gpu, id) = instances[0];
            Err(format!("{gpu}.{id} is a MIG instance, which only --devices takes; lists are written 0,2-4"))
        }
        selection => Ok(selection),
    }
}

/// A GPU, and NVML's id of an instance in it.
type Instance = (u32, u32);

/// Numbers, and instances as `GPU.ID`.
fn parts_of_gpus(list: &str) -> Result<(Vec<u32>, Vec<Instance>), String> {
    let (named, plain): (Vec<&str>, Vec<&str>) = list.split(',').partition(|item| item.contains('.'));
    let instance = |item: &&str| {
        let (gpu, id) = item.split_once('.').unwrap_or((item, ""));
        match (number(gpu), number(id)) {
            (Ok(gpu), Ok(id)) => Ok((gpu, id)),
            _ => Err(format!("'{item}' is not GPU.ID, as in 0.7 for instance 7 of GPU 0; each is written by itself")),
        }
    };
    let mut instances: Vec<Instance> = Vec::new();
    for instance in named.iter().map(instance) {
        let instance = instance?;
        if !instances.contains(&instance) {
            instances.push(instance);
        }
    }
    let numbers = if plain.is_empty() { Vec::new() } else { numbers(&plain.join(","))? };
    Ok((numbers, instances))
}

fn parts(text: &str) -> Vec<&str> {
    let divides = |at: usize| text[at + 1..].starts_with(|next: char| next.is_ascii_alphabetic());
    match text.match_indices('+').map(|(at, _)| at).find(|&at| divides(at)) {
        Some(at) => vec![&text[..at], &text[at + 1..]],
        None => vec![text],
    }
}

fn numbers(list: &str) -> Result<Vec<u32>, String> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    if list.contains(':') {
        return Err("more than one colon; g and i are combined with a plus, as in g:0,1+i:3".to_owned());
    }
    for item in list.split(',') {
        let bounds: Vec<&str> = item.split('-').collect();
        let (first, last) = match bounds[..] {
            [one] => (number(one)?, number(one)?),
            [first, last] => (number(first)?, number(last)?),
            _ => return Err(format!("'{item}' has more than one dash; a range is written 0-3")),
        };
        for id in first..=last {
            if seen.insert(id) {
                all.push(id);
            }
        }
    }
    Ok(all)
}

fn number(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("'{text}' is not a number; lists are written 0,2-4"));
    }
    digits
        .parse()
        .ok()
        .filter(|number| *number <= LARGEST_NUMBER)
        .ok_or_else(|| format!("{text} is too large; the largest id is {LARGEST_NUMBER}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of the peer's table: what its parser made of an argument. `[-1]` means all, null none.
    fn expected(list: &serde_json::Value) -> Selection {
        match list.as_array() {
            None => Selection::None,
            Some(ids) if ids == &[serde_json::json!(-1)] => Selection::All,
            Some(ids) => {
                let mut unique: Vec<u32> = Vec::new();
                for id in ids.iter().map(|id| id.as_u64().unwrap() as u32) {
                    if !unique.contains(&id) {
                        unique.push(id);
                    }
                }
                Selection::These(unique)
            }
        }
    }

    #[test]
    fn the_peers_table() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/device-options.json")).unwrap();
        let cases = table["cases"].as_array().unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let input = case["input"].as_str().unwrap();
            let parsed = parse(input);
            // The one form that is ours alone.
            let combined = input == "g:0,1+i:0";
            match case["result"].as_str().unwrap() {
                "ok" if case["flex"] == true => assert_eq!(parsed, Ok(DeviceSelection::Flex), "{input}"),
                "ok" => {
                    let Ok(DeviceSelection::Listed { major, minor, .. }) = parsed else {
                        panic!("{input}: {parsed:?}")
                    };
                    // An empty list and no list select the same: nothing.
                    let same = |ours: Selection, theirs: &serde_json::Value| {
                        assert_eq!(
                            ours.of(&[0, 1, 2, 3, 4, 5, 6, 7, 8]),
                            expected(theirs).of(&[0, 1, 2, 3, 4, 5, 6, 7, 8]),
                            "{input}"
                        );
                    };
                    same(major, &case["major"]);
                    same(minor, &case["minor"]);
                }
                _ => assert_eq!(parsed.is_err(), !combined, "{input}: {parsed:?}"),
            }
        }
    }

    #[test]
    fn g_and_i_combine() {
        let these = |ids: &[u32]| Selection::These(ids.to_vec());
        for (text, major, minor) in [
            ("g:0,1+i:3", these(&[0, 1]), these(&[3])),
            ("i:3-4+g", Selection::All, these(&[3, 4])),
            ("g+i", Selection::All, Selection::All),
            ("g:+1+i:+2", these(&[1]), these(&[2])),
        ] {
            assert_eq!(parse(text), Ok(DeviceSelection::Listed { major, minor, instances: Vec::new() }), "{text}");
        }
        let minor = these(&[3]);
        let instances = vec![(0, 7), (1, 7)];
        assert_eq!(parse("i:0.7,3,1.7,0.7"), Ok(DeviceSelection::Listed { major: Selection::None, minor, instances }));
        assert!(parse_other("i:0-3").is_ok());
        assert!(parse_other("i:0.7").unwrap_err().contains("only --devices"));
        for text in ["i:0.7-0.9", "i:.7", "i:0.", "i:0.7.1", "i:a.7", "g:0.7"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["g+g", "f+g", "g+f", "g+", "+g", "g:0+x", "g+i+g", "g:0-70000", "g:0+1+i"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn selection_keeps_the_written_order() {
        let these = Selection::These(vec![5, 1, 9]);
        assert_eq!(these.of(&[1, 2, 5]), [5, 1]);
        assert_eq!(these.missing(&[1, 2, 5]), [9]);
    }
}
