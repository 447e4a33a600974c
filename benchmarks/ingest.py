"""Ingest of many small files: seconds a file and memory, and whether memory grows with their number.

    python benchmarks/ingest.py [--files 10000] [--side 12]

Generates files of side^3 voxels (NIfTI that can be linked, NRRD that must be written anew, and one broken in fifty),
ingests a tenth of them and then all of them, each in a process of its own, and a third time when nothing is new. Memory
is the peak above what the imports take. The mark is flat memory: ten times the files may take at most 50 %
more, plus the records themselves, about 3 kB a file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_RECORD_MB = 3e-3


def main() -> int:
    """Run and print the table and the JSON line; 1 if memory is not flat or a count is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="how many (default 10000)")
    parser.add_argument("--side", type=int, default=12, help="voxels along each side (default 12)")
    parser.add_argument("-np", type=int, default=2, help="threads (default 2)")
    parser.add_argument("--job", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        _job(*arguments.job, arguments.np)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        few = max(20, arguments.files // 10)
        _generate(folder / "few", few, arguments.side)
        _generate(folder / "all", arguments.files, arguments.side)
        runs = [
            _measure("a tenth", folder / "few", folder / "Dataset001_Few", arguments.np),
            _measure("all", folder / "all", folder / "Dataset002_All", arguments.np),
            _measure("all again", folder / "all", folder / "Dataset002_All", arguments.np),
        ]
    print(f"{'run':<10} {'files':>7} {'taken':>7} {'refused':>8} {'ms a file':>10} {'of CPU':>7} {'peak MB':>8}")
    for run in runs:
        print(
            f"{run['run']:<10} {run['files']:>7} {run['taken']:>7} {run['refused']:>8} {run['ms_a_file']:>10.2f} "
            f"{run['cpu_ms_a_file']:>7.2f} {run['peak_mb']:>8.0f}"
        )
    allowed = 1.5 * runs[0]["peak_mb"] + _RECORD_MB * arguments.files
    right = all(run["refused"] == -(-run["files"] // 50) for run in runs)
    flat = runs[1]["peak_mb"] <= max(allowed, 30.0)
    print(json.dumps({"benchmark": "ingest", "side": arguments.side, "runs": runs, "flat": flat}))
    return 0 if flat and right else 1


def _generate(folder: Path, count: int, side: int) -> None:
    import nibabel
    import SimpleITK

    rng = np.random.default_rng(0)
    for number in range(count):
        patient = folder / f"p{number // 2:05d}"
        patient.mkdir(parents=True, exist_ok=True)
        voxels = rng.integers(0, 1000, (side, side, side)).astype(np.int16)
        if number % 2:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(patient / "t2.nrrd"), useCompression=True)
            continue
        path = patient / "t1.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
        if number % 50 == 0:
            path.write_bytes(path.read_bytes()[:-100])


def _measure(name: str, source: Path, dataset: Path, workers: int) -> dict[str, float]:
    command = [sys.executable, __file__, "-np", str(workers), "--job", str(source), str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"run": name, **json.loads(done.stdout.splitlines()[-1])}


def _job(source: Path, dataset: Path, workers: int) -> None:
    """One ingest in this process; prints what it took."""
    import nibabel  # noqa: F401  imports are no part of what is measured
    import PIL.Image
    import pydicom
    import SimpleITK  # noqa: F401

    from nnssl.ingest.run import Request, ingest

    PIL.Image.init(), pydicom.__version__
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, working = time.perf_counter(), time.process_time()
    outcome = ingest(Request(sources=(source,), folder=dataset, workers=workers), lambda sentence: None)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    files = len(outcome.records)
    print(
        json.dumps(
            {
                "files": files,
                "taken": len(outcome.taken),
                "refused": len(outcome.refused),
                "ms_a_file": 1000 * seconds / files,
                "cpu_ms_a_file": 1000 * (time.process_time() - working) / files,
                "peak_mb": peak / 1024,
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
