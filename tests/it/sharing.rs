//! Two exporters on one node: each has its own page, whichever comes or goes.

use crate::common::*;

/// As during a migration, when an old and a new exporter run side by side.
#[test]
fn two_exporters_share_a_host_engine() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[0, 1]).to_string());
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let address = format!("127.0.0.1:{}", free_port());
    let mut engine = HostEngine::start(["--listen", &address], &plan);
    let start = || Exporter::start(exporter().args(["-r", &address, "-c", "100", "-f"]).arg(&counters));
    let both = |page: &str| page.contains("} 30\n") && page.contains("} 31\n");
    let (mut first, mut second) = (start(), start());
    for exporter in [&mut first, &mut second] {
        exporter.page_with("it has both GPUs", both);
    }
    // One ends in order, one is killed; the other goes on and nobody loses the engine.
    assert!(first.stop().0.success());
    let mut third = start();
    third.page_with("a third has both GPUs", both);
    drop(third);
    let count = |page: &str| -> u64 {
        let line = page.lines().find_map(|line| line.strip_prefix("dcgm_exporter_collections_total "));
        line.unwrap().parse().unwrap()
    };
    let before = count(&second.page());
    second.page_with("the second one goes on", |page| count(page) > before && both(page));
    assert!(engine.is_running());
    assert!(!second.log().contains("level=ERROR") && !second.log().contains("level=WARN"), "{}", second.log());
}

/// A second exporter does not take the address of the first one, whether that is a port or a socket.
#[test]
fn a_second_exporter_at_the_same_address_is_refused() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let socket = format!("unix://{}", scratch.path("http.sock").display());
    let command = || {
        let mut command = exporter();
        command.args(["--address", &socket, "-f"]).arg(&counters);
        command
    };
    let mut first = Exporter::start(&mut command());
    first.page();
    let (status, message) = refused(&mut command());
    assert!(status.code() == Some(1) && message.contains(&socket), "{message}");
    assert_eq!(first.get("/health").status, 200);
    assert!(scratch.path("http.sock").exists(), "the first one's socket stays");
}
