//! The real binary, scraped by a real Prometheus and a real VictoriaMetrics, and told by a real Slurm. Run by `make e2e`.

mod alerts;
#[path = "../it/any_page.rs"]
mod any_page;
#[allow(dead_code)]
#[path = "../it/common.rs"]
mod common;
mod completion;
mod containers;
mod dashboards;
mod job_rules;
#[allow(dead_code)]
#[path = "../it/markdown.rs"]
mod markdown;
mod openmetrics;
#[path = "../it/scripts.rs"]
mod scripts;
mod slurm;
mod status;
mod xids;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Exporter, Scratch, exporter, free_port, request, scenario};
use dcgm_exporter::counters::{Counters, MetricType};
use dcgm_exporter::metrics::sources;

const INTERVAL: &str = "1s";

/// A time series database, stopped by its process id when dropped.
struct Database {
    name: &'static str,
    child: Child,
    port: u16,
}

impl Drop for Database {
    fn drop(&mut self) {
        common::signal_to(self.child.id(), common::Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Database {
    fn prometheus(scratch: &Scratch, config: &Path) -> Database {
        let port = free_port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg(format!("--storage.tsdb.path={}", scratch.path("prometheus").display()))
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed");
        Database { name: "Prometheus", child, port }
    }

    fn victoria_metrics(scratch: &Scratch, config: &Path) -> Database {
        let port = free_port();
        let child = Command::new("victoria-metrics")
            .arg(format!("-promscrape.config={}", config.display()))
            .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
            .arg(format!("-storageDataPath={}", scratch.path("victoria").display()))
            // Answers are to show what was scraped just now.
            .args(["-search.latencyOffset=0s", "-search.disableCache"])
            .stderr(Stdio::null())
            .spawn()
            .expect("victoria-metrics is installed");
        Database { name: "VictoriaMetrics", child, port }
    }

    /// The series that a query answers now, as (labels, value).
    fn query(&self, query: &str) -> Vec<(serde_json::Map<String, serde_json::Value>, f64)> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        // HTTP/1.0, so that the answer is in one piece.
        let text = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let Ok(response) = request(self.port, &text) else { return Vec::new() };
        let answer: serde_json::Value = serde_json::from_str(&response.body).unwrap_or_default();
        let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let series = |entry: &serde_json::Value| {
            Some((entry["metric"].as_object()?.clone(), entry["value"][1].as_str()?.parse().ok()?))
        };
        result.iter().filter_map(series).collect()
    }

    fn until(&mut self, what: &str, is: impl Fn(&Database) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is(self) {
            assert!(self.child.try_wait().unwrap().is_none(), "{} ended", self.name);
            assert!(Instant::now() < end, "{}: waited in vain until {what}", self.name);
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("{}: {what}", self.name);
    }
}

/// Eight H200 as recorded, with what the recording lacks: an XID error that happened, and an NVLink bandwidth.
fn scenario_with_everything() -> serde_json::Value {
    let mut everything = scenario(&[0, 1, 2, 3, 4, 5, 6, 7]);
    everything["replay"] = true.into();
    everything["supported_profiling_fields"] = serde_json::Value::Null;
    for gpu in everything["latest_values"].as_array_mut().unwrap() {
        gpu["fields"]["230"] = serde_json::json!({ "type": "int64", "value": "43" });
        gpu["fields"]["449"] = serde_json::json!({ "type": "int64", "value": "12345" });
    }
    everything
}

/// Sample lines of a page that have this metric.
fn series_of<'a>(page: &'a str, metric: &str) -> Vec<&'a str> {
    page.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{'))).collect()
}

#[test]
#[ignore = "needs prometheus and victoria-metrics: make e2e"]
fn scraped_by_prometheus_and_victoria_metrics() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let counters = Path::new(env!("CARGO_MANIFEST_DIR")).join("counters/default-counters.csv");
    let plan = scratch.write("scenario.json", scenario_with_everything().to_string());
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", plan)
            .args(["-c", INTERVAL, "-f"])
            .arg(&counters)
            .arg("--hpc-job-mapping-dir")
            .arg(&jobs),
    );
    let page = exporter.page_with("profiling has a value", |page| page.contains("DCGM_FI_PROF_GR_ENGINE_ACTIVE{"));
    let metrics: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let listed = Counters::read(&counters, &sources::names()).unwrap().rows;
    for row in listed.iter().filter(|row| row.kind != MetricType::Label) {
        assert!(metrics.contains(row.name.as_str()), "{} is not on the page", row.name);
    }
    check_with_promtool(&page);

