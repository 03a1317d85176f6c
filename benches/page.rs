//! What a collection and a page cost. The name of each bench holds its target (see the README).
//!
//! Everything runs against the simulated library in this process, so collecting includes what the simulator itself
//! costs. Build it first: `make bench` does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dcgm_exporter::config::devices::DeviceSelection;
use dcgm_exporter::config::listen::{ListenAddress, Timeouts};
use dcgm_exporter::config::{JobLabels, JobMapTrust, OpenMetrics};
use dcgm_exporter::counters::Counters;
use dcgm_exporter::dcgm::{Library, Session};
use dcgm_exporter::exposition::{Exposition, openmetrics};
use dcgm_exporter::inventory::{self, Inventory, Known, Naming, Scope};
use dcgm_exporter::jobs;
use dcgm_exporter::metrics::plan::Plan;
use dcgm_exporter::metrics::{Collector, Memory, Windows, profiling_support, sources};
use dcgm_exporter::publish::{PublishedPage, Publisher};
use dcgm_exporter::server::{self, Web, listen};
use dcgm_exporter::system::threads::Supervisor;
use divan::Bencher;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

fn main() {
    divan::main();
    cost_of_the_binary();
}

/// Runs the release binary for a while and says what its own threads cost, apart from the library's.
fn cost_of_the_binary() {
    let release = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("release");
    let counters = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("counters/default-counters.csv");
    let address = listen::open(&loopback()).unwrap()[0].address();
    let mut exporter = Command::new(release.join("dcgm-exporter"))
        .args(["-c", "100", "-a", &address, "--libdcgm"])
        .arg(release.join("libdcgm_simulator.so"))
        .arg("-f")
        .arg(counters)
        .stderr(Stdio::null())
        .spawn()
        .expect("make build");
    std::thread::sleep(Duration::from_secs(10));
    let mut page = String::new();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_to_string(&mut page).unwrap();
    exporter.kill().unwrap();
    exporter.wait().unwrap();
    let value = |name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} is missing"));
        line.trim().parse().unwrap()
    };
    let collections = value("dcgm_exporter_collections_total ");
    let watching = value("dcgm_exporter_own_cpu_seconds_total{work=\"watching\"} ");
    let serving = value("dcgm_exporter_own_cpu_seconds_total{work=\"serving\"} ");
    let all = value("process_cpu_seconds_total ");
    println!(
        "\nthe binary, {collections} collections: {:.3} ms CPU each in the watching thread (simulator included), {serving:.2} s \
         serving and starting, {all:.2} s in all",
        watching / collections * 1e3
    );
}

/// Everything that a page is made of.
struct Node {
    inventory: Inventory,
    collector: Collector,
    exposition: Exposition,
    memory: Memory,
    text: String,
}

const NOW: i64 = 1_700_000_000_000_000;

impl Node {
    fn new(scenario: Option<serde_json::Value>, counters: &[u8]) -> Node {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = directory.join(format!("bench-{}.json", std::process::id()));
        let path = scenario.map(|scenario| std::fs::write(&path, scenario.to_string()).map(|()| path).unwrap());
        // SAFETY: benches run one after the other, and no other thread reads the environment meanwhile.
        unsafe { std::env::set_var("DCGM_SIMULATOR_SCENARIO", path.unwrap_or_default()) };
        let simulator = directory.with_file_name("release").join("libdcgm_simulator.so");
        let library = Arc::new(Library::open(Some(&simulator)).unwrap_or_else(|error| panic!("{error}")));
        let counters = Counters::parse(counters, &sources::names()).unwrap();
        let session = Rc::new(Session::embedded(&library, &[]).unwrap());
        let scope = Scope {
            gpus: DeviceSelection::Flex,
            switches: DeviceSelection::Flex,
            cpus: DeviceSelection::Flex,
            kinds: Plan::kinds(&counters, &library),
            minors: false,
            names: Naming {
                old_namespace: false,
                hostname_label: "hostname",
                hostname: "node001".to_owned(),
                replace_blanks_in_model_name: false,
                fake_gpus: false,
                cpu_serials: false,
            },
        };
        let inventory = inventory::discover(&session, &scope, &mut Known::default()).unwrap();
        let profiling = profiling_support(&session, &inventory.gpus, |_, _| {}).unwrap();
        let plan = Plan::new(&counters, &library, profiling);
        let window = Duration::from_secs(300);
        let mut memory = Memory::new(NOW, Windows { xid: window, clock_events: window });
        let mut collector = Collector::new(&session, &plan, &inventory, Duration::from_millis(1), &mut memory).unwrap();
        collector.collect(&inventory, &mut memory, NOW).unwrap();
        let mut node =
            Node { exposition: Exposition::new(&plan, &inventory), inventory, collector, memory, text: String::new() };
        node.render();
        node
    }

    fn collect(&mut self) {
        self.collector.collect(&self.inventory, &mut self.memory, NOW).unwrap();
        self.collector.table.settle_labels();
    }

    fn render(&mut self) -> usize {
        let Collector { table, computed, .. } = &mut self.collector;
        self.text.clear();
        self.exposition.render(table, computed, &mut self.text);
        self.text.len()
    }
}

