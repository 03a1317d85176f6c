//! The dashboards of `dist/grafana`: made again they are the same, they are what Grafana imports, and each query of a
//! panel or variable has an answer from a real Prometheus that scrapes the real binary.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::Database;
use crate::alerts::{Node, all_counters, answer, root, scrape};
use crate::common::{Exporter, Scratch, exporter};

const NAMES: [&str; 4] = ["node", "job", "fleet", "links"];

fn dashboard(name: &str) -> Value {
    let path = root().join(format!("dist/grafana/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Panels, those inside of rows included.
fn panels(dashboard: &Value) -> Vec<Value> {
    list(&dashboard["panels"]).into_iter().flat_map(|panel| [list(&panel["panels"]), vec![panel]].concat()).collect()
}

#[test]
#[ignore = "needs python3-venv and a package registry: make e2e"]
fn made_again_they_are_the_same() {
    let scratch = Scratch::new();
    let place: PathBuf = root().join("target/grafana-venv");
    let python = place.join("bin/python");
    let ran = |command: &mut Command| {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    if !python.exists() {
        ran(Command::new("python3").args(["-m", "venv"]).arg(&place));
    }
    let requirements = root().join("dist/grafana/requirements.txt");
    ran(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements));
    std::fs::create_dir(scratch.path("made")).unwrap();
    ran(Command::new(&python).arg(root().join("dist/grafana/make.py")).arg(scratch.path("made")));
    for name in NAMES {
        let file = format!("{name}.json");
        let made = std::fs::read_to_string(scratch.path("made").join(&file)).unwrap();
        let committed = std::fs::read_to_string(root().join("dist/grafana").join(&file)).unwrap();
        assert!(made == committed, "{file} is not what make.py makes: python3 dist/grafana/make.py");
    }
}

/// A strict reading of what an import asks for.
#[test]
fn they_can_be_imported() {
    let mut uids = BTreeSet::new();
    for name in NAMES {
        let dashboard = dashboard(name);
        assert_eq!(dashboard["id"], Value::Null, "{name}: Grafana gives ids");
        assert!(uids.insert(dashboard["uid"].to_string()), "{name}: its uid is another's");
        assert!(dashboard["uid"].as_str().is_some_and(|uid| uid.len() <= 40), "{name}");
        assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36), "{name}");
        assert_eq!(dashboard["__inputs"][0]["pluginId"], "prometheus", "{name}");
        let variables = list(&dashboard["templating"]["list"]);
        assert_eq!(variables[0]["type"], "datasource", "{name}: the data source comes first, others need it");
        assert_eq!(variables[0]["current"]["value"], "${DS_PROMETHEUS}", "{name}");
        let names: BTreeSet<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
        assert_eq!(names.len(), variables.len(), "{name}: {names:?}");

        let source = json!({ "type": "prometheus", "uid": "${datasource}" });
        for variable in &variables[1..] {
            assert_eq!(variable["datasource"], source, "{name}: {variable}");
        }
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in panels(&dashboard) {
            let title = format!("{name}: {}", panel["title"]);
            assert!(panel["id"].as_u64().is_some_and(|id| id > 0 && ids.insert(id)), "{title}: id {}", panel["id"]);
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title} has no place"));
            assert!(at("x") + at("w") <= 24 && at("w") > 0 && at("h") > 0, "{title} is too wide");
            for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
                assert!(cells.insert(cell), "{title} overlaps another panel");
            }
            if panel["type"] == "row" {
                continue;
            }
            assert_eq!(panel["datasource"], source, "{title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|unit| !unit.is_empty()), "{title}");
            let targets = list(&panel["targets"]);
            let refs: BTreeSet<String> = targets.iter().map(|target| target["refId"].to_string()).collect();
            assert!(!targets.is_empty() && refs.len() == targets.len(), "{title}: {refs:?}");
            for target in targets {
                assert_eq!(target["datasource"], source, "{title}");
                let expression = target["expr"].as_str().unwrap();
                for used in expression.split('$').skip(1) {
                    let used = used.split(|byte: char| !byte.is_ascii_alphanumeric() && byte != '_').next().unwrap();
                    assert!(used == "__rate_interval" || names.contains(used), "{title}: there is no ${used}");
                }
            }
        }
    }
}

