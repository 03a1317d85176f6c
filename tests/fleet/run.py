#!/usr/bin/env python3
"""N exporters on the simulator, and one Prometheus, then one vmagent with one VictoriaMetrics, that scrape them every
second: run.py N SECONDS. Prints a table. All on loopback; everything that is started is ended by its id.

The exporters play different nodes: eight GPUs under load, four GPUs, GPUs with MIG, a lost GPU, a node without GPUs.
"""

import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/dcgm-exporter"
SIMULATOR = ROOT / "target/release/libdcgm_simulator.so"
MOST = 500
INTERVAL = 1
children = []


def start(arguments, **options):
    child = subprocess.Popen([str(one) for one in arguments], stdin=subprocess.DEVNULL, **options)
    children.append(child)
    return child


def stop(some):
    for child in some:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
    for child in some:
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child in children:
            children.remove(child)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def scenarios():
    def gpus(node, count):
        return [
            {
                "id": gpu,
                "uuid": f"GPU-{node:08x}-0000-4000-8000-{gpu:012x}",
                "model": "NVIDIA H200 (simulated)",
                "pci_bus_id": f"00000000:{gpu + 16:02X}:00.0",
            }
            for gpu in range(count)
        ]

    def make(node):
        kind = node % 10
        plan = {"replay": True, "system": {"gpus": gpus(node, 8)}}
        if kind == 7:
            plan["system"]["gpus"] = gpus(node, 4)
        if kind == 8:
            plan["system"]["gpu_instances"] = [
                {"parent_gpu": gpu, "entity_id": 7 * gpu + one, "nvml_gpu_instance_id": one + 7, "profile": "1g.18gb"}
                for gpu in range(4)
                for one in range(7)
            ]
        if kind == 9:
            plan["faults"] = {"lost_gpus": [node // 10 % 8]}
        if node % 50 == 49:
            plan = {"system": {"gpus": []}}
        return plan

    return make


def get(port, path, timeout=10):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout) as answer:
        return answer.read().decode()


def query(port, expression):
    answer = json.loads(get(port, "/api/v1/query?query=" + urllib.parse.quote(expression), 30))
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else float("nan")


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(what, seconds, is_so):
    end = time.monotonic() + seconds
    while True:
        try:
            if is_so():
                return
        except (urllib.error.URLError, OSError, ValueError):
            pass
        for child in children:
            if child.poll() is not None:
                raise SystemExit(f"{child.args[0]} ended with {child.returncode} while waiting until {what}")
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds} s in vain until {what}")
        time.sleep(0.5)


def exporters(count, scratch):
    """Starts them and returns (process, port) of each."""
    make, started = scenarios(), []
    for node in range(count):
        plan, log = scratch / f"{node}.json", scratch / f"{node}.log"
        plan.write_text(json.dumps(make(node)))
        with log.open("w") as out:
            child = start(
                [BINARY, "--libdcgm", SIMULATOR, "--address", "127.0.0.1:0", "--collect-interval", f"{INTERVAL}s"]
                + ["--collectors", ROOT / "counters/default-counters.csv", "--hostname", f"node{node:04d}"],
                env={"DCGM_SIMULATOR_SCENARIO": str(plan)},
                stdout=out,
                stderr=out,
            )
        started.append((child, log))

    def port(log):
        found = re.search(r'Listening on" address=\S*:(\d+)', log.read_text())
        return int(found.group(1)) if found else None

    until("every exporter listens", 60, lambda: all(port(log) for _, log in started))
    return [(child, port(log)) for child, log in started]


