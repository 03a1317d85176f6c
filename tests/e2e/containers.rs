//! A real Podman behind `--container-runtime-socket`. Containers with GPUs cannot run here; the unit tests of
//! `src/containers` have what Docker and Podman say of those.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::common::{Exporter, GPU_TEMP, Scratch, Signal, exporter, scenario, signal_to};

/// `podman system service`, stopped by its process id when dropped.
struct Podman {
    child: Child,
    socket: PathBuf,
}

impl Podman {
    fn start(scratch: &Scratch) -> Podman {
        let socket = scratch.path("podman.sock");
        let child = Command::new("podman")
            .args(["--storage-driver", "vfs", "--root"])
            .arg(scratch.path("root"))
            .arg("--runroot")
            .arg(scratch.path("runroot"))
            .args(["system", "service", "--time", "0"])
            .arg(format!("unix://{}", socket.display()))
            .stderr(Stdio::null())
            .spawn()
            .expect("podman is installed");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(std::time::Instant::now() < end, "podman does not listen");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Podman { child, socket }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        signal_to(self.child.id(), Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs podman: make e2e"]
fn podman_is_asked_and_may_go() {
    let scratch = Scratch::new();
    let podman = Podman::start(&scratch);
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", scenario(&[0]).to_string()))
            .args(["--debug", "-c", "1s", "--container-labels", "--container-runtime-socket"])
            .arg(&podman.socket)
            .arg("-f")
            .arg(counters),
    );
    exporter.until("it has answered", |exporter| {
        exporter.log().contains("the container runtime has answered").then_some(())
    });
    let page = exporter.page();
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{") && !page.contains("container="), "{page}");
    assert!(!exporter.log().contains("level=WARN"), "{}", exporter.log());
    drop(podman);
    exporter.until("it is missed", |exporter| {
        exporter.log().contains("the container runtime cannot be asked").then_some(())
    });
    let page = exporter.page_with("the page goes on", |page| page.contains("DCGM_FI_DEV_GPU_TEMP{"));
    assert!(!page.contains("container="), "{page}");
}
