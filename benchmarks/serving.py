"""Load on `vpd app`: requests a second, how long they take, and memory; with and without running pictures together.

Starts one service for each group size beside one another and loads them in turns, so that whatever else the machine
does falls on all of them: python benchmarks/serving.py --clients 50 --seconds 20
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

from vpd.world.dataset import WorldSamples

SENT_PX = 256
WORDS = {"segment": {}, "refer": {"text": "the red cube"}, "depth": {}}


@dataclass
class Service:
    """A running service and what was measured of it."""

    batch: int
    process: subprocess.Popen[str]
    port: int
    latencies_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Answers a second of each round."""
    refused: int = 0
    failed: int = 0
    cpu_s: float = 0.0
    """Of the service alone, whatever else the machine does."""
    memory_mb: list[float] = field(default_factory=list)
    """Before the first round and after each."""


def start(batch: int, options: Sequence[str]) -> Service:
    """A service of this group size, once it listens."""
    command = [sys.executable, "-m", "vpd", "app", "--no-page", "--port", "0", "--batch", str(batch), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+?:(\d+)/", line):
            return Service(batch, process, int(found[1]))
    raise SystemExit("The service did not start.")


def counted(service: Service, name: str) -> float:
    """One of the numbers that it tells of itself."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    connection.request("GET", "/metrics")
    found = re.search(rf"^{name} (\S+)", connection.getresponse().read().decode(), re.MULTILINE)
    assert found
    return float(found[1])


def memory_mb(service: Service) -> float:
    """What its process holds."""
    return counted(service, "process_resident_memory_bytes") / 1e6


def load(service: Service, pictures: Sequence[bytes], task: str, *, clients: int, seconds: float) -> None:
    """One round: so many clients, each of which asks again as soon as it is answered."""
    lock, end = threading.Lock(), time.monotonic() + seconds
    path, answered = f"/v1/{task}?{urlencode(WORDS[task])}", 0

    def client(number: int) -> None:
        nonlocal answered
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=300)
        while time.monotonic() < end:
            began = time.monotonic()
            connection.request("POST", path, pictures[number % len(pictures)], {"Content-Type": "image/png"})
            answer = connection.getresponse()
            answer.read()
            took = time.monotonic() - began
            with lock:
                if answer.status == 200:
                    service.latencies_s.append(took)
                    answered += 1
                elif answer.status == 429:
                    service.refused += 1
                else:
                    service.failed += 1
            if answer.status == 429:
                time.sleep(0.2)
        connection.close()

    cpu_before_s = counted(service, "process_cpu_seconds_total")
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    service.rates.append(answered / (time.monotonic() - began))
    service.cpu_s += counted(service, "process_cpu_seconds_total") - cpu_before_s
    service.memory_mb.append(memory_mb(service))
    told = f"{service.batch} together: {answered} answers, {service.rates[-1]:.2f} a second"
    print(told, file=sys.stderr, flush=True)


def world_pictures(count: int) -> list[bytes]:
    """Scenes as PNG files."""
    scenes, files = WorldSamples("segment", "test", count, SENT_PX, seed=11), []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(scenes[number].image).save(buffer, format="PNG")
        files.append(buffer.getvalue())
    return files


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", choices=sorted(WORDS), default="segment")
    parser.add_argument("--batches", default="1,8", help="group sizes to compare")
    parser.add_argument("--out", type=Path, help="JSON of the figures")
    parser.add_argument("options", nargs="*", help="of vpd app, after --, such as -- --model my-model --fast")
    asked = parser.parse_args()
    pictures = world_pictures(8)
    services = [start(int(batch), asked.options) for batch in asked.batches.split(",")]
    try:
        for service in services:
            load(service, pictures, asked.task, clients=min(4, asked.clients), seconds=2)
            load(service, pictures, asked.task, clients=asked.clients, seconds=min(5, asked.seconds))
            service.latencies_s.clear(), service.rates.clear(), service.memory_mb.clear()
            service.cpu_s = 0.0
            service.memory_mb.append(memory_mb(service))
        for _ in range(asked.rounds):
            for service in services:
                load(service, pictures, asked.task, clients=asked.clients, seconds=asked.seconds)
    finally:
        for service in services:
            service.process.terminate()
            service.process.wait(60)
    figures = [report(service) for service in services]
    print(f"{asked.clients} clients, {asked.rounds} rounds of {asked.seconds:g} s each, {asked.task}, {SENT_PX} px PNG")
    names = ("together", "answers", "per s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "429", "failed")
    print(" ".join(f"{name:>8}" for name in names), "  MB")
    for each in figures:
        p50, p95, p99 = each["p50_p95_p99_ms"]
        memory = " -> ".join(f"{one:.0f}" for one in (each["memory_mb"][0], each["memory_mb"][-1]))
        print(
            f"{each['together']:>8} {each['answers']:>8} {each['per_s']:>8.2f} {p50:>8.0f} {p95:>8.0f} {p99:>8.0f} "
            f"{each['cpu_ms_each']:>8.1f} {each['refused']:>8} {each['failed']:>8}   {memory}"
        )
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def report(service: Service) -> dict:
    """Its figures."""
    ordered = sorted(service.latencies_s)
    return {
        "together": service.batch,
        "answers": len(ordered),
        "per_s": round(statistics.median(service.rates), 3),
        "rounds_per_s": [round(rate, 3) for rate in service.rates],
        "p50_p95_p99_ms": [
            round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * q))]) for q in (0.5, 0.95, 0.99)
        ],
        "cpu_ms_each": round(1000 * service.cpu_s / max(1, len(ordered)), 1),
        "refused": service.refused,
        "failed": service.failed,
        "memory_mb": [round(one, 1) for one in service.memory_mb],
    }


if __name__ == "__main__":
    main()
