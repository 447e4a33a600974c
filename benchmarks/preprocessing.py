"""Preprocessing per core: ours against nnU-Net's DefaultPreprocessor, on the same scans, to the same numbers.

    python benchmarks/preprocessing.py [--cases 4] [--raw FOLDER]

Each side runs in a process of its own with one thread and one worker, reading, preprocessing and storing the same
`.nii.gz` files; nnU-Net without labels, as for test cases. The stored arrays are compared first. Marks: 5 times the
speed, memory not above. FOLDER is any folder of single-channel CT `.nii.gz` files; without it, CTs of 256 x 256 x 128
voxels at 0.8 x 0.8 x 2.5 mm are generated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PLANS: dict[str, dict[str, Any]] = {
    "1.5 mm": {"spacing": [1.5, 1.5, 1.5], "force_separate_z": None},
    "1.5 mm, 3D splines": {"spacing": [1.5, 1.5, 1.5], "force_separate_z": False},
    "1.0 mm": {"spacing": [1.0, 1.0, 1.0], "force_separate_z": None},
}
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")}


def main() -> int:
    """Run both sides and print the table and the JSON line; 1 if the outputs differ or a mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4, help="scans (default 4)")
    parser.add_argument("--raw", type=Path, help="folder of CT .nii.gz files instead of generated ones")
    parser.add_argument("--side", choices=["ours", "nnunet"], help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        _run_side(arguments.side, json.loads(arguments.job.read_text()))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        files = _files(arguments, Path(temporary))
        rows = [_compare(name, files, Path(temporary)) for name in PLANS]
    _print_table(rows)
    summary = {
        "benchmark": "preprocessing",
        "cases": len(files),
        "rows": rows,
        "speed_ratio": min(row["ratio"] for row in rows),
        "memory_ratio": max(row["memory_ratio"] for row in rows),
    }
    print(json.dumps(summary))
    return 0 if summary["speed_ratio"] >= 5 and summary["memory_ratio"] <= 1 else 1


def _files(arguments: argparse.Namespace, folder: Path) -> list[str]:
    if arguments.raw is not None:
        found = sorted(str(file) for file in arguments.raw.glob("*.nii.gz"))[: arguments.cases]
        if not found:
            sys.exit(f"{arguments.raw} holds no .nii.gz files")
        return found
    print(f"generating {arguments.cases} CTs of 256 x 256 x 128 voxels", file=sys.stderr)
    return [str(_generate(folder / f"ct{number}_0000.nii.gz", number)) for number in range(arguments.cases)]


def _generate(path: Path, seed: int) -> Path:
    """A body with organs, texture and scanner noise, in HU."""
    import SimpleITK
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    shape = (128, 256, 256)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij")
    body = x**2 / 0.8 + y**2 / 0.5 < 1
    coarse = rng.standard_normal((16, 32, 32)).astype(np.float32)
    organs = ndimage.zoom(coarse, (8, 8, 8), order=1)
    image = np.where(body, 40 + 60 * organs + rng.normal(0, 15, shape), -1000)
    for lung in (-0.4, 0.4):
        image[(x - lung) ** 2 / 0.06 + y**2 / 0.12 + z**2 < 1] -= 800
    volume = SimpleITK.GetImageFromArray(image.round().clip(-1024, 3000).astype(np.int16))
    volume.SetSpacing((0.8, 0.8, 2.5))
    SimpleITK.WriteImage(volume, str(path))
    return path


def _compare(name: str, files: list[str], folder: Path) -> dict[str, Any]:
    results = {}
    for side in ("ours", "nnunet"):
        out = folder / f"{side}-{name.replace(' ', '_')}"
        out.mkdir()
        job = folder / "job.json"
        job.write_text(json.dumps({"files": files, "plan": name, "out": str(out)}))
        command = [sys.executable, __file__, "--side", side, "--job", str(job)]
        done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True, check=True)
        results[side] = {**json.loads(done.stdout.splitlines()[-1]), "out": out}
    _check_equal(results["ours"]["out"], results["nnunet"]["out"], len(files))
    ours, theirs = results["ours"], results["nnunet"]
    return {
        "plan": name,
        "ours_s": ours["seconds"],
        "nnunet_s": theirs["seconds"],
        "ratio": theirs["seconds"] / ours["seconds"],
        "ours_mib": ours["peak_mib"],
        "nnunet_mib": theirs["peak_mib"],
        "memory_ratio": ours["peak_mib"] / theirs["peak_mib"],
    }


def _check_equal(ours: Path, theirs: Path, cases: int) -> None:
    """The stored arrays agree: to float16's share of a standard deviation where we stored float16, else to 1e-4."""
    import blosc2

    for number in range(cases):
        mine = blosc2.open(str(ours / f"case{number}.b2nd"), mode="r")[:]
        reference = blosc2.open(str(theirs / f"case{number}.b2nd"), mode="r")[:]
        tolerance = 4e-3 if mine.dtype == np.float16 else 1e-4
        error = np.abs(mine.astype(np.float32) - reference).max() / reference.std()
        if mine.shape != reference.shape or not error < tolerance + 1e-4:
            sys.exit(f"case {number}: outputs differ by {error:.2g} standard deviations; no timing is worth anything")


def _run_side(side: str, job: dict[str, Any]) -> None:
    sys.path[:0] = [str(ROOT)]
    prepare = {"ours": _ours, "nnunet": _nnunet}[side]
    work = prepare(_plans(PLANS[job["plan"]]), Path(job["out"]))
    work(job["files"][0], len(job["files"]))  # imports, spline matrices, page cache
    seconds = []
    for number, file in enumerate(job["files"]):
        started = time.perf_counter()
        work(file, number)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": statistics.median(seconds), "peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    """Largest resident memory of this process. getrusage would carry over the peak of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _plans(options: dict[str, Any]) -> dict[str, Any]:
    from tests.tiny import tiny_plans

    plans = tiny_plans("Dataset745_Benchmark", patch_size=(128, 128, 128))
    configuration = plans["configurations"]["3d_fullres"]
    configuration["spacing"] = options["spacing"]
    for key in ("resampling_fn_data_kwargs", "resampling_fn_seg_kwargs"):
        configuration[key]["force_separate_z"] = options["force_separate_z"]
    return plans


def _ours(plans: dict[str, Any], out: Path) -> Any:
    from nnssl.planning.cases import RawFiles
    from nnssl.planning.grid import case_plan
    from nnssl.planning.requirements import Required
    from nnssl.planning.write_case import CaseWriter

    plan = case_plan(plans, "3d_fullres")
    writer = CaseWriter(dataset="Dataset745_Benchmark", modality=("ct",), plan=plan, folder=out, required=Required())

    def work(file: str, number: int) -> None:
        writer.write(RawFiles(case_id=f"case{number}", files=(Path(file),), subject="s"), None)

    return work


def _nnunet(plans: dict[str, Any], out: Path) -> Any:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    preprocessor = DefaultPreprocessor(verbose=False)

    def work(file: str, number: int) -> None:
        preprocessor.run_case_save(str(out / f"case{number}"), [file], None, manager, configuration, {})

    return work


def _print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'plan':22}{'ours s':>9}{'nnU-Net s':>11}{'ratio':>8}{'ours MiB':>10}{'nnU-Net MiB':>13}")
    for row in rows:
        print(
            f"{row['plan']:22}{row['ours_s']:9.3f}{row['nnunet_s']:11.3f}{row['ratio']:8.1f}"
            f"{row['ours_mib']:10.0f}{row['nnunet_mib']:13.0f}"
        )


if __name__ == "__main__":
    sys.exit(main())
