#!/usr/bin/env python3
"""Two exporters side by side on one machine: memory, processor time, latency, page size.

usage: compare.py [--seconds N] [--name A --name B] 'COMMAND A' 'COMMAND B'

Each command is started with its {port} replaced by a free port on loopback, and is expected to serve /metrics there.
Both run at the same time and are scraped in turns, the same way, with a new connection for each scrape; at the end they
are stopped by their process ids. Example, on a GPU node:

    compare.py 'dcgm-exporter -a 127.0.0.1:{port} -c 1000' '/opt/other/dcgm-exporter -a 127.0.0.1:{port} -c 1000'
"""
import argparse
import os
import shlex
import signal
import socket
import statistics
import subprocess
import time


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scrape(port):
    """Seconds and bytes of one scrape; raises OSError where there is no 200."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    if not answer.startswith(b"HTTP/1.1 200"):
        raise OSError(answer[:60].decode(errors="replace"))
    return time.monotonic() - start, len(answer.split(b"\r\n\r\n", 1)[1])


class Exporter:
    def __init__(self, name, command):
        self.name, self.port = name, free_port()
        self.process = subprocess.Popen(shlex.split(command.replace("{port}", str(self.port))), stderr=subprocess.DEVNULL)
        self.latencies, self.failures, self.size = [], 0, 0
        end = time.monotonic() + 60
        while True:
            try:
                scrape(self.port)
                break
            except OSError as error:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit(f"{name} serves no metrics: {error}")
                time.sleep(0.2)

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024

    def scrape(self):
        try:
            seconds, self.size = scrape(self.port)
            self.latencies.append(seconds * 1000)
        except OSError:
            self.failures += 1

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs=2)
    parser.add_argument("--name", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=60, help="of scraping, and as long again without")
    arguments = parser.parse_args()
    names = (arguments.name + ["A", "B"])[:2]
    exporters = []
    try:
        for name, command in zip(names, arguments.commands):
            exporters.append(Exporter(name, command))
        idle_from = [exporter.cpu_seconds() for exporter in exporters]
        time.sleep(arguments.seconds)
        idle = [exporter.cpu_seconds() - before for exporter, before in zip(exporters, idle_from)]
        busy_from = [exporter.cpu_seconds() for exporter in exporters]
        end = time.monotonic() + arguments.seconds
        while time.monotonic() < end:
            for exporter in exporters:
                exporter.scrape()
            time.sleep(0.02)
        busy = [exporter.cpu_seconds() - before for exporter, before in zip(exporters, busy_from)]
        minutes = arguments.seconds / 60
        rows = [("", lambda index, it: it.name)]
        rows += [
            ("resident memory, MB", lambda index, it: f"{it.resident_mb():.1f}"),
            ("CPU a minute without scrapes, s", lambda index, it: f"{idle[index] / minutes:.2f}"),
            ("CPU a scrape, ms", lambda index, it: f"{max(0, busy[index] - idle[index]) / max(1, len(it.latencies)) * 1000:.2f}"),
            ("latency p50, ms", lambda index, it: f"{statistics.median(it.latencies):.2f}"),
            ("latency p99, ms", lambda index, it: f"{sorted(it.latencies)[int(len(it.latencies) * 0.99)]:.2f}"),
            ("page, bytes", lambda index, it: str(it.size)),
            ("scrapes", lambda index, it: str(len(it.latencies))),
            ("failed scrapes", lambda index, it: str(it.failures)),
        ]
        for title, value in rows:
            print(f"{title:34}" + "".join(f"{value(index, exporter):>16}" for index, exporter in enumerate(exporters)))
    finally:
        for exporter in exporters:
            exporter.stop()


if __name__ == "__main__":
    main()
