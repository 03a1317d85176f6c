//! Every path in every form and method, in every phase and with every kind of inventory: the process lives, and answers.

use serde_json::{Value, json};

use crate::common::*;

const PATHS: [&str; 9] =
    ["/metrics", "/", "/?text", "/status.json", "/health", "/-/ready", "/-/healthy", "/nowhere", "*"];
const FORMS: [&str; 6] = [
    "",
    "Accept-Encoding: gzip\r\n",
    "Accept: application/openmetrics-text\r\n",
    "Accept: application/openmetrics-text\r\nAccept-Encoding: gzip\r\n",
    "Accept: text/plain\r\n",
    "Accept: application/json\r\n",
];
const METHODS: [&str; 4] = ["GET", "HEAD", "OPTIONS", "POST"];

/// What a test does with an exporter that listens, before it asks.
type Act = fn(&mut Exporter);

struct Case {
    name: String,
    plan: Value,
    arguments: Vec<String>,
    counters: &'static str,
    act: Act,
}

impl Case {
    fn new(name: impl Into<String>, plan: Value) -> Case {
        Case { name: name.into(), plan, arguments: Vec::new(), counters: GPU_TEMP, act: |_| {} }
    }

    fn with(mut self, arguments: &[&str]) -> Case {
        self.arguments.extend(arguments.iter().map(|argument| argument.to_string()));
        self
    }

    fn run(&self) {
        let scratch = Scratch::new();
        scratch.write("jobs/0", "17\n");
        let counters = scratch.write("counters.csv", self.counters);
        let plan = scratch.write("scenario.json", self.plan.to_string());
        let mut command = exporter();
        command.env("DCGM_SIMULATOR_SCENARIO", plan).args(["-c", "100", "-f"]).arg(counters);
        command.arg("--hpc-job-mapping-dir").arg(scratch.path("jobs")).args(&self.arguments);
        let mut exporter = Exporter::start(&mut command);
        (self.act)(&mut exporter);
        // The first asks for data that is made then, the second sees data that is there.
        for _ in 0..2 {
            sweep(&self.name, &exporter);
            std::thread::sleep(std::time::Duration::from_millis(250));
            exporter.until(&self.name, |_| Some(()));
        }
        let log = exporter.log();
        assert!(!log.contains("panicked"), "{}: {log}", self.name);
    }
}

fn sweep(case: &str, exporter: &Exporter) {
    for path in PATHS {
        for form in FORMS {
            // Only GET depends on the form.
            for method in METHODS.into_iter().take(if form.is_empty() { METHODS.len() } else { 1 }) {
                let ask = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{form}\r\n");
                let response = request(exporter.port, &ask);
                let response = response
                    .unwrap_or_else(|error| panic!("{case}: {method} {path} {form:?}: {error}\n{}", exporter.log()));
                let expected: &[u16] = match (method, path) {
                    (_, "*") => &[204, 400, 404, 405],
                    ("GET" | "HEAD", "/nowhere") => &[404],
                    ("GET" | "HEAD", "/metrics" | "/health" | "/-/ready" | "/-/healthy") => &[200, 503],
                    ("GET" | "HEAD", _) => &[200],
                    ("OPTIONS", _) => &[204],
                    _ => &[405],
                };
                assert!(expected.contains(&response.status), "{case}: {method} {path} {form:?}: {response:?}");
            }
        }
    }
}

fn with(gpus: &[u32], faults: Value) -> Value {
    let mut plan = scenario(gpus);
    plan["faults"] = faults;
    plan
}

fn wait_for_page(exporter: &mut Exporter) {
    exporter.page();
}

fn release(exporter: &mut Exporter) {
    exporter.page();
    exporter.signal(Signal::USR1);
    exporter.until("it is released", |exporter| exporter.get("/health").body.contains("released").then_some(()));
}

fn release_and_resume(exporter: &mut Exporter) {
    release(exporter);
    exporter.signal(Signal::USR2);
    exporter.until("it is back", |exporter| exporter.get("/health").body.starts_with("OK").then_some(()));
}

const LABELS: &str = "DCGM_FI_DRIVER_VERSION, label, driver\n";