/// Eight H200 with the default counters file.
fn dgx() -> Node {
    Node::new(None, include_bytes!("../counters/default-counters.csv"))
}

/// Eight GPUs in seven instances each, four switches, 144 links, 144 cores: 60 fields of GPUs, ten of links.
fn full() -> Node {
    let gpu = |id: u32| serde_json::json!({ "id": id, "uuid": format!("GPU-11111111-2222-3333-4444-{id:012}"), "model": "NVIDIA H200", "pci_bus_id": "00000000:1B:00.0" });
    let instance = |id: u32| serde_json::json!({ "parent_gpu": id / 7, "entity_id": id, "nvml_gpu_instance_id": 7 + id % 7, "profile": "1g.18gb" });
    let links = |id: u32| serde_json::json!({ "parent": "GPU", "parent_id": id, "states": vec![3; 18] });
    let scenario = serde_json::json!({
        "replay": true,
        "system": {
            "gpus": (0..8).map(gpu).collect::<Vec<_>>(),
            "gpu_instances": (0..56).map(instance).collect::<Vec<_>>(),
            "switches": [0, 1, 2, 3],
            "links": (0..8).map(links).collect::<Vec<_>>(),
            "cpus": [{ "id": 0, "cores": (0..72).collect::<Vec<u32>>() }, { "id": 1, "cores": (72..144).collect::<Vec<u32>>() }],
        },
    });
    Node::new(Some(scenario), counters(60, 10).as_bytes())
}

/// Rows for fields that the recording has numbers of.
fn counters(of_gpus: usize, of_links: usize) -> String {
    let recorded: Vec<String> = include_str!("../tests/simulator/h200.csv")
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|row| matches!(row[2], "i" | "d") && row[3] == "0" && !row[4].starts_with("92233") && row[0] != "230")
        .map(|row| row[0].to_owned())
        .collect();
    let rows: Vec<Vec<&str>> =
        include_str!("../src/dcgm/fields.csv").lines().skip(1).map(|line| line.split(',').collect()).collect();
    let mut text = String::from("DCGM_FI_DRIVER_VERSION, label, driver\nDCGM_FI_DEV_CPU_UTIL_TOTAL, gauge, cpu\n");
    let mut last = "";
    let mut counts = [of_gpus, of_links];
    for row in &rows {
        let which = match row[3] {
            "gpu" | "gpu_instance" | "compute_instance" if recorded.iter().any(|id| id == row[1]) => 0,
            "link" if row[2] == "int64" => 1,
            _ => continue,
        };
        if counts[which] > 0 && row[1] != last {
            text.push_str(&format!("{}, gauge, x\n", row[0]));
            counts[which] -= 1;
            last = row[1];
        }
    }
    assert_eq!(counts, [0, 0]);
    text
}

#[divan::bench(name = "render: 8 GPUs, default counters (target 60 us)")]
fn render_dgx(bencher: Bencher) {
    let mut node = dgx();
    bencher.bench_local(|| node.render());
}

#[divan::bench(name = "render: 8x7 instances x 60 fields, 144 links x 10, 144 cores (target 1 ms)")]
fn render_full(bencher: Bencher) {
    let mut node = full();
    println!("({} bytes)", node.text.len());
    bencher.bench_local(|| node.render());
}

#[divan::bench(name = "relabel: 8 GPUs, two jobs each")]
fn relabel(bencher: Bencher) {
    let mut node = dgx();
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-jobs-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for gpu in 0..8 {
        std::fs::write(directory.join(gpu.to_string()), format!("{}\n{}\n", 4711 + gpu, 4811 + gpu)).unwrap();
    }
    bencher.bench_local(|| {
        let scan = jobs::scan(&directory, JobMapTrust::RootOnly, "");
        node.exposition.set_jobs(&scan.map, JobLabels::OnSamples);
        node.render()
    });
    std::fs::remove_dir_all(&directory).unwrap();
}

#[divan::bench(name = "publish: 46 KB page, plain")]
fn publish(bencher: Bencher) {
    publish_page(bencher, false);
}

#[divan::bench(name = "publish: 46 KB page, plain and compressed")]
fn publish_compressed(bencher: Bencher) {
    publish_page(bencher, true);
}

fn publish_page(bencher: Bencher, compressed: bool) {
    let node = dgx();
    let published = Arc::new(PublishedPage::new(Duration::from_secs(30), None, || None));
    if compressed {
        published.want_gzip();
    }
    let mut publisher = Publisher::new(published);
    let mut text = String::new();
    bencher.bench_local(|| {
        text.push_str(&node.text);
        publisher.publish(&mut text, Some(Instant::now()));
    });
}

#[divan::bench(name = "OpenMetrics: 46 KB page, converted", args = [1, 350])]
fn open_metrics(bencher: Bencher, pages: usize) {
    let page = dgx().text.repeat(pages);
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        openmetrics::convert(page.as_bytes(), &mut out);
    });
}

