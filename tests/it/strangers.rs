//! `-r auto` and a listener of another user of the node: anybody may listen on a host engine's port. Needs root, to be
//! somebody else; as another user nothing is tested.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{Exporter, HostEngine, Scratch, exporter, free_port, scenario, simulator};

const NOBODY: u32 = 65534;

/// A simulated host engine of nobody; killed when dropped.
struct Stranger(Child);

impl Stranger {
    fn start(scratch: &Scratch, listen: [&str; 2], scenario: &Path) -> Stranger {
        simulator();
        // Where nobody may read it.
        let program = scratch.path("hostengine");
        let built = Path::new(env!("CARGO_BIN_EXE_dcgm-exporter")).with_file_name("dcgm-simulator-hostengine");
        std::fs::copy(built, &program).unwrap();
        let mut command = Command::new(program);
        command.args(listen).arg("--scenario").arg(scenario).uid(NOBODY).gid(NOBODY).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "{line}");
        Stranger(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn auto_uses_no_engine_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not root: nothing is tested");
    }
    let scratch = Scratch::new();
    let own = scratch.write("own.json", scenario(&[0]).to_string());
    let mut other = scenario(&[0]);
    other["latest_values"][0]["fields"]["150"]["value"] = "77".into();
    let other = scratch.write("other.json", other.to_string());
    let counters = scratch.write("counters.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, temperature\n");
    // A socket in a directory that everybody may write.
    let directory = scratch.path("open");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(NOBODY), None).unwrap();
    let socket = directory.join("socket").display().to_string();
    let tcp = format!("127.0.0.1:{}", free_port());
    for (listen, address) in [(["--listen", &tcp], tcp.clone()), (["--socket", &socket], format!("unix://{socket}"))] {
        let stranger = Stranger::start(&scratch, listen, &other);
        let auto = format!("auto,{address}");
        let mut running = Exporter::start(
            exporter().env("DCGM_SIMULATOR_SCENARIO", &own).args(["-c", "100", "-r", &auto, "-f"]).arg(&counters),
        );
        let page = running.page_with("the engine is told", |page| page.contains("engine_info{"));
        assert!(page.contains("engine_info{mode=\"embedded\"") && page.contains("} 30\n"), "{page}");
        let says = format!("{address} is not used: its listener belongs to ");
        assert_eq!(running.log().matches(&says).count(), 1, "{}", running.log());
        assert!(running.log().contains("(uid 65534)"), "{}", running.log());
        let check = exporter()
            .env("DCGM_SIMULATOR_SCENARIO", &own)
            .args(["--check=json", "-r", &auto, "-f"])
            .arg(&counters)
            .output()
            .unwrap();
        let check = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(check.contains(&says) && check.contains("an embedded engine starts"), "{check}");
        let fix = format!("end that process; to use it anyway, name it: -r {address}");
        assert!(check.contains(&fix) && running.log().contains(&fix), "one sentence in both: {check}{}", running.log());
        // The node's own takes its place.
        drop(stranger);
        let _ = std::fs::remove_file(&socket);
        let _engine = HostEngine::start(listen, &other);
        running.page_with("the node's engine has taken over", |page| {
            page.contains(&format!("engine_info{{mode=\"remote\",address=\"{address}\"")) && page.contains("} 77\n")
        });
    }
}