    let config = scrape_every_second(&scratch, exporter.port);
    let mut databases = [Database::prometheus(&scratch, &config), Database::victoria_metrics(&scratch, &config)];
    for database in &mut databases {
        database
            .until("up is 1", |database| database.query("up{job=\"gpus\"}").first().is_some_and(|(_, up)| *up == 1.0));
        for metric in &metrics {
            let on_page = series_of(&page, metric);
            database.until(&format!("{metric} has its {} series", on_page.len().max(1)), |database| {
                let answered = database.query(metric);
                let is_on_page = |labels: &serde_json::Map<String, serde_json::Value>| {
                    let own =
                        labels.iter().filter(|(name, _)| !matches!(name.as_str(), "__name__" | "job" | "instance"));
                    let own: Vec<String> = own.map(|(name, value)| format!("{name}={value}")).collect();
                    on_page.is_empty()
                        || on_page.iter().any(|line| own.iter().all(|label| line.contains(label.as_str())))
                };
                answered.len() == on_page.len().max(1) && answered.iter().all(|(labels, _)| is_on_page(labels))
            });
        }
    }
    std::fs::write(jobs.join("3"), "4711\n").unwrap();
    for database in &mut databases {
        database.until("the job's label has come", |database| {
            let labelled = database.query("DCGM_FI_DEV_GPU_TEMP{hpc_job=\"4711\"}");
            labelled.len() == 1 && labelled[0].0["gpu"] == "3"
        });
    }
    std::fs::remove_file(jobs.join("3")).unwrap();
    for database in &mut databases {
        database.until("the job's label has gone", |database| {
            // A series that is scraped no more is marked stale, and an instant query leaves it out; VictoriaMetrics
            // shows it for a few scrape intervals more.
            database.query("DCGM_FI_DEV_GPU_TEMP{hpc_job=\"4711\"}").is_empty()
        });
    }
    let (status, took) = exporter.stop();
    assert!(status.success(), "{status} after {took:?}");
    println!("stopped in {took:?}");
}

/// curl, Python, Prometheus and VictoriaMetrics over both versions of TLS, with a client's certificate and a password.
#[test]
#[ignore = "needs prometheus, victoria-metrics, curl and python3: make e2e"]
fn tls_with_real_clients() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let scratch = Scratch::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority");
    scratch.write("ca.crt", params.self_signed(&key).unwrap().pem());
    let authority = Issuer::new(params, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &authority).unwrap();
        scratch.write(&format!("{name}.crt"), certificate.pem());
        scratch.write(&format!("{name}.key"), key.serialize_pem());
    }
    let counters = scratch.write("counters.csv", common::GPU_TEMP);
    for (version, only) in [("1.2", "max_version: TLS12"), ("1.3", "min_version: TLS13")] {
        let hash = bcrypt::hash("alice123", 10).unwrap();
        let web = format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  client_ca_file: ca.crt\n  \
             client_auth_type: RequireAndVerifyClientCert\n  {only}\nbasic_auth_users:\n  alice: {hash}\n"
        );
        let exporter = Exporter::start(
            exporter()
                .args(["-c", INTERVAL, "-f"])
                .arg(&counters)
                .arg("--web-config-file")
                .arg(scratch.write("web.yml", web)),
        );
        let url = format!("https://localhost:{}/metrics", exporter.port);
        let file = |name: &str| scratch.path(name).display().to_string();

        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--retry",
            "20",
            "--retry-delay",
            "1",
            "--user",
            "alice:alice123",
        ]);
        curl.args([
            "--cacert",
            &file("ca.crt"),
            "--cert",
            &file("client.crt"),
            "--key",
            &file("client.key"),
            "--compressed",
        ]);
        let page = curl.arg(&url).output().unwrap();
        let page = format!("{}{}", String::from_utf8_lossy(&page.stdout), String::from_utf8_lossy(&page.stderr));
        assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{"), "{page}");
        println!("curl: a page over TLS {version}");
        let stranger = Command::new("curl").args(["--silent", "--insecure", &url]).output().unwrap();
        assert!(!stranger.status.success() && stranger.stdout.is_empty(), "{stranger:?}");

        let script = "import base64, ssl, sys, urllib.request as u\n\
                      context = ssl.create_default_context(cafile=sys.argv[2])\n\
                      context.load_cert_chain(sys.argv[3], sys.argv[4])\n\
                      login = 'Basic ' + base64.b64encode(b'alice:alice123').decode()\n\
                      answer = u.urlopen(u.Request(sys.argv[1], headers={'Authorization': login}), context=context)\n\
                      print(answer.read().decode())";
        let mut python = Command::new("python3");
        python.args(["-c", script, &url, &file("ca.crt"), &file("client.crt"), &file("client.key")]);
        let page = python.output().unwrap();
        assert!(String::from_utf8_lossy(&page.stdout).contains("DCGM_FI_DEV_GPU_TEMP{"), "{page:?}");
        println!("Python: a page over TLS {version}");

        let config = scratch.write(
            "scrape.yml",
            format!(
                "global:\n  scrape_interval: {INTERVAL}\n  scrape_timeout: {INTERVAL}\nscrape_configs:\n- job_name: gpus\n  \
                 scheme: https\n  basic_auth: {{username: alice, password: alice123}}\n  tls_config: {{ca_file: {}, cert_file: {}, \
                 key_file: {}}}\n  static_configs:\n  - targets: ['localhost:{}']\n",
                file("ca.crt"),
                file("client.crt"),
                file("client.key"),
                exporter.port
            ),
        );
        for mut database in [Database::prometheus(&scratch, &config), Database::victoria_metrics(&scratch, &config)] {
            database.until(&format!("up over TLS {version}"), |database| {
                database.query("up{job=\"gpus\"}").first().is_some_and(|(_, up)| *up == 1.0)
                    && !database.query("DCGM_FI_DEV_GPU_TEMP").is_empty()
            });
        }
    }
}

