//! The ways in which a file may name a GPU or a GPU instance.
//!
//! DCGM's id, NVML's index, the device's minor number and Slurm's position in gres.conf are four numberings that are
//! often equal and may differ. A name here carries its numbering.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuName {
    /// DCGM's id: `0`.
    Index(u32),
    /// A GPU instance by DCGM's id of its GPU and NVML's of the instance: `0.7`.
    Instance(u32, u32),
    /// `GPU-...` of a GPU or `MIG-...` of an instance, in lower case.
    Uuid(String),
    Pci(PciAddress),
    /// N of `/dev/nvidiaN`: `minor0`.
    Minor(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl GpuName {
    /// Parses a name; `None` for any other text.
    pub fn parse(text: &str) -> Option<GpuName> {
        if let Some(number) = number(text) {
            return Some(GpuName::Index(number));
        }
        if let Some(minor) = text.strip_prefix("minor").and_then(number) {
            return Some(GpuName::Minor(minor));
        }
        let instance = text.split_once('.').and_then(|(gpu, instance)| Some((number(gpu)?, number(instance)?)));
        if let Some((gpu, instance)) = instance {
            return Some(GpuName::Instance(gpu, instance));
        }
        GpuName::uuid(text).or_else(|| PciAddress::parse(text).map(GpuName::Pci))
    }

    /// A UUID of a GPU or an instance; `None` for any other text.
    pub fn uuid(text: &str) -> Option<GpuName> {
        // Real ones have 40 bytes.
        const LONGEST: usize = 80;
        let rest = text.strip_prefix("GPU-").or_else(|| text.strip_prefix("MIG-"))?;
        let is_uuid = !rest.is_empty()
            && text.len() <= LONGEST
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_uuid.then(|| GpuName::Uuid(text.to_ascii_lowercase()))
    }
}

/// A number without leading zeroes or signs, so that no two texts are one number.
fn number(text: &str) -> Option<u32> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    if canonical { text.parse().ok() } else { None }
}

impl PciAddress {
    /// `[DOMAIN:]BUS:DEVICE.FUNCTION`, hexadecimal; the domain has four digits in Linux and eight in DCGM.
    pub fn parse(text: &str) -> Option<PciAddress> {
        let (rest, function) = text.rsplit_once('.')?;
        let (rest, device) = rest.rsplit_once(':')?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
            let is_hex = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_hex { u32::from_str_radix(text, 16).ok() } else { None }
        };
        Some(PciAddress {
            domain: hex(domain, 1..=8)?,
            bus: hex(bus, 2..=2)? as u8,
            device: hex(device, 2..=2)? as u8,
            function: hex(function, 1..=1)? as u8,
        })
    }
}

impl fmt::Display for GpuName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuName::Index(index) => write!(f, "{index}"),
            GpuName::Instance(gpu, instance) => write!(f, "{gpu}.{instance}"),
            GpuName::Uuid(uuid) => f.write_str(uuid),
            GpuName::Pci(pci) => {
                write!(f, "{:04x}:{:02x}:{:02x}.{:x}", pci.domain, pci.bus, pci.device, pci.function)
            }
            GpuName::Minor(minor) => write!(f, "minor{minor}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_numbering() {
        for (text, name) in [
            ("0", GpuName::Index(0)),
            ("12", GpuName::Index(12)),
            ("0.7", GpuName::Instance(0, 7)),
            ("minor3", GpuName::Minor(3)),
            ("GPU-Ab-1", GpuName::Uuid("gpu-ab-1".into())),
            ("MIG-ab-1", GpuName::Uuid("mig-ab-1".into())),
        ] {
            assert_eq!(GpuName::parse(text), Some(name), "{text}");
        }
        let long = "GPU-".to_owned() + &"a".repeat(77);
        for text in [
            &long,
            "",
            ".",
            "0.",
            ".9",
            "a",
            "0.a",
            "0.1.2",
            "-1",
            "+1",
            "00",
            "01",
            "minor",
            "minor01",
            "minorx",
            "GPU-",
            "GPU-a/b",
            "sedX1",
            "0~",
            "4294967296",
            "job.17",
            "1b:00",
            "1b:0.0",
            "00000000:1b:00.00",
            "123456789:1b:00.0",
            "g:1b:00.0",
        ] {
            assert_eq!(GpuName::parse(text), None, "{text}");
        }
    }

    #[test]
    fn one_bus_id_in_all_its_forms() {
        let one = GpuName::parse("00000000:1B:00.0").unwrap();
        for text in ["0000:1b:00.0", "1b:00.0", "0:1B:00.0"] {
            assert_eq!(GpuName::parse(text).as_ref(), Some(&one), "{text}");
        }
        assert_ne!(GpuName::parse("0001:1b:00.0").unwrap(), one);
        assert_eq!(GpuName::parse(&one.to_string()), Some(one));
    }
}
