"""A workspace with a preprocessed data set, made in a second: no planning, no images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.case import CaseEntry
from nnssl.data.index import Index, write_index
from nnssl.data.store import write_array
from tests.tiny import tiny_plans

DATASET = "Dataset701_Tiny"
TRAINERS = Path(__file__).with_name("trainers")
FOLDER = Path("nnUNet_results") / DATASET / "TinyTrainer__nnsslPlans__3d_fullres"


def make_workspace(root: Path, *, cases: int = 8) -> Path:
    """nnUNet_raw, nnUNet_preprocessed and nnUNet_results under `root`, with `cases` cases of 24 voxels a side."""
    home = root / "nnUNet_preprocessed" / DATASET
    store = home / "nnsslPlans_3d_fullres"
    store.mkdir(parents=True)
    for name in ("nnUNet_raw", "nnUNet_results"):
        (root / name).mkdir()
    plans = tiny_plans(DATASET, patch_size=(16, 16, 16))
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments |= {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    (home / "nnsslPlans.json").write_text(json.dumps(plans))
    dataset_json = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (home / "dataset.json").write_text(json.dumps(dataset_json))
    entries = {}
    for index in range(cases):
        rng = np.random.default_rng([7, index])
        name, shape = f"case_{index:02d}", (24, 25, 26)
        ramp = np.linspace(-1, 1, 24, dtype=np.float32)[:, None, None]
        array = (rng.standard_normal((1, *shape)) * 0.3 + ramp + index / cases).astype(np.float32)
        write_array(store / f"{name}.b2nd", array, (16, 16, 16))
        entries[name] = CaseEntry(
            case_id=name,
            dataset=DATASET,
            folder=store,
            file=f"{name}.b2nd",
            shape=shape,
            channels=1,
            dtype="float32",
            spacing_mm=(1.5, 1.25, 1.0),
            to_world=((1.5, 0, 0, 0), (0, 1.25, 0, 0), (0, 0, 1.0, 0), (0, 0, 0, 1.0)),
            subject=name,
            modality=("ct",),
            source_hash=str(index),
        )
    write_index(store, Index(dataset=DATASET, made_from={}, entries=entries))
    return root


def environment(root: Path, **more: str) -> dict[str, str]:
    """Variables for a command that works in `root` with the test-only trainers."""
    folders = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    own = {"nnssl_extTrainer": str(TRAINERS), "OMP_NUM_THREADS": "1", "nnUNet_compile": "f"}
    return {**os.environ, **folders, **own, **more}


def pretrain(root: Path, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `nnssl_pretrain 701 3d_fullres -tr TinyTrainer -device cpu ARGUMENTS` in a process of its own."""
    done = subprocess.run(
        command(*arguments), env=environment(root, **variables), capture_output=True, text=True, timeout=240
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def command(*arguments: str) -> list[str]:
    """The command line of `pretrain`."""
    start = [sys.executable, "-c", "import sys; from nnssl.cli.pretrain import main; sys.exit(main())"]
    return [*start, "701", "3d_fullres", "-tr", "TinyTrainer", "-device", "cpu", *arguments]


def losses(root: Path, name: str | None = None, *, key: str = "loss", trainer: str = "TinyTrainer") -> list[float]:
    """The losses in the order of steps, exactly as the run wrote them."""
    fold = "fold_all" if name is None else f"fold_all--{name}"
    file = root / FOLDER.parent / f"{trainer}__nnsslPlans__3d_fullres" / fold / "metrics.jsonl"
    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    return [line[key] for line in lines if "health" not in line]