/// Samples are young when a regular scraper comes, though the interval alone would let them be 30 s old.
#[test]
#[ignore = "needs prometheus: make e2e"]
fn samples_are_young_at_the_scrape() {
    for seconds in [5, 15] {
        let scratch = Scratch::new();
        let counters = scratch.write("counters.csv", common::GPU_TEMP);
        let mut exporter = Exporter::start(exporter().args(["-c", "30s", "-f"]).arg(counters));
        exporter.page();
        let config = scratch.write(
            "scrape.yml",
            format!(
                "scrape_configs:\n- job_name: gpus\n  scrape_interval: {seconds}s\n  static_configs:\n  - targets: ['127.0.0.1:{}']\n",
                exporter.port
            ),
        );
        let database = Database::prometheus(&scratch, &config);
        // Four scrapes make a rhythm; those after them are looked at.
        std::thread::sleep(Duration::from_secs(seconds * 7 + 5));
        let mut ages = Vec::new();
        for _ in 0..3 {
            let collected = "dcgm_exporter_last_collect_timestamp_seconds";
            let age = database.query(&format!("timestamp({collected}) - {collected}"));
            ages.push(age.first().expect("it was scraped").1);
            std::thread::sleep(Duration::from_secs(seconds));
        }
        println!("scraped every {seconds} s, samples were {ages:.3?} s old");
        assert!(ages.iter().all(|age| *age <= 1.0), "{ages:?}\n{}", exporter.log());
    }
}

/// Queries and rules of the README and the guides, read by Prometheus' own parser.
#[test]
#[ignore = "needs prometheus: make e2e"]
fn promql_of_the_guides_is_valid() {
    let scratch = Scratch::new();
    let mut rules = String::from("groups:\n- name: guides\n  rules:\n");
    let queries = markdown::all_blocks("promql");
    assert!(queries.len() >= 9, "{}", queries.len());
    for (index, query) in queries.iter().enumerate() {
        let query = query.text.replace('\n', " ");
        rules += &format!("  - {{record: 'guide:query{index}', expr: {}}}\n", serde_json::Value::from(query));
    }
    let mut files = vec![scratch.write("guides.yaml", rules)];
    let with_rules = markdown::all_blocks("yaml rules");
    files.extend(with_rules.iter().map(|block| scratch.write("gpu-alerts.yml", &block.text)));
    let output =
        Command::new("promtool").args(["check", "rules"]).args(&files).output().expect("promtool is installed");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let config = markdown::all_blocks("yaml prometheus");
    assert_eq!((config.len(), with_rules.len()), (1, 1));
    let config = scratch.write("prometheus.yml", &config[0].text);
    let output = Command::new("promtool").args(["check", "config"]).arg(config).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}

