//! XID errors: NVIDIA's codes for what went wrong with a GPU, from events of field 230.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::computed::{Attribution, ComputedSample, Tally};
use super::table::Number;
use crate::dcgm::EntityId;

/// Events remembered for the window; beyond this the oldest go first.
const MOST_EVENTS: usize = 500_000;

/// Codes that start at 0 for every GPU: those that speak of hardware, firmware or a link rather than of a program.
/// `increase()` sees the first event of these; of others, the second.
const FROM_ZERO: [i64; 32] = [
    13, 31, 43, 45, 48, 61, 62, 63, 64, 68, 69, 74, 79, 92, 94, 95, 109, 110, 119, 120, 121, 136, 140, 143, 144, 145,
    149, 154, 156, 158, 167, 171,
];

pub struct XidEvents {
    started: i64,
    window: Duration,
    recent: VecDeque<(EntityId, i64, i64)>,
    totals: Tally<i64>,
    last: HashMap<EntityId, i64>,
}

impl XidEvents {
    pub fn new(now: i64, window: Duration) -> XidEvents {
        XidEvents { started: now, window, recent: VecDeque::new(), totals: Tally::default(), last: HashMap::new() }
    }

    pub fn window(&self) -> Duration {
        self.window
    }

    pub fn forget(&mut self, entity: EntityId) {
        self.recent.retain(|(owner, ..)| *owner != entity);
        self.totals.forget(entity);
        self.last.remove(&entity);
    }

    pub fn put(&mut self, entity: EntityId, time: i64, code: i64, jobs: &[Arc<str>]) {
        self.recent.push_back((entity, time, code));
        if self.recent.len() > MOST_EVENTS {
            self.recent.pop_front();
        }
        // 0 is no error; what happened before the start is not ours to count.
        if code != 0 {
            self.last.insert(entity, time);
            if time >= self.started {
                self.totals.add(time, entity, code, jobs, 1.0);
            }
        }
    }

    /// Events in the window by code; a single 0 where there were none.
    pub fn put_counts(&mut self, index: usize, entity: EntityId, now: i64, list: &mut Vec<ComputedSample>) {
        let window = self.window.as_micros() as i64;
        self.recent.retain(|(_, time, _)| now - time <= window);
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for (_, _, code) in self.recent.iter().filter(|(owner, ..)| *owner == entity) {
            *counts.entry(code.to_string()).or_default() += 1;
        }
        let window = ("window_size_in_ms", self.window.as_millis().to_string());
        let sample = |labels, count| ComputedSample {
            entity: index,
            labels,
            job: Attribution::Current,
            number: Number::Int(count),
        };
        if counts.is_empty() {
            list.push(sample(vec![window.clone()], 0));
        }
        list.extend(counts.into_iter().map(|(code, count)| sample(vec![window.clone(), ("xid", code)], count)));
    }

    /// Events since the start of the exporter by code and job.
    pub fn put_totals(
        &mut self,
        index: usize,
        entity: EntityId,
        now: i64,
        jobs: &[Arc<str>],
        list: &mut Vec<ComputedSample>,
    ) {
        self.totals.tend(now, entity, &FROM_ZERO, jobs);
        list.extend(self.totals.of(entity).map(|(code, job, count)| ComputedSample {
            entity: index,
            labels: vec![("err_msg", text(code).to_owned()), ("xid", code.to_string())],
            job: Attribution::Then(job),
            number: Number::Int(count as i64),
        }));
    }

    /// When the last one was.
    pub fn put_last(&mut self, index: usize, entity: EntityId, list: &mut Vec<ComputedSample>) {
        if let Some(time) = self.last.get(&entity) {
            let number = Number::Double(*time as f64 / 1e6);
            list.push(ComputedSample { entity: index, labels: Vec::new(), job: Attribution::Current, number });
        }
    }
}