fn cases() -> Vec<Case> {
    let nothing_there = format!("127.0.0.1:{}", free_port());
    let switches = json!({ "system": { "gpus": [], "switches": [0], "links": [] } });
    let mut cases = vec![
        Case { act: wait_for_page, ..Case::new("running", scenario(&[0, 1])) },
        Case { act: release, ..Case::new("released", scenario(&[0, 1])) },
        Case { act: release_and_resume, ..Case::new("resumed", scenario(&[0, 1])) },
        Case { act: release_and_resume, ..Case::new("resumed without a GPU", scenario(&[])) },
        Case::new("no GPU", scenario(&[])),
        Case { counters: LABELS, ..Case::new("label rows only", scenario(&[0, 1])) },
        Case { counters: LABELS, ..Case::new("label rows only, no GPU", scenario(&[])) },
        Case { counters: "DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT, gauge, t\n", ..Case::new("a switch", switches) },
        Case::new("a lost GPU", with(&[0, 1], json!({ "lost_gpus": [0] }))),
        Case::new("all GPUs lost", with(&[0, 1], json!({ "lost_gpus": [0, 1] }))),
        Case::new("a GPU unbound", with(&[0, 1], json!({ "unbound_gpus": [0] }))),
        Case::new("all GPUs unbound", with(&[0, 1], json!({ "unbound_gpus": [0, 1] }))),
        Case::new("the engine hangs", with(&[0], json!({ "hang_ms": { "dcgmStartEmbedded_v2": 5000 } }))),
        Case::new("an update hangs", with(&[0], json!({ "hang_ms": { "dcgmUpdateAllFields": 5000 } }))),
        Case::new("nobody there", scenario(&[0])).with(&["-r", &nothing_there]),
        Case::new("auto", scenario(&[0])).with(&["-r", &format!("auto,{nothing_there}")]),
        Case::new("no own metrics", scenario(&[])).with(&["--disable-exporter-metrics"]),
        Case::new("GPUs are required", scenario(&[])).with(&["--health-require-gpus"]),
        Case::new("jobs as series of their own", scenario(&[])).with(&["--job-labels", "info-only"]),
        Case::new("a device that is not here", scenario(&[0])).with(&["-d", "g:7"]),
    ];
    for call in [
        "dcgmStartEmbedded_v2",
        "dcgmGetEntityGroupEntities",
        "dcgmGetDeviceAttributes",
        "dcgmGetGpuInstanceHierarchy",
        "dcgmGroupCreate",
        "dcgmGroupAddEntity",
        "dcgmFieldGroupCreate",
        "dcgmWatchFields",
        "dcgmUpdateAllFields",
        "dcgmGetLatestValues_v2",
        "dcgmGetValuesSince_v2",
        "dcgmHealthSet_v2",
        "dcgmGetNvLinkLinkStatus",
    ] {
        for code in [-21, -3, -24] {
            let faults = json!({ "fail": [{ "call": call, "code": code }] });
            cases.push(Case::new(format!("{call} fails with {code}"), with(&[0, 1], faults)));
        }
    }
    cases
}

#[test]
fn nobody_ends_it_by_looking_at_it() {
    let cases = cases();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    case.run();
                }
            });
        }
    });
}

/// The faults are there in debug builds alone.
#[test]
fn what_panics_in_the_making_of_a_page_costs_that_page() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).env("DCGM_EXPORTER_TEST_FAULT", scratch.path("fault"));
    let mut exporter = Exporter::start(command.args(["-c", "100", "--stale-after", "1s", "-f"]).arg(counters));
    exporter.page();
    scratch.write("fault", "panic status");
    exporter.until("the page for people says so", |exporter| {
        exporter.get("/?text").body.contains("could not be made, which is a bug").then_some(())
    });
    assert_eq!((exporter.get("/metrics").status, exporter.get("/health").status), (200, 200));
    scratch.write("fault", "panic page");
    exporter.until("the page is old", |exporter| (exporter.get("/metrics").status == 503).then_some(()));
    assert_eq!(exporter.get("/?text").status, 200);
    scratch.write("fault", "panic answer");
    exporter.until("there is no answer", |exporter| (exporter.get("/health").status == 500).then_some(()));
    scratch.write("fault", "");
    let page = exporter.page();
    assert!(page.contains("} 30\n") && page.contains("dcgm_exporter_http_restarts_total 0\n"), "{page}");
    let log = exporter.log();
    for what in ["the page for people", "the page", "an answer"] {
        assert!(log.contains(&format!("{what} could not be made; this is a bug")), "{what}: {log}");
    }
}
