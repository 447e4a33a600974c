"""Real CT for short runs: unlabelled head-neck scans of OpenKBP with a small plan."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hippocampus import FEATURES, World

from nnssl.cli.plan_and_preprocess import main as plan_and_preprocess
from nnssl.engine.plan import plan_info
from nnssl.paths import use_workspace
from nnssl.testing_world import small_architecture

UNLABELLED = "Dataset745_HeadNeck"
SPACING_MM, PATCH = (3.0, 3.0, 3.0), (48, 48, 48)


def is_head_neck(source: Path) -> bool:
    """Whether a folder keeps its unlabelled scans as OpenKBP's does."""
    return (source / "imagesUn").is_dir()


def prepare(source: Path, workspace: Path, *, trainers: Sequence[str]) -> World:
    """Plan and preprocess the unlabelled scans at 3 mm; there are no cases for a probe.

    Args:
        source: a folder with imagesUn, CT of one channel.
        workspace: an empty folder.
        trainers: whose raw values, sidecars and tables to make besides.
    """
    use_workspace(str(workspace))
    make_raw(workspace / "nnUNet_raw" / UNLABELLED, (source / "imagesUn").iterdir())
    spacing = [str(side) for side in SPACING_MM]
    run(plan_and_preprocess, ["-d", "745", "-overwrite_target_spacing", *spacing, "--no_pp"])
    home = workspace / "nnUNet_preprocessed" / UNLABELLED
    plans = json.loads((home / "nnsslPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"patch_size": list(PATCH), "architecture": small_architecture(features=FEATURES)}
    (home / "nnsslPlans.json").write_text(json.dumps(plans))
    run(plan_and_preprocess, ["-d", "745", "--only_pp", "-np", "1", "--for", *trainers])
    return World(folder=home / "nnsslPlans_3d_fullres", plan=plan_info(configuration, channels=1), few=[], rest=[])


def make_raw(folder: Path, files: Iterable[Path]) -> None:
    """A raw data set of CT scans without labels."""
    (folder / "imagesTr").mkdir(parents=True)
    for file in sorted(files):
        shutil.copy(file, folder / "imagesTr")
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps(about))


def run(command: Any, words: Sequence[str]) -> None:
    """A command of ours, which must succeed."""
    if command(list(words)):
        sys.exit(f"{' '.join(words)} failed; see above")
