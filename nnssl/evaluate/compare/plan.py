"""What a comparison is made of: the request, its arms, its trainings, and what so many cases can show."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from nnssl.evaluate.finetune.schedule import MeasuredSchedule
from nnssl.evaluate.settings import changed
from nnssl.evaluate.statistics import CONFIDENCE, FEWEST_CASES, POWER, t_quantile
from nnssl.evaluate.subsets import Fold, nested
from nnssl.export.other import for_unet
from nnssl.export.read import Weights
from nnssl.export.sources import OURS, maker, read_any

SCRATCH, LONGER = "scratch", "scratch_longer"
CONTROLS = (SCRATCH, LONGER)
_SPREADS = (0.02, 0.05, 0.10)  # assumed standard deviations of the per-subject Dice differences
_DRAW_SPREAD = 0.02  # and of their mean from label draw to label draw
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]+")


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
        devices: where trainings run at the same time, all of one kind: "cpu", or "cuda" or "cuda:1".
        at_once: trainings at the same time on each device.
        strict: refuse where a test case was pretrained on.
        equal_compute: add an arm from scratch that is as much longer as the pretraining was long.
        tolerance_mm: of the normalised surface distance.
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
    devices: Sequence[str] = ("cpu",)
    at_once: int = 1
    strict: bool = False
    equal_compute: bool = False
    tolerance_mm: float = 2.0
    out: Path = Path("nnssl_compare")

    @property
    def device(self) -> str:
        """The kind of device: "cuda" or "cpu"."""
        return self.devices[0].partition(":")[0]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the contestants.

    Attributes:
        name: of folders and in the report.
        weights: what it starts from; None: from scratch.
        digest: sha256 of the weights file, "" from scratch.
    """

    name: str
    weights: Weights | None = None
    digest: str = ""

    @property
    def path(self) -> Path | None:
        """The weights file."""
        return None if self.weights is None else self.weights.path