#[divan::bench(name = "OpenMetrics: 46 KB page, converted and compressed", args = [1, 350])]
fn open_metrics_compressed(bencher: Bencher, pages: usize) {
    let published = PublishedPage::new(Duration::from_secs(30), None, || None).with_open_metrics(openmetrics::convert);
    let published = Arc::new(published);
    let page = dgx().text.repeat(pages);
    let mut publisher = Publisher::new(published.clone());
    let mut text = String::new();
    bencher.bench_local(|| {
        text.push_str(&page);
        publisher.publish(&mut text, Some(Instant::now()));
        published.make_open_metrics(true);
    });
}

fn loopback() -> ListenAddress {
    ListenAddress::Tcp { host: "127.0.0.1".to_owned(), port: 0 }
}

/// Serves a page of 100 KB and returns the address.
fn serve(web: Option<&Path>) -> String {
    let published = Arc::new(PublishedPage::new(Duration::from_secs(3600), None, || None));
    let mut page = dgx().text.repeat(3);
    page.truncate(PAGE);
    Publisher::new(published.clone()).publish(&mut page, None);
    let listeners = Arc::new(listen::open(&loopback()).unwrap());
    let address = listeners[0].address();
    let timeouts = Timeouts { read: Duration::from_secs(10), write: Duration::from_secs(30) };
    server::start(
        listeners,
        &published,
        timeouts,
        OpenMetrics::Always,
        Web::open(web).unwrap(),
        &Supervisor::new(|| {}).0,
    )
    .unwrap();
    address
}

const PAGE: usize = 100_000;

/// Asks for the page on a connection that stays open, and reads it whole.
fn scrape(stream: &mut (impl Read + Write)) {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0u8; 64 * 1024];
    let mut count = 0;
    let mut end = None;
    while end.is_none_or(|end| count < end) {
        let read = stream.read(&mut answer).unwrap();
        assert!(read > 0, "{count} of {end:?}");
        if end.is_none() {
            let head = answer[..read].windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head in one piece");
            end = Some(head + 4 + PAGE);
        }
        count += read;
    }
}

/// Runs a scrape many times and prints what half and what 99 % of them took at most.
fn timed(bencher: Bencher, mut scrape: impl FnMut()) {
    let mut times = Vec::new();
    bencher.bench_local(|| {
        let start = Instant::now();
        scrape();
        times.push(start.elapsed());
    });
    times.sort_unstable();
    let quantile = |share: usize| times[(times.len() - 1) * share / 100];
    println!("(p50 {:?}, p99 {:?})", quantile(50), quantile(99));
}

#[divan::bench(name = "scrape: 100 KB page, new connection (target p50 0.2 ms, p99 0.4 ms)", sample_count = 2000)]
fn scrape_new(bencher: Bencher) {
    let address = serve(None);
    timed(bencher, || scrape(&mut TcpStream::connect(&address).unwrap()));
}

#[divan::bench(name = "scrape: 100 KB page, kept connection (target p50 0.1 ms)", sample_count = 2000)]
fn scrape_kept(bencher: Bencher) {
    let mut stream = TcpStream::connect(serve(None)).unwrap();
    stream.set_nodelay(true).unwrap();
    timed(bencher, || scrape(&mut stream));
}

/// A server with a certificate on P-256, and a client that trusts it.
fn serve_tls(resume: bool) -> (String, Arc<ClientConfig>) {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let web = directory.join("web.yml");
    std::fs::write(&web, "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n").unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resume {
        config.resumption = Resumption::disabled();
    }
    let address = serve(Some(&web));
    std::fs::remove_dir_all(&directory).unwrap();
    (address, Arc::new(config))
}

fn connect_tls(address: &str, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let connection = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, stream)
}

#[divan::bench(name = "scrape: 100 KB page, TLS, kept connection", sample_count = 2000)]
fn scrape_tls_kept(bencher: Bencher) {
    let (address, config) = serve_tls(true);
    let mut stream = connect_tls(&address, &config);
    timed(bencher, || scrape(&mut stream));
}

#[divan::bench(name = "scrape: 100 KB page, TLS, new connection with a ticket", sample_count = 500)]
fn scrape_tls_resumed(bencher: Bencher) {
    let (address, config) = serve_tls(true);
    scrape(&mut connect_tls(&address, &config));
    timed(bencher, || {
        let mut stream = connect_tls(&address, &config);
        scrape(&mut stream);
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    });
}

#[divan::bench(name = "scrape: 100 KB page, TLS, new connection with a full handshake", sample_count = 500)]
fn scrape_tls_full(bencher: Bencher) {
    let (address, config) = serve_tls(false);
    timed(bencher, || scrape(&mut connect_tls(&address, &config)));
}

#[divan::bench(name = "collect: 8 GPUs, simulator included (target 0.3 ms)")]
fn collect_dgx(bencher: Bencher) {
    let mut node = dgx();
    bencher.bench_local(|| node.collect());
}

#[divan::bench(name = "collect: full MIG node, simulator included")]
fn collect_full(bencher: Bencher) {
    let mut node = full();
    bencher.bench_local(|| node.collect());
}