def measure(name, programs, port, nodes, seconds, scraper):
    """Waits until all are scraped, then looks at `seconds` of it."""
    count = len(nodes)
    # Scrapes that fail are counted below; those of the start are not.
    until(f"{name} has tried all", 60, lambda: query(port, 'count(up{job="dcgm-exporter"})') == count)
    time.sleep(20)
    everybody = [child for child, _ in nodes]
    before = [sum(cpu(child.pid) for child in some) for some in (everybody, programs)]
    begin = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    used = [sum(cpu(child.pid) for child in some) - was for some, was in zip((everybody, programs), before)]
    memory = [resident(child.pid) for child in everybody]
    # VictoriaMetrics shows what it was sent some seconds ago.
    time.sleep(5)
    of, span = '{job="dcgm-exporter"}', f"[{seconds}s] offset 5s"
    failed = query(port, f"sum(count_over_time(up{of}{span}) - sum_over_time(up{of}{span}))")
    done = query(port, f"sum(count_over_time(up{of}{span}))")
    return {
        "exporters": count,
        "series": query(port, f"sum(scrape_samples_scraped{of})"),
        "samples per second": query(port, f"sum(sum_over_time(scrape_samples_scraped{of}{span}))") / seconds,
        "scrapes": done,
        "failed scrapes": failed,
        "scrapes missed": max(0.0, count * seconds / INTERVAL - done),
        "scrape, median ms": 1000 * query(port, f"quantile(0.5, avg_over_time(scrape_duration_seconds{of}{span}))"),
        "scrape, longest ms": 1000 * query(port, f"max(max_over_time(scrape_duration_seconds{of}{span}))"),
        "exporter memory, mean MB": sum(memory) / count,
        "exporter memory, largest MB": max(memory),
        "exporter CPU, % of a core": 100 * used[0] / took / count,
        f"{scraper} memory MB": sum(resident(child.pid) for child in programs),
        f"{scraper} CPU, cores": used[1] / took,
    }


def configuration(scratch, nodes):
    # Not in a file of targets: the exporters take all of the user's inotify instances, and it would not be read.
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": f"node{node:04d}", "cluster": f"c{node % 4}"}}
        for node, (_, port) in enumerate(nodes)
    ]
    config = scratch / "scrape.yml"
    config.write_text(
        f"global: {{scrape_interval: {INTERVAL}s, scrape_timeout: {INTERVAL}s}}\n"
        f"scrape_configs:\n- job_name: dcgm-exporter\n  static_configs: {json.dumps(targets)}\n"
    )
    return config


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    if not 1 <= count <= MOST or not 10 <= seconds <= 600:
        raise SystemExit(f"run.py N SECONDS: N from 1 to {MOST}, SECONDS from 10 to 600")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory(prefix="dcgm-exporter-fleet-") as place:
        scratch = pathlib.Path(place)
        try:
            nodes = exporters(count, scratch)
            config = configuration(scratch, nodes)
            tables = {}
            port = free_port()
            prometheus = start(
                ["prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
                + [f"--storage.tsdb.path={scratch}/prometheus"],
                **quiet,
            )
            tables["Prometheus"] = measure("Prometheus", [prometheus], port, nodes, seconds, "scraper and store")
            stop([prometheus])
            port = free_port()
            store = start(
                ["victoria-metrics", f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={scratch}/store"]
                + ["-search.latencyOffset=0s", "-search.disableCache"],
                **quiet,
            )
            agent = start(
                ["vmagent", f"-promscrape.config={config}", f"-httpListenAddr=127.0.0.1:{free_port()}"]
                + [
                    f"-remoteWrite.url=http://127.0.0.1:{port}/api/v1/write",
                    f"-remoteWrite.tmpDataPath={scratch}/agent",
                ],
                **quiet,
            )
            tables["vmagent"] = measure("vmagent", [agent, store], port, nodes, seconds, "scraper and store")
            stop([agent, store])
        finally:
            stop(list(children))
    print(f"| {count} exporters, scraped every {INTERVAL} s for {seconds} s | " + " | ".join(tables) + " |")
    print("| --- |" + " --- |" * len(tables))
    for row in tables["Prometheus"]:
        print(f"| {row} | " + " | ".join(f"{table[row]:,.1f}".removesuffix(".0") for table in tables.values()) + " |")
    failed = sum(table["failed scrapes"] for table in tables.values())
    if failed != 0:
        raise SystemExit(f"{failed:.0f} scrapes failed")


if __name__ == "__main__":
    main()