/// A code in a few words, after NVIDIA's public list of XID errors.
pub fn text(code: i64) -> &'static str {
    match code {
        0 => "No Error",
        1..=4 | 6 | 11 | 32 => "Invalid or corrupted push buffer stream",
        7 => "Invalid or corrupted push buffer address",
        25 => "Invalid or illegal push buffer stream",
        20 => "Invalid or corrupted push buffer: MPEG engine",
        21 => "Invalid or corrupted push buffer: motion estimation engine",
        22 => "Invalid or corrupted push buffer: video processor",
        5 | 10 | 14 | 15 | 17 | 23 | 39..=41 | 49..=53 | 55 => "Unused",
        87 | 90 | 91 | 108 => "Reserved",
        8 | 43 | 46 => "GPU stopped processing",
        9 => "Driver error programming the GPU",
        12 => "Driver error handling a GPU exception",
        13 => "Graphics engine exception",
        44 => "Graphics engine fault during context switch",
        69 => "Graphics engine class error",
        16 | 19 | 56 => "Display engine error",
        18 => "Bus mastering disabled in PCI configuration space",
        24 => "GPU semaphore timeout",
        30 => "GPU semaphore access error",
        26 => "Framebuffer timeout",
        27..=29 | 34..=36 | 42 | 47 | 60 | 65 => "Video processor exception",
        31 => "GPU memory page fault",
        33 | 59 => "Internal micro-controller error",
        61 => "Internal micro-controller breakpoint or warning",
        62 | 169 => "Internal micro-controller halt",
        37 | 38 => "Driver firmware error",
        45 => "Preemptive cleanup, due to previous errors",
        48 => "Double-bit ECC error",
        54 => "Auxiliary power is not connected to the board",
        57 => "Error programming the video memory interface",
        58 => "Unstable video memory interface",
        63 => "ECC page retirement or row remapping event",
        64 => "ECC page retirement or row remapping failure",
        66 | 67 => "Illegal access by the driver",
        68 => "NVDEC0 exception",
        83 => "NVDEC1 exception",
        84 => "NVDEC2 exception",
        88 => "NVDEC3 exception",
        89 => "NVDEC4 exception",
        96 => "NVDEC5 exception",
        97 => "NVDEC6 exception",
        98 => "NVDEC7 exception",
        70 => "Copy engine 3 exception",
        71 => "Copy engine 4 exception",
        72 => "Copy engine 5 exception",
        75 => "Copy engine 6 exception",
        76 => "Copy engine 7 exception",
        77 => "Copy engine 8 exception",
        85 => "Copy engine 9 exception",
        126 => "Robust channel: copy engine 10 error",
        127 => "Robust channel: copy engine 11 error",
        128 => "Robust channel: copy engine 12 error",
        129 => "Robust channel: copy engine 13 error",
        130 => "Robust channel: copy engine 14 error",
        131 => "Robust channel: copy engine 15 error",
        132 => "Robust channel: copy engine 16 error",
        133 => "Robust channel: copy engine 17 error",
        134 => "Robust channel: copy engine 18 error",
        135 => "Robust channel: copy engine 19 error",
        73 => "NVENC2 error",
        142 => "NVENC3 error",
        74 => "NVLink error",
        137 => "NVLink privilege error",
        78 => "vGPU start error",
        79 => "GPU has fallen off the bus",
        80 => "Corrupted data sent to the GPU",
        81 => "VGA subsystem error",
        82 => "NVJPG0 error",
        99 => "NVJPG1 error",
        100 => "NVJPG2 error",
        101 => "NVJPG3 error",
        102 => "NVJPG4 error",
        103 => "NVJPG5 error",
        104 => "NVJPG6 error",
        105 => "NVJPG7 error",
        86 => "OFA exception",
        139 => "OFA1 exception",
        92 => "High rate of single-bit ECC errors",
        94 => "Contained memory error",
        95 => "Uncontained memory error",
        140 => "Unrecovered ECC error",
        93 => "Non-fatal violation of the provisioned inforom wear limit",
        125 => "Inforom filesystem error",
        106 => "SMBPBI test message",
        107 => "SMBPBI test message, silent",
        109 => "Context switch timeout",
        110 => "Security fault",
        111 => "Display bundle error",
        112 => "Display supervisor error",
        113 => "DisplayPort link training error",
        114 => "Display pipeline underflow",
        115 => "Display core channel error",
        116 => "Display window channel error",
        117 => "Display cursor channel error",
        118 => "Display pixel pipeline error",
        119 => "GSP RPC timeout",
        120 => "GSP error",
        121 => "C2C link error",
        122 => "SPI PMU RPC read failure",
        123 => "SPI PMU RPC write failure",
        124 => "SPI PMU RPC erase failure",
        136 => "Link training failed",
        138 => "DLA exception",
        152 => "DLA SMMU error",
        153 => "DLA timeout",
        141 => "Robust channel: fast path error",
        151 => "Robust channel: key rotation error",
        159 => "Robust channel: CHI non-data error",
        143 => "GPU initialization failure",
        144 => "NVLink SAW error",
        145 => "NVLink RLW error",
        146 => "NVLink TLW error",
        147 => "NVLink TREX error",
        148 => "NVLink NVLPW_CTRL error",
        149 => "NVLink NETIR error",
        150 => "NVLink MSE error",
        154 => "GPU recovery action changed",
        155 => "NVLink error defined by software",
        156 => "Resource retirement event",
        157 => "Resource retirement failure",
        158 => "GPU fatal timeout",
        167 => "PCIe fatal timeout",
        160 => "Channel retirement event",
        161 => "Channel retirement failure",
        162 => "Power smoothing re-engaged",
        163 => "Power smoothing disengaged",
        164 => "Power smoothing hardware has little lifetime left",
        165 => "Power smoothing hardware has no lifetime left",
        166 => "Secure crypto error",
        168 => "Reduced memory capacity",
        170 => "Confidential computing interrupt",
        171 => "Uncorrectable DRAM error",
        172 => "Uncorrectable SRAM error",
        _ => "Unknown Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcgm::EntityGroup;

    const GPU: EntityId = EntityId::new(EntityGroup::Gpu, 0);

    #[test]
    fn every_code_has_a_text() {
        for code in 0..=172 {
            assert_ne!(text(code), "Unknown Error", "{code}");
        }
        assert_eq!((text(173), text(-1), text(0)), ("Unknown Error", "Unknown Error", "No Error"));
    }

    #[test]
    fn totals_start_at_zero_and_go_to_the_job_of_the_time() {
        let job = |name: &str| [Arc::from(name)];
        let mut events = XidEvents::new(100, Duration::from_secs(300));
        events.put(GPU, 50, 79, &[]);
        let mut list = Vec::new();
        events.put_totals(0, GPU, 100, &job("17"), &mut list);
        assert!(list.iter().all(|sample| sample.number == Number::Int(0)), "before the start is not counted");
        assert_eq!(list.len(), FROM_ZERO.len());
        events.put(GPU, 150, 79, &job("17"));
        events.put(GPU, 160, 79, &job("17"));
        events.put(GPU, 170, 5, &job("18"));
        list.clear();
        events.put_totals(0, GPU, 200, &[], &mut list);
        let counted: Vec<_> = list.iter().filter(|sample| sample.number != Number::Int(0)).collect();
        let is = |index: usize, xid: &str, job: &str, count| {
            let sample: &ComputedSample = counted[index];
            assert_eq!(sample.labels[1].1, xid);
            assert_eq!(sample.job, Attribution::Then(Some(job.into())));
            assert_eq!(sample.number, Number::Int(count));
        };
        assert_eq!(counted.len(), 2);
        is(0, "5", "18", 1);
        is(1, "79", "17", 2);
        let mut last = Vec::new();
        events.put_last(0, GPU, &mut last);
        assert_eq!(last[0].number, Number::Double(0.00017));
    }
}
