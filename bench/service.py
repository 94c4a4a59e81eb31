"""A service under load on this machine: time from a click to its mask alone and with five readers, health meanwhile, and memory.

    python bench/service.py [--image volume.nii.gz] [--readers 5] [--every 15] [--minutes 3] [--clicks 1000]

The image is the package's example unless one is given. The service is started with the packaged weights on a folder that is removed afterwards.
Clicks fall in a ball of 8 mm around the middle of the image. Each reader clicks every `--every` seconds. Memory is of the worker, before and after
`--clicks` clicks of one reader. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
from cpuinfo import get_cpu_info

from segnet.io.example import IMAGE
from segnet.serve.client import Client


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, 100 * share)) if values else float("nan")


def told(name: str, seconds: list[float], unit: float = 1.0) -> str:
    return (
        f"| {name} | {len(seconds)} | {percentile(seconds, 0.5) * unit:.3g} | {percentile(seconds, 0.95) * unit:.3g} |"
        f" {percentile(seconds, 0.99) * unit:.3g} | {max(seconds, default=float('nan')) * unit:.3g} |"
    )


def resident_mb(folder: Path) -> float:
    """Of the worker."""
    with sqlite3.connect(folder / "segnet.db", timeout=30) as connection:
        (pid,) = connection.execute("SELECT pid FROM workers ORDER BY seen DESC LIMIT 1").fetchone()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


class Reader:
    """Clicks at random points, and the time of each from the request to the mask."""

    def __init__(self, address: str, image: dict[str, object], seed: int) -> None:
        self.client, self.image, self.rng = Client(address), image, random.Random(seed)
        shape, affine = np.array(image["shape"]), np.array(image["affine"])
        self.middle = (affine @ [*(shape // 2), 1])[:3]
        self.seconds: list[float] = []

    def click(self) -> None:
        away = [self.rng.uniform(-4, 4) for _ in range(3)]
        began = time.perf_counter()
        lesion = self.client.click(str(self.image["image"]), (self.middle + away).tolist())
        self.client.mask(lesion["lesion"])
        self.seconds.append(time.perf_counter() - began)
        self.client.delete(lesion["lesion"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--readers", type=int, default=5)
    parser.add_argument("--every", type=float, default=15)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--clicks", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        command = [sys.executable, "-m", "segnet", "serve", "--folder", str(folder), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            print(f"{get_cpu_info()['brand_raw']}, {os.cpu_count()} processors; {options.image.name}\n")
            run(address, folder, options)
        finally:
            server.terminate()
            server.wait(30)


def run(address: str, folder: Path, options: argparse.Namespace) -> None:
    base, token = address.partition("/?")[0], parse_qs(urlsplit(address).query)["token"][0]
    with Client(address) as client:
        while httpx.get(f"{base}/readyz").status_code != 200:
            time.sleep(0.1)
        began = time.perf_counter()
        image = client.upload(options.image)
        print(f"upload to image: {time.perf_counter() - began:.2f} s\n")
    print("| | n | median, s | 95 %, s | 99 %, s | largest, s |\n|---|---:|---:|---:|---:|---:|")
    alone = Reader(address, image, 0)
    for _ in range(30):
        alone.click()
    print(told("a click, one reader", alone.seconds), flush=True)

    stop, health = threading.Event(), list[float]()

    def watch() -> None:
        with httpx.Client(headers={"authorization": f"Bearer {token}"}) as http:
            while not stop.wait(0.1):
                began = time.perf_counter()
                http.get(f"{base}/healthz").raise_for_status()
                health.append(time.perf_counter() - began)

    readers = [Reader(address, image, seed) for seed in range(1, options.readers + 1)]

    def read(reader: Reader, first: float) -> None:
        until = time.monotonic() + 60 * options.minutes
        time.sleep(first)
        while time.monotonic() < until:
            began = time.monotonic()
            reader.click()
            time.sleep(max(0.0, options.every - (time.monotonic() - began)))

    threads = [threading.Thread(target=read, args=(r, r.rng.uniform(0, options.every))) for r in readers]
    watcher = threading.Thread(target=watch)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    print(
        told(
            f"a click, {options.readers} readers, one each {options.every:g} s", [s for r in readers for s in r.seconds]
        )
    )
    print(told("/healthz meanwhile", health), flush=True)

    memory = []
    many = Reader(address, image, 99)
    for number in range(options.clicks):
        many.click()
        if number % max(1, options.clicks // 10) == 0:
            memory.append(resident_mb(folder))
    memory.append(resident_mb(folder))
    if options.clicks:
        print(told(f"{options.clicks} clicks in a row", many.seconds))
        print(
            f"\nmemory of the worker, MB: {', '.join(f'{mb:.0f}' for mb in memory)}; second half grew by {memory[-1] - statistics.median(memory[len(memory) // 2 :]):.0f}"
        )


if __name__ == "__main__":
    main()