@dataclass(frozen=True, kw_only=True)
class Target:
    """One labelled data set of a comparison.

    Attributes:
        dataset: full name.
        plans_name: the plan of all arms.
        plans: its content.
        chosen: the configuration with what it inherits.
        about: dataset.json.
        folds: {number: cases}.
        subject_of: case -> subject.
        warnings: what the reader must know, leakage above all.
    """

    dataset: str
    plans_name: str
    plans: Mapping[str, Any]
    chosen: Mapping[str, Any]
    about: Mapping[str, Any]
    folds: Mapping[int, Fold]
    subject_of: Mapping[str, str]
    warnings: Sequence[str]

    @property
    def test_cases(self) -> list[str]:
        """Of all folds."""
        return sorted({case for fold in self.folds.values() for case in fold.test})

    @property
    def test_subjects(self) -> list[str]:
        """Of all folds."""
        return sorted({self.subject_of[case] for case in self.test_cases})

    @property
    def classes(self) -> dict[str, tuple[int, ...]]:
        """Foreground name -> its values in the label maps, in order; nnU-Net's regions have several."""
        found = {name: tuple(value) if isinstance(value, list) else (int(value),) for name, value in self._labels()}
        return dict(sorted(found.items(), key=lambda item: (len(item[1]) > 1, max(item[1]))))

    def _labels(self) -> list[tuple[str, Any]]:
        labels = self.about["labels"].items()
        return [(name, value) for name, value in labels if name != "ignore" and value not in (0, [0])]

    @property
    def ignored(self) -> int | None:
        """The value of voxels that nobody labelled, if the data set has one."""
        value = self.about["labels"].get("ignore")
        return None if value is None else int(value)

    @property
    def channels(self) -> int:
        """Of the images."""
        return len(self.about.get("channel_names", self.about.get("modality", {})))

    @property
    def outputs(self) -> int:
        """Channels of the network's answer, as nnU-Net counts them: with regions there is none for the background."""
        regions = any(isinstance(value, list) and len(value) > 1 for value in self.about["labels"].values())
        return max(2, len(self.classes) + 1) if not regions else len(self.classes)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run of stock nnUNetv2_train."""

    dataset: str
    arm: str
    labels: str
    fold: int
    replicate: int
    cases: tuple[str, ...]
    schedule: MeasuredSchedule

    @property
    def name(self) -> str:
        """Of its folder and log."""
        return f"{self.dataset}_{self.arm}_labels{self.labels}_fold{self.fold}_draw{self.replicate}"


def make_arms(request: Request) -> dict[str, Contender]:
    """{name: arm}; arms of checkpoints are called after what made them.

    Raises:
        DataError: a file cannot be read.
    """
    arms = {SCRATCH: Contender(name=SCRATCH)}
    if request.equal_compute:
        arms[LONGER] = Contender(name=LONGER)
    for path in request.weights:
        weights = for_unet(read_any(path))
        name = _NOT_IN_NAMES.sub("-", _called(weights)).strip("-.") or "pretrained"
        same = sum(arm == name or arm.startswith(f"{name}_") for arm in arms)
        name = f"{name}_{same + 1}" if same else name
        arms[name] = Contender(name=name, weights=weights, digest=_digest(weights.path))
    return arms


def _called(weights: Weights) -> str:
    """The trainer of ours; of other makers' files the name, or the folder's where all files are called the same."""
    path = weights.path
    if maker(weights) == OURS:
        return str(weights.provenance.get("trainer", path.stem))
    if not path.stem.startswith("checkpoint"):
        return path.stem
    folder = path.parent.parent if path.parent.name.startswith("fold_") else path.parent
    return folder.name.split("__", maxsplit=1)[0]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trainings(
    target: Target, request: Request, arms: Mapping[str, Contender], *, longer_epochs: int | None
) -> list[Training]:
    """All trainings of a target; writes the split files that they name. Arms of a draw share cases, seed and length.

    Args:
        target: the data set.
        request: what was asked for.
        arms: the contestants.
        longer_epochs: of `LONGER`; None: not known yet, and its trainings are left out.
    """
    made = []
    for number, fold in target.folds.items():
        for replicate in range(request.replicates):
            draws = nested(fold, target.subject_of, request.labels, seed=(0, number, replicate))
            for labels, cases in draws.items():
                split = _write_split(request.out / "splits", cases, fold.test)
                schedule = changed(MeasuredSchedule(), {"seed": replicate, **request.settings, "split": str(split)})
                for arm in arms:
                    if arm == LONGER and longer_epochs is None:
                        continue
                    epochs = longer_epochs if arm == LONGER else schedule.epochs
                    made.append(
                        Training(
                            dataset=target.dataset, arm=arm, labels=labels, fold=number, replicate=replicate,
                            cases=tuple(cases), schedule=changed(schedule, {"epochs": epochs}),
                        )
                    )  # fmt: skip
    return made


def smallest_effects(subjects: int, draws: int) -> list[str]:
    """What so many test subjects and label draws can show, in sentences, before anything is measured."""
    if subjects < FEWEST_CASES:
        return [f"{subjects} test subjects cannot show any difference: at least {FEWEST_CASES} are needed for a claim."]
    normal = NormalDist()
    z = normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)
    made = [
        f"If Dice differences vary by {100 * spread:g} points between subjects, {subjects} test subjects show a gain "
        f"of {100 * z * spread / math.sqrt(subjects):.1f} points or more with a chance of {POWER:.0%}, label draws "
        f"apart."
        for spread in _SPREADS
    ]
    if draws == 1:
        return [*made, "One label draw cannot show how much draws vary: any claim will be about that draw alone."]
    least = (t_quantile((1 + CONFIDENCE) / 2, draws - 1) + t_quantile(POWER, draws - 1)) * _DRAW_SPREAD
    made.append(
        f"If they also vary by {100 * _DRAW_SPREAD:g} points between label draws, {draws} draws show no gain below "
        f"{100 * least / math.sqrt(draws):.1f} points, however many test subjects there are."
    )
    return made


def _write_split(folder: Path, train: Sequence[str], test: Sequence[str]) -> Path:
    """The name holds a digest: a training whose cases changed is another training."""
    text = json.dumps({"train": list(train), "val": list(test)})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not file.is_file():
        file.write_text(text)
    return file