/// With these values of the variables `cluster`, `node`, `gpu` and `job`, every one of them all.
fn filled(expression: &str, job: &str) -> String {
    let all = ["$cluster", "$node", "$gpu"].iter().fold(expression.to_owned(), |text, name| text.replace(name, ".*"));
    all.replace("$job", job).replace("$__rate_interval", "10s")
}

#[test]
#[ignore = "needs prometheus: make e2e"]
fn every_query_has_an_answer() {
    let scratch = Scratch::new();
    let counters = all_counters(&scratch, &["hpc.csv", "fleet-health.csv", "default-counters.csv"]);
    // Job 17 is on a node with job labels on samples, 18 on one without, 19 on one with base-unit names.
    let mut plan = Node::healthy();
    plan.plan["system"]["links"][5]["states"] = json!([3, 2]);
    let file = plan.write(&scratch, "plan.json");
    let base = root().join("counters/base-units.csv");
    let start = |job: &str, labels: &str, counters: &PathBuf| {
        let jobs = scratch.path(&format!("jobs-{job}"));
        std::fs::create_dir(&jobs).unwrap();
        for gpu in ["2", "3", "7.1"] {
            std::fs::write(jobs.join(gpu), format!("{job}\n")).unwrap();
        }
        std::fs::write(jobs.join(format!("job.{job}")), "user=ann\naccount=x\n").unwrap();
        let mut command = exporter();
        command.env("DCGM_SIMULATOR_SCENARIO", &file).args(["-c", "1s", "--job-labels", labels, "-f"]).arg(counters);
        Exporter::start(command.arg("--hpc-job-mapping-dir").arg(jobs))
    };
    let classic = start("17", "on-samples", &counters);
    let info = start("18", "info-only", &counters);
    let units = start("19", "on-samples", &base);
    let nodes = [("classic", classic.port), ("info", info.port), ("units", units.port)];
    let mut prometheus = Database::prometheus(&scratch, &scrape(&scratch, &[], &nodes));
    prometheus.until("every node is up", |database| database.query("up == 1").len() == nodes.len());
    // A switch that stands still after it had values.
    plan.plan["faults"] = json!({ "frozen": [{ "entity": "SWITCH", "id": 0 }] });
    plan.write(&scratch, "plan.json");
    let mut asked = 0;
    for name in NAMES {
        let dashboard = dashboard(name);
        for variable in &list(&dashboard["templating"]["list"])[1..] {
            let query = variable["query"]["query"].as_str().unwrap();
            let (metric, label) =
                query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", ")).unwrap();
            let query = filled(&format!("count by ({label}) ({metric})"), ".*");
            prometheus.until(&format!("{name}: variable {} has values", variable["name"]), |database| {
                let values = answer(database, &query);
                !values.is_empty() && values.iter().all(|value| value["metric"].get(label).is_some() || label == "gpu")
            });
        }
        for panel in panels(&dashboard) {
            for target in list(&panel["targets"]) {
                let expression = target["expr"].as_str().unwrap();
                let has_units = ["GPU_UTIL_RATIO", "FB_USED_BYTES", "SM_CLOCK_HERTZ"].iter();
                let has_units = has_units.into_iter().any(|name| expression.contains(name));
                let jobs = match expression.contains("$job") {
                    false => vec![""],
                    true if has_units => vec!["17", "18", "19"],
                    true => vec!["17", "18"],
                };
                for job in jobs {
                    let query = filled(expression, job);
                    prometheus.until(&format!("{name}: {} {} {job}", panel["title"], target["refId"]), |database| {
                        let answers = answer(database, &query);
                        // A share is a share, whatever the names and the jobs.
                        if panel["fieldConfig"]["defaults"]["unit"] == "percentunit" {
                            for one in &answers {
                                let value: f64 = one["value"][1].as_str().unwrap().parse().unwrap();
                                assert!((0.0..=1.05).contains(&value), "{query}: {one}");
                            }
                        }
                        !answers.is_empty()
                    });
                    asked += 1;
                }
            }
        }
    }
    println!("{asked} queries have an answer");
    // MIG and shared GPUs are counted once: eight GPUs on each node.
    let fleet = dashboard("fleet");
    let gpus = panels(&fleet).into_iter().find(|panel| panel["title"] == "GPUs" && panel["type"] == "stat").unwrap();
    let counted = answer(&prometheus, &filled(gpus["targets"][0]["expr"].as_str().unwrap(), ""));
    assert_eq!(counted[0]["value"][1], "24", "{counted:?}");
}
