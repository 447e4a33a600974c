"""A comparison whose trainings are done: predictions, curves and marks are written, nothing is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK

from nnssl.evaluate.commands import Runner
from nnssl.evaluate.compare.plan import LONGER, SCRATCH, Request, Target, Training
from nnssl.evaluate.compare.run import Comparison
from nnssl.paths import Folders
from tests.stock.test_fine_tuning import pretrained
from tests.tiny import tiny_plans, workspace_folders

CONFIGURATION = "3d_fullres"
SOURCE = "Dataset004_Tiny"
FLIPPED = {SCRATCH: 0.20, LONGER: 0.15}  # share of foreground voxels that a prediction misses; other arms fewer


class Silent:
    """A screen that shows nothing."""

    def say(self, sentence: str) -> None:
        """Nothing."""

    def status(self, text: str) -> None:
        """Nothing."""


def labels_of(path: Path) -> npt.NDArray[np.int64]:
    """(D, H, W) of a label map, as SimpleITK reads it."""
    labels: npt.NDArray[np.int64] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.int64)
    return labels


def make_workspace(root: Path, source: Path, *, numbers: Sequence[int] = (4,)) -> Folders:
    """Targets of four labelled cases and two folds each, copied from the tiny workspace; weights a/w.pth, b/w.pth."""
    where = workspace_folders(root)
    for number in numbers:
        name = f"Dataset{number:03d}_Tiny"
        shutil.copytree(source / "nnUNet_raw" / SOURCE, where.raw / name)
        shutil.copytree(source / "nnUNet_preprocessed" / SOURCE, where.preprocessed / name)
        shutil.copy(where.raw / name / "dataset.json", where.preprocessed / name)
        cases = [f"case_{index:02d}" for index in range(4)]
        split = [{"train": cases[:2], "val": cases[2:]}, {"train": cases[2:], "val": cases[:2]}]
        (where.preprocessed / name / "splits_final.json").write_text(json.dumps(split))
    for name, decoder in (("a", False), ("b", True)):
        (root / name).mkdir()
        pretrained(root / name / "w.pth", tiny_plans("Dataset745_Tiny"), channels=1, decoder=decoder)
    return where


def finish(comparison: Comparison) -> None:
    """Leave what finished trainings leave."""
    for target in comparison.targets:
        for training in comparison.trainings[target.dataset]:
            finish_training(comparison, target, training)


def finish_training(comparison: Comparison, target: Target, training: Training) -> None:
    """Predictions that miss some voxels, a curve, the time, and the mark."""
    made = comparison.job(target, training)
    (made.fold / "validation").mkdir(parents=True)
    truth = comparison.where.preprocessed / target.dataset / "gt_segmentations"
    rng = np.random.default_rng(list(training.name.encode()))
    missed = FLIPPED.get(training.arm, 0.05)
    cases = target.folds[training.fold].test
    for case in cases:
        image = SimpleITK.ReadImage(str(truth / f"{case}.nii.gz"))
        labels = SimpleITK.GetArrayFromImage(image)
        labels[rng.random(labels.shape) < missed] = 0
        prediction = SimpleITK.GetImageFromArray(labels)
        prediction.CopyInformation(image)
        SimpleITK.WriteImage(prediction, str(made.fold / "validation" / f"{case}.nii.gz"))
    curve = [{"iteration": step, "dice": {cases[0]: [step / 10 - missed] * 2}} for step in (0, 5, 10)]
    (made.fold / "curve.json").write_text(json.dumps(curve))
    (made.fold / "final.json").write_text(json.dumps({"iteration": 10, "dice": {case: [0.5, 0.5] for case in cases}}))
    (made.fold / "timing.json").write_text(json.dumps({"iterations": 10, "seconds": 20.0}))
    job = made.job(threads=1)
    Runner(comparison.request.out / "logs", Silent()).mark(job.name, job.key)


def request(root: Path, **changes: object) -> Request:
    """One target, one checkpoint, the CPU."""
    asked: dict[str, object] = {
        "targets": ["4"], "configuration": CONFIGURATION, "weights": [root / "a" / "w.pth"], "labels": ["1"],
        "replicates": 1, "out": root / "out",
    }  # fmt: skip
    return Request(**{**asked, **changes})  # type: ignore[arg-type]
