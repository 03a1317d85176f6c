//! The rule files for those who already ask for jobs in other names (jobstats, Base Command Manager, CEEMS), in a real
//! Prometheus over the real binary: what they record of jobs on GPUs that are known, for both ways of job labels.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Database;
use crate::alerts::{Node, all_counters, answer, root, scrape};
use crate::common::{Exporter, Scratch, exporter};

/// Both have the same jobs on the same GPUs.
const NODES: [(&str, &str); 2] = [("n1", "on-samples"), ("n2", "info-only")];
const MIB: f64 = 1_048_576.0;

/// Job 17 of ann has GPU 0, which works, and GPU 1, which does not. Jobs 19 and 20 of bob share GPU 2. Job 18, of which
/// nothing is known, has the second instance of GPU 7. The others have no job.
const JOBS: [(&str, &str); 8] = [
    ("0", "17\n"),
    ("1", "17\n"),
    ("2", "19\n20\n"),
    ("7.2", "18\n"),
    ("job.17", "user=ann\naccount=x\njob_name=train\n"),
    ("job.19", "user=bob\naccount=y\n"),
    ("job.20", "user=bob\naccount=y\n"),
    ("notes", "of an administrator\n"),
];

fn node() -> Node {
    let mut node = Node::healthy();
    for gpu in 0..8 {
        let utilization = [75, 0, 50, 20, 20, 20, 20, 25][gpu as usize];
        for (name, value) in
            [("GPU_UTIL", utilization), ("GPU_TEMP", 40), ("FB_USED", 10), ("FB_FREE", 85), ("FB_RESERVED", 5)]
        {
            node.set(gpu, name, value + i64::from(name == "FB_USED") * i64::from(gpu));
        }
    }
    // Watts are no whole numbers.
    for entity in node.plan["latest_values"].as_array_mut().unwrap() {
        entity["fields"]["155"] = json!({ "type": "double", "value": "300.5" });
    }
    node
}

/// What a query answers, by the values of these labels.
fn recorded(database: &Database, query: &str, labels: &[&str]) -> BTreeMap<String, f64> {
    let series = answer(database, query);
    let count = series.len();
    let named = |series: &Value| {
        let values = labels.iter().map(|name| series["metric"][*name].as_str().unwrap_or("-"));
        let value = series["value"][1].as_str().and_then(|value| value.parse().ok());
        (values.collect::<Vec<_>>().join(" "), value.unwrap_or(f64::NAN))
    };
    let found: BTreeMap<String, f64> = series.iter().map(named).collect();
    assert_eq!(found.len(), count, "{query}: series of the same labels: {series:?}");
    found
}

