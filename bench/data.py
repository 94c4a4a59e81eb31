"""Reading never binds: how fast `segnet prepare` turns VOIs of the challenge's size into a dataset, and how fast batches come out of it.

    python bench/data.py [--vois 200] [--workers 1] [--folder DIR]

A VOI is 256 x 256 x 128 voxels, int16 image and uint8 mask, gzipped, as ULS23 ships them; noise stands in for tissue, so that it packs no
better than CT does. MB are of uncompressed voxels. Batches are drawn from slices that no cache holds; the rate of training beside them is that of
mamba-ahnet and of unet, the fastest there is, measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from segnet.config import Config, DataConfig, PrepareConfig
from segnet.dataset.batches import BatchSource
from segnet.dataset.prepare import prepare
from segnet.dataset.store import Cases
from segnet.io.pairs import find_pairs
from segnet.runtime.memory import keep_freed_memory
from segnet.study.speed import measure

SHAPE = (256, 256, 128)
DISTINCT = 4
"""VOIs that differ; the others are the same bytes under another name."""
VOI_MB = np.prod(SHAPE) * 3 / 1e6


def cohort(folder: Path, n_vois: int) -> None:
    """`n_vois` pairs, smooth tissue with the noise of a scanner, 20 HU, and a ball of 20 voxels."""
    for sub in ("images", "labels"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    index = np.indices(SHAPE, dtype=np.float32)
    mask = ((index - np.array(SHAPE, np.float32).reshape(3, 1, 1, 1) / 2) ** 2).sum(0) < 20**2
    affine = np.diag([0.8, 0.8, 1.5, 1])
    for k in range(n_vois):
        names = [folder / sub / f"case_{k:04d}_lesion_01.nii.gz" for sub in ("images", "labels")]
        if all(name.exists() for name in names):
            continue
        if k >= DISTINCT:
            for name in names:
                os.link(name.parent / f"case_{k % DISTINCT:04d}_lesion_01.nii.gz", name)
            continue
        rng = np.random.default_rng(k)
        waves = sum(np.sin(index[a] / rng.uniform(8, 40) + rng.uniform(0, 6)) for a in range(3))
        image = np.where(waves > 0, 40, -850) + 60 * mask + rng.normal(0, 20, SHAPE)
        nib.Nifti1Image(image.astype(np.int16), affine).to_filename(names[0])
        nib.Nifti1Image(mask.astype(np.uint8), affine).to_filename(names[1])


def prepare_rate(folder: Path, n_vois: int, workers: int) -> None:
    """Prints MB a second and core of a tenth of the cohort and of all of it, with the memory of this process and its children."""
    for some in (n_vois // 10, n_vois):
        out = folder / "prepared"
        shutil.rmtree(out, ignore_errors=True)
        pairs = find_pairs(folder)[:some]
        began = time.perf_counter()
        prepare(pairs, out, PrepareConfig(), workers=workers)
        elapsed_s = time.perf_counter() - began
        who = resource.RUSAGE_SELF if workers == 1 else resource.RUSAGE_CHILDREN
        peak_mb = resource.getrusage(who).ru_maxrss / 1e3
        rate = some * VOI_MB / elapsed_s
        stored = sum(p.stat().st_size for p in out.glob("*.h5")) / 1e6
        print(
            f"{some} VOIs, {workers} workers: {rate:.0f} MB/s, {rate / workers:.0f} a core; {elapsed_s / some:.2f} s a VOI; "
            f"{stored / some:.1f} MB a VOI stored; at most {peak_mb:.0f} MB of memory in a process"
        )
    began = time.perf_counter()
    prepare(pairs, out, PrepareConfig(), workers=workers)
    print(f"again, nothing to do: {time.perf_counter() - began:.2f} s")


def draw_rate(source: BatchSource, batch_size: int, rounds: int) -> tuple[float, float]:
    """Slices a second, and milliseconds a batch at the median."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        source.draw(batch_size)
        times.append(time.perf_counter() - began)
    return batch_size * rounds / sum(times), 1e3 * statistics.median(times)


def loader_rate(out: Path, batch_size: int) -> None:
    """Prints slices a second out of the dataset, at two sizes, beside what training takes."""
    for side in (256, 64):
        config = Config(data=DataConfig(patch_px=side, input_px=side)).data
        cold = BatchSource(Cases(out, cache_bytes=0), config, 0)
        slices_per_s, batch_ms = draw_rate(cold, batch_size, 30)
        print(f"{side} px, no cache: {slices_per_s:.0f} slices/s, {batch_ms:.1f} ms a batch of {batch_size}")
        found = measure("train", ("mamba-ahnet", "unet"), batch_size=batch_size, side_px=side, rounds=3)
        for row in found["rows"]:
            taken = row["slices_a_second"]
            print(
                f"  {row['model']}: trains {taken:.1f} slices/s on {row['threads']} threads; the loader has {slices_per_s / taken:.1f} x"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vois", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="keep the cohort here; else it is made and removed")
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        cohort(folder, given.vois)
        prepare_rate(folder, given.vois, given.workers)
        loader_rate(folder / "prepared", given.batch_size)


if __name__ == "__main__":
    main()