/// The PromQL of the guide for Slurm, both ways of showing jobs: each query answers what is written above it.
#[test]
#[ignore = "needs prometheus: make e2e"]
fn promql_of_the_guide_for_slurm() {
    let guide = include_str!("../../dist/slurm/README.md");
    let of = |kind: &str| -> Vec<String> {
        let blocks = markdown::blocks("dist/slurm/README.md", guide).into_iter();
        blocks.filter(|block| block.info == format!("promql {kind}")).map(|block| block.text).collect()
    };
    let both = of("both");
    assert_eq!(both.len(), 1);
    for labels in ["on-samples", "info-only"] {
        // In the order of the guide.
        let mut queries = of(labels);
        assert_eq!(queries.len(), 3, "{queries:?}");
        queries.insert(2, both[0].clone());
        let scratch = Scratch::new();
        let jobs = scratch.path("jobs");
        std::fs::create_dir(&jobs).unwrap();
        // GPU 0 works for one job, GPU 1 idles for another, GPU 2 has none.
        for (name, text) in [
            ("0", "17\n"),
            ("1", "18\n"),
            ("job.17", "user=me\naccount=physics\n"),
            ("job.18", "user=me\naccount=physics\n"),
        ] {
            std::fs::write(jobs.join(name), text).unwrap();
        }
        let mut node = scenario(&[0, 1, 2]);
        for (gpu, (util, power)) in [("50", "300"), ("0", "100"), ("90", "70")].into_iter().enumerate() {
            node["latest_values"][gpu]["fields"]["203"] = serde_json::json!({ "type": "int64", "value": util });
            node["latest_values"][gpu]["fields"]["155"] = serde_json::json!({ "type": "double", "value": power });
        }
        let counters =
            scratch.write("counters.csv", "DCGM_FI_DEV_GPU_UTIL, gauge, u\nDCGM_FI_DEV_POWER_USAGE, gauge, p\n");
        let mut exporter = Exporter::start(
            exporter()
                .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", node.to_string()))
                .args(["-c", INTERVAL, "--job-labels", labels, "-f"])
                .arg(counters)
                .arg("--hpc-job-mapping-dir")
                .arg(&jobs),
        );
        exporter.page();
        let mut database = Database::prometheus(&scratch, &scrape_every_second(&scratch, exporter.port));
        // What is said of an hour holds of a few seconds, too.
        let query = |row: usize| queries[row].replace("[1h]", "[4s]").replace('\n', " ");
        type Series = (serde_json::Map<String, serde_json::Value>, f64);
        let mut answers = |row: usize, is: &dyn Fn(&Series) -> bool| {
            let query = query(row);
            database.until(&format!("{labels}: {query}"), |database| {
                let answered = database.query(&query);
                answered.len() == 1 && is(&answered[0])
            });
        };
        answers(0, &|(of, value)| of["hpc_job"] == "17" && of["UUID"] == "GPU-0" && *value == 50.0);
        answers(1, &|(of, value)| of["user"] == "me" && *value == 25.0);
        answers(2, &|(of, _)| of["UUID"] == "GPU-1");
        answers(3, &|(of, value)| of["account"] == "physics" && *value == 400.0);
        check_with_promtool(&exporter.page());
    }
}

/// A configuration that scrapes this exporter and nothing else.
fn scrape_every_second(scratch: &Scratch, port: u16) -> std::path::PathBuf {
    scratch.write(
        "scrape.yml",
        format!(
            "global:\n  scrape_interval: {INTERVAL}\n  scrape_timeout: {INTERVAL}\nscrape_configs:\n- job_name: gpus\n  \
             static_configs:\n  - targets: ['127.0.0.1:{port}']\n"
        ),
    )
}

/// `promtool check metrics` may complain of names inherited from DCGM, and of nothing else.
fn check_with_promtool(page: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let (inherited, ours): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with("DCGM_"));
    assert!(ours.is_empty(), "{said}");
    // 0 is clean, 3 is complaints of style.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    println!("promtool: {} remarks on names inherited from DCGM, none on others", inherited.len());
}