/// The same on both nodes.
fn on_each<'a>(expected: &[(&'a str, f64)]) -> Vec<(String, f64)> {
    let each = |(labels, value): &(&'a str, f64)| NODES.map(|(node, _)| (format!("{node} {labels}"), *value));
    expected.iter().flat_map(each).collect()
}

#[test]
#[ignore = "needs prometheus: make e2e"]
fn jobs_under_the_names_of_others() {
    let scratch = Scratch::new();
    let counters = all_counters(&scratch, &["hpc.csv", "fleet-health.csv", "default-counters.csv"]);
    std::fs::create_dir(scratch.path("jobs")).unwrap();
    for (name, text) in JOBS {
        std::fs::write(scratch.path("jobs").join(name), text).unwrap();
    }
    let plan = node().write(&scratch, "node.json");
    let exporters = NODES.map(|(_, labels)| {
        let mut command = exporter();
        command.env("DCGM_SIMULATOR_SCENARIO", &plan).args(["-c", "1s", "--job-labels", labels, "-f"]).arg(&counters);
        Exporter::start(command.arg("--hpc-job-mapping-dir").arg(scratch.path("jobs")))
    });
    let nodes = [(NODES[0].0, exporters[0].port), (NODES[1].0, exporters[1].port)];
    // As they are.
    let rules = ["recording", "jobstats", "bcm-accounting", "ceems"]
        .map(|name| root().join(format!("dist/prometheus/rules/{name}.yaml")));
    let config = scrape(&scratch, &rules, &nodes);
    let relabel = "  metric_relabel_configs:\n  - {source_labels: [UUID], target_label: gpuuuid}\n  \
                   - {source_labels: [GPU_I_ID], target_label: gpuiid}\n";
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + relabel).unwrap();
    let mut prometheus = Database::prometheus(&scratch, &config);

    let check = |database: &mut Database, query: &str, labels: &[&str], expected: Vec<(String, f64)>| {
        let expected: BTreeMap<String, f64> = expected.into_iter().collect();
        let last = std::cell::RefCell::new(BTreeMap::new());
        let is_near = |found: &BTreeMap<String, f64>| {
            found.len() == expected.len()
                && found.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() <= b.1.abs() * 1e-9)
        };
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            database.until(&format!("{query} is right"), |database| {
                *last.borrow_mut() = recorded(database, query, labels);
                is_near(&last.borrow())
            });
        }));
        assert!(waited.is_ok(), "{query} is {:?} instead of {expected:?}", last.borrow());
    };
    let each = |database: &mut Database, query: &str, labels: &[&str], expected: &[(&str, f64)]| {
        check(database, query, &[&["instance"], labels].concat(), on_each(expected));
    };
    // Of a job on several nodes it is the sum.
    let both = |database: &mut Database, query: &str, labels: &[&str], expected: &[(&str, f64)]| {
        let expected = expected.iter().map(|(labels, value)| ((*labels).to_owned(), value * NODES.len() as f64));
        check(database, query, labels, expected.collect());
    };
    let database = &mut prometheus;
    database.until("both nodes are up", |database| database.query("up == 1").len() == NODES.len());

    let by_job = ["jobid", "minor_number", "GPU_I_ID", "uuid"];
    let of_jobs = |values: [f64; 5]| {
        ["17 0 - GPU-0", "17 1 - GPU-1", "19 2 - GPU-2", "20 2 - GPU-2", "18 7 2 GPU-7"].into_iter().zip(values)
    };
    let ask = |metric: &str| format!("{metric}{{jobid!=\"\"}}");
    each(database, &ask("nvidia_gpu_jobId"), &by_job, &of_jobs([1.0; 5]).collect::<Vec<_>>());
    let utilization = of_jobs([75.0, 0.0, 50.0, 50.0, 25.0]).collect::<Vec<_>>();
    each(database, &ask("nvidia_gpu_duty_cycle"), &by_job, &utilization);
    let used = of_jobs([10.0, 11.0, 12.0, 12.0, 17.0].map(|used| used * MIB)).collect::<Vec<_>>();
    each(database, &ask("nvidia_gpu_memory_used_bytes"), &by_job, &used);
    let all = of_jobs([100.0, 101.0, 102.0, 102.0, 107.0].map(|all| all * MIB)).collect::<Vec<_>>();
    each(database, &ask("nvidia_gpu_memory_total_bytes"), &by_job, &all);
    each(database, &ask("nvidia_gpu_temperature_celsius"), &by_job, &of_jobs([40.0; 5]).collect::<Vec<_>>());
    let power = of_jobs([300_500.0; 5]).collect::<Vec<_>>();
    each(database, &ask("nvidia_gpu_power_usage_milliwatts"), &by_job, &power);
    check(database, "nvidia_gpu_num_devices", &["instance"], NODES.map(|(node, _)| (node.to_owned(), 8.0)).to_vec());
    // GPUs without a job, and the other instance.
    let rest = [("3 -", 20.0), ("4 -", 20.0), ("5 -", 20.0), ("6 -", 20.0), ("7 1", 25.0)];
    each(database, "nvidia_gpu_duty_cycle{jobid=\"\"}", &["minor_number", "GPU_I_ID"], &rest);

    let of_job = ["job_id", "user", "account", "job_name"];
    let jobs = ["17 ann x train", "18 - - -", "19 bob y -", "20 bob y -"];
    let numbers = |values: [f64; 4]| jobs.into_iter().zip(values).collect::<Vec<_>>();
    let of_gpus = [
        ("17 GPU-0 nvidia0", 0.75),
        ("17 GPU-1 nvidia1", 0.0),
        ("18 GPU-7 nvidia7", 0.25),
        ("19 GPU-2 nvidia2", 0.5),
        ("20 GPU-2 nvidia2", 0.5),
    ];
    each(database, "job_gpu_utilization", &["job_id", "UUID", "device"], &of_gpus);
    each(database, "job_gpu_wasted", &of_job, &numbers([0.625, 0.75, 0.5, 0.5]));
    both(database, "jobs_allocated_gpus", &of_job, &numbers([2.0, 1.0, 1.0, 1.0]));
    both(database, "jobs_wasted_allocated_gpus", &of_job, &numbers([1.25, 0.75, 0.5, 0.5]));
    both(database, "jobs_used_gpu", &of_job, &numbers([1.0, 1.0, 1.0, 1.0]));
    both(database, "jobs_unused_gpu", &of_job, &numbers([1.0, 0.0, 0.0, 0.0]));
    for (metric, ann, bob) in [
        ("allocated_gpus", 2.0, 2.0),
        ("wasted_allocated_gpus", 1.25, 1.0),
        ("used_gpu", 1.0, 2.0),
        ("unused_gpu", 1.0, 0.0),
    ] {
        both(database, &format!("users_{metric}"), &["user"], &[("ann", ann), ("bob", bob)]);
        both(database, &format!("accounts_{metric}"), &["account"], &[("x", ann), ("y", bob)]);
    }

    let unit = ["uuid", "user", "account", "gpuuuid", "gpuiid", "index", "manager"];
    let flags = [
        ("17 ann x GPU-0 - 0 slurm", 1.0),
        ("17 ann x GPU-1 - 1 slurm", 1.0),
        ("18 - - GPU-7 2 7 slurm", 1.0),
        ("19 bob y GPU-2 - 2 slurm", 1.0),
        ("20 bob y GPU-2 - 2 slurm", 1.0),
    ];
    each(database, "ceems_compute_unit_gpu_index_flag", &unit, &flags);
    let index = NODES.map(|(node, _)| (format!("{node}-gpu-0"), 1.0)).to_vec();
    check(database, "ceems_compute_unit_gpu_index_flag{uuid=\"17\", index=\"0\"}", &["hindex"], index);
    // CEEMS' own join.
    let join = "sum by (uuid) (max by (instance, gpuuuid, gpuiid) (DCGM_FI_DEV_GPU_UTIL) \
                * on (instance, gpuuuid, gpuiid) group_right () ceems_compute_unit_gpu_index_flag)";
    both(database, join, &["uuid"], &[("17", 75.0), ("18", 25.0), ("19", 50.0), ("20", 50.0)]);
}
