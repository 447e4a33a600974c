"""What a comparison will do, settled and written down before its first training."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from nnssl.errors import DataError, UsageError
from nnssl.evaluate.finetune_run import Request as Finetuning
from nnssl.evaluate.finetune_run import fitting_plans, prepare_target
from nnssl.evaluate.finetune_schedule import MeasuredSchedule, changed
from nnssl.evaluate.leakage import leaks, scan_hashes
from nnssl.evaluate.statistics import CONFIDENCE, FEWEST_CASES, POWER
from nnssl.evaluate.subsets import Fold, nested, read_folds
from nnssl.paths import Folders
from nnssl.planning.cases import read_raw_dataset

SCRATCH, LONGER = "scratch", "scratch_longer"
_SPREADS = (0.02, 0.05, 0.10)  # assumed standard deviations of the per-case Dice differences


@dataclass(frozen=True, kw_only=True)
class Request:
    """A comparison as asked for.

    Attributes:
        targets: labelled data sets by number or name.
        configuration: of the plans.
        weights: the checkpoints; each is an arm.
        labels: numbers of labelled subjects as text, or "all".
        folds: of nnU-Net's split.
        replicates: label draws and seeds of each training.
        settings: changed keys of `MeasuredSchedule`.
        plans_name: None: those that the first checkpoint fits.
        device: "cuda" or "cpu".
        at_once: trainings at the same time.
        strict: refuse where a test case was pretrained on.
        equal_compute: add an arm from scratch that is as much longer as the pretraining was long.
        out: folder of the comparison.
    """

    targets: Sequence[str]
    configuration: str
    weights: Sequence[Path]
    labels: Sequence[str]
    folds: Sequence[int] = (0,)
    replicates: int = 3
    settings: Mapping[str, object] = field(default_factory=dict)
    plans_name: str | None = None
    device: str = "cpu"
    at_once: int = 1
    strict: bool = False
    equal_compute: bool = False
    out: Path = Path("nnssl_compare")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One labelled data set of a comparison.

    Attributes:
        dataset: full name.
        plans_name: the plan of all arms.
        plans: its content.
        about: dataset.json.
        folds: {number: cases}.
        subject_of: case -> subject.
        warnings: what the reader must know, leakage above all.
    """

    dataset: str
    plans_name: str
    plans: Mapping[str, Any]
    about: Mapping[str, Any]
    folds: Mapping[int, Fold]
    subject_of: Mapping[str, str]
    warnings: Sequence[str]

    @property
    def test_cases(self) -> list[str]:
        """Of all folds."""
        return sorted({case for fold in self.folds.values() for case in fold.test})


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run of stock nnUNetv2_train."""

    dataset: str
    arm: str
    labels: str
    fold: int
    replicate: int
    schedule: MeasuredSchedule

    @property
    def name(self) -> str:
        """Of its folder and log."""
        return f"{self.dataset}_{self.arm}_labels{self.labels}_fold{self.fold}_draw{self.replicate}"


def arm_names(request: Request) -> dict[str, Path | None]:
    """{arm: weights}; arms of checkpoints carry the name of what made them."""
    from nnssl.export.read import read_weights

    arms: dict[str, Path | None] = {SCRATCH: None}
    if request.equal_compute:
        arms[LONGER] = None
    for path in request.weights:
        name = str(read_weights(path).provenance.get("trainer", path.stem))
        same = sum(arm == name or arm.startswith(f"{name}_") for arm in arms)
        arms[f"{name}_{same + 1}" if same else name] = path
    return arms


def settle_target(given: str, request: Request, where: Folders) -> Target:
    """Check a target, its plan, its folds, and that no test case was pretrained on.

    Raises:
        NnsslError: whatever would fail later.
    """
    asked = Finetuning(
        target=given, configuration=request.configuration, fold="0", weights=request.weights[0],
        plans_name=request.plans_name,
    )  # fmt: skip
    plans_name = fitting_plans(where, asked)
    for weights in request.weights:
        dataset, plans = prepare_target(where, asked, plans_name, weights)
    raw = read_raw_dataset(dataset, where)
    home = where.preprocessed / dataset
    about = json.loads((home / "dataset.json").read_text())
    labelled = {path.name.removesuffix(about["file_ending"]) for path in (home / "gt_segmentations").glob("*")}
    subject_of = {case.case_id: case.subject for case in raw.cases if case.case_id in labelled}
    found = read_folds(home / "splits_final.json", sorted(subject_of), subject_of)
    if max(request.folds) >= len(found):
        raise UsageError(f"--folds {max(request.folds)}: {dataset} has the folds 0 to {len(found) - 1}.")
    folds = {number: found[number] for number in request.folds}
    tested = sorted({case for fold in folds.values() for case in fold.test})
    hashes = scan_hashes(dataset, tested, str(plans["image_reader_writer"]), where)
    warnings = [sentence for weights in request.weights for sentence in leaks(weights, hashes)]
    if warnings and request.strict:
        raise DataError(f"--strict: {warnings[0]} ({len(warnings)} such findings in {dataset}.)")
    return Target(
        dataset=dataset, plans_name=plans_name, plans=plans, about=about, folds=folds, subject_of=subject_of,
        warnings=warnings,
    )  # fmt: skip


def trainings(target: Target, request: Request, arms: Mapping[str, Path | None]) -> list[Training]:
    """All trainings of a target; writes the split files that they name. Arms of a draw share cases, seed and length."""
    made = []
    for number, fold in target.folds.items():
        for replicate in range(request.replicates):
            draws = nested(fold, target.subject_of, request.labels, seed=(0, number, replicate))
            for labels, cases in draws.items():
                split = _write_split(request.out / "splits", cases, fold.test)
                for arm in arms:
                    schedule = changed(MeasuredSchedule(), {"seed": replicate, **request.settings, "split": str(split)})
                    if arm == LONGER:
                        schedule = changed(schedule, {"epochs": longer_epochs(schedule, target, request)})
                    made.append(
                        Training(
                            dataset=target.dataset,
                            arm=arm,
                            labels=labels,
                            fold=number,
                            replicate=replicate,
                            schedule=schedule,
                        )
                    )
    return made


def longer_epochs(schedule: MeasuredSchedule, target: Target, request: Request) -> int:
    """Epochs that see as many voxels as pretraining and fine-tuning together, for the longest pretraining.

    Voxels of patches stand for hours: those of the pretraining were spent on another machine or another day.

    Raises:
        DataError: a weights file does not say how long it was trained.
    """
    from nnssl.export.read import read_weights

    chosen = target.plans["configurations"][request.configuration]
    per_epoch = schedule.iterations_per_epoch * int(chosen["batch_size"]) * math.prod(chosen["patch_size"])
    most = 0.0
    for path in request.weights:
        weights = read_weights(path)
        steps, batch = weights.provenance.get("steps"), weights.provenance.get("recipe", {}).get("batch_size")
        if not steps or not batch:
            raise DataError(
                f"--equal_compute needs steps and batch size of the pretraining, which {path} does not say."
            )
        most = max(most, steps * batch * math.prod(weights.configuration["patch_size"]) / per_epoch)
    return schedule.epochs + math.ceil(most)


def smallest_effects(cases: int) -> list[str]:
    """What so many test cases can show, in sentences, before anything is measured."""
    if cases < FEWEST_CASES:
        return [f"{cases} test cases cannot show any difference: at least {FEWEST_CASES} are needed for a claim."]
    normal = NormalDist()
    z = normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)
    return [
        f"If Dice differences vary by {100 * spread:g} points between cases, {cases} test cases show a gain of "
        f"{100 * z * spread / math.sqrt(cases):.1f} points or more with a chance of {POWER:.0%}, label draws apart."
        for spread in _SPREADS
    ]


def _write_split(folder: Path, train: Sequence[str], test: Sequence[str]) -> Path:
    """The name holds a digest: a training whose cases changed is another training."""
    text = json.dumps({"train": list(train), "val": list(test)})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    file.write_text(text)
    return file
