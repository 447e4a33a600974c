"""What a step of each method costs: seconds and memory, on the same phantoms, plan and batch, by `nnssl_estimate`.

    python benchmarks/methods.py [--steps 12] [--trainers MAETrainer DeSDTrainer] [--batch_size 4]

Every trainer that is found takes a few steps in a process of its own, with its default recipe but for the batch size
(and CADS's sampling, see below), on one thread. Prints a table and one JSON line. The network is a quarter as wide as
nnU-Net's and the patch small, so ratios between methods count, not milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from nnssl.demo.cohort import PRETRAIN, make_phantom_cohort
from nnssl.demo.small_plan import CONFIGURATION, small_plan
from nnssl.evaluate.commands import program
from nnssl.registry import trainers

CASES = 12
PLANS = "nnsslMethods"
# A quarter of views as small as these would leave CADS's encoder no map: it sees them whole, at four times the cost.
WORDS = {"CADSTrainer": ("method.sampling=none",)}


def environment(root: Path) -> dict[str, str]:
    """nnU-Net's folders, one thread."""
    folders = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return {**os.environ, **folders, "OMP_NUM_THREADS": "1", "nnUNet_compile": "f"}


def prepare(root: Path, names: list[str]) -> None:
    """Phantoms, a small plan, and all that the trainers need besides."""
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / folder).mkdir()
    cohort = make_phantom_cohort(root / "nnUNet_raw", unlabelled=CASES, training=1, test=1, spacing_mm=6.0)
    command = [program("nnssl_plan_and_preprocess"), "-d", str(PRETRAIN)]
    run([*command, "--no_pp", "-overwrite_plans_name", PLANS], root)
    path = root / "nnUNet_preprocessed" / cohort.pretraining / f"{PLANS}.json"
    path.write_text(json.dumps({**small_plan(json.loads(path.read_text())), "plans_name": PLANS}))
    run([*command, "--only_pp", "-p", PLANS, "--for", *names], root)


def run(command: list[str], root: Path) -> str:
    """A command's output.

    Raises:
        SystemExit: it failed; its words are shown.
    """
    done = subprocess.run(command, env=environment(root), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def measure(name: str, root: Path, *, steps: int, batch_size: int) -> dict[str, Any]:
    """What `nnssl_estimate` says of one trainer."""
    words = [str(PRETRAIN), CONFIGURATION, "-p", PLANS, "-tr", name, "-device", "cpu", "--steps", str(steps), "--json"]
    said = run([program("nnssl_estimate"), *words, "--set", f"batch_size={batch_size}", *WORDS.get(name, ())], root)
    found: dict[str, Any] = json.loads(said)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="to measure of each trainer")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--trainers", nargs="+", default=[each.name for each in trainers() if not each.problem])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, options.trainers)
        rows = [measure(name, root, steps=options.steps, batch_size=options.batch_size) for name in options.trainers]
    least = min(row["seconds"] for row in rows)
    print(f"{'trainer':20} {'s/step':>8} {'of the least':>12} {'peak MiB':>9}")
    for row in sorted(rows, key=lambda row: float(row["seconds"])):
        ratio, peak = row["seconds"] / least, row["memory"] / 2**20
        print(f"{row['trainer']:20} {row['seconds']:8.2f} {ratio:12.1f} {peak:9.0f}")
    print(json.dumps({"benchmark": "methods", "batch_size": options.batch_size, "rows": rows}))


if __name__ == "__main__":
    main()
