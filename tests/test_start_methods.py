"""From scans to weights under multiprocessing's `spawn` and `fork`: equal files, equal losses, equal weights.

Threads do nnssl's work, ranks are always spawned, and nnU-Net's pools choose for themselves; this is the test of it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import make_raw_dataset

pytestmark = pytest.mark.slow
DATASET = "Dataset745_Scans"
_PROGRAM = """
import multiprocessing, sys


def main(method, source, root):
    multiprocessing.set_start_method(method)
    from nnssl.cli import ingest, plan_and_preprocess, pretrain

    place = ["--workspace", root]
    short = ["--set", "epochs=1", "steps_per_epoch=2", "batch_size=2", "threads=1"]
    for command, words in (
        (ingest, [source, "-d", "745", "-n", "Scans", "--channels", "CT", "--copy", "-np", "2"]),
        (plan_and_preprocess, ["-d", "745", "-np", "2"]),
        (pretrain, ["745", "3d_fullres", "-tr", "MAETrainer", "-device", "cpu", "-num_workers", "2"]),
    ):
        code = command.main([*words, *place, *(short if command is pretrain else [])])
        if code:
            sys.exit(code)
    assert multiprocessing.get_start_method() == method


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def test_every_start_method_gives_the_same_files_losses_and_weights(tmp_path: Path) -> None:
    source = make_raw_dataset(tmp_path / "source", 5, 3) / "imagesTr"
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    methods = sorted({"spawn", "fork"} & {*multiprocessing.get_all_start_methods()})
    for method in methods:
        done = subprocess.run(
            [sys.executable, str(program), method, str(source), str(tmp_path / method)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    first = made(tmp_path / methods[0])
    assert len([name for name in first if name.endswith(".b2nd")]) == 3
    for other in methods[1:]:
        assert made(tmp_path / other) == first
    runs = [losses_and_weights(tmp_path / method) for method in methods]
    assert len(runs[0][0]) == 2 and runs[0][1]
    for found, weights in runs[1:]:
        assert found == runs[0][0] and weights.keys() == runs[0][1].keys()
        assert all(torch.equal(weights[name], value) for name, value in runs[0][1].items())


def made(root: Path) -> dict[str, bytes]:
    """Scans, plans and preprocessed cases: {name: bytes}; an index holds times of files, and is left away."""
    kinds = (".nii.gz", ".b2nd", "Plans.json")
    folders = [root / name / DATASET for name in ("nnUNet_raw", "nnUNet_preprocessed")]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.name.endswith(kinds))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def losses_and_weights(root: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Of the run."""
    folder = root / "nnUNet_results" / DATASET / "MAETrainer__nnsslPlans__3d_fullres" / "fold_all"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss"] for line in lines if "health" not in line]
    return found, load_file(folder / "encoder.safetensors")
