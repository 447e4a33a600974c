"""Real scans to compare on: which are pretrained on without labels, which fine-tuned, which tested."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNLABELLED, LABELLED = "Dataset745_Unlabelled", "Dataset004_Labelled"
TRAINING_SUBJECTS = 12
TUNING_SUBJECTS = 4  # of those, held out in the fold that schedules are chosen on


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """One task's scans.

    Attributes:
        channel: as in dataset.json; "CT" is normalised as CT.
        classes: name to value, without background.
        unlabelled: images to pretrain on.
        images, labels: files by case.
        subjects: who a case is of.
        case_voxels, patch_limit: of the plan made small, see `small_plan`.
    """

    channel: str
    classes: Mapping[str, int]
    unlabelled: Sequence[Path]
    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    subjects: Mapping[str, str]
    case_voxels: int
    patch_limit: int

    def write(self, raw: Path) -> None:
        """Both nnU-Net data sets, as `UNLABELLED` and `LABELLED`."""
        for name, files in ((UNLABELLED, self.unlabelled), (LABELLED, list(self.images.values()))):
            (raw / name / "imagesTr").mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, raw / name / "imagesTr")
        (raw / LABELLED / "labelsTr").mkdir(exist_ok=True)
        for file in self.labels.values():
            shutil.copy(file, raw / LABELLED / "labelsTr")
        about = {"channel_names": {"0": self.channel}, "file_ending": ".nii.gz"}
        unlabelled = about | {"labels": {"background": 0}, "numTraining": len(self.unlabelled)}
        labelled = about | {
            "labels": {"background": 0, **self.classes},
            "numTraining": len(self.images),
            "subjects": dict(self.subjects),
        }
        for name, content in ((UNLABELLED, unlabelled), (LABELLED, labelled)):
            (raw / name / "dataset.json").write_text(json.dumps(content))

    def folds(self) -> list[dict[str, list[str]]]:
        """Fold 0 tests on the subjects that never train. Fold 1 is for choosing a schedule: the same subjects that
        train, some of them held out."""
        everyone = sorted(set(self.subjects.values()))
        random.Random(0).shuffle(everyone)
        training, test = everyone[:TRAINING_SUBJECTS], everyone[TRAINING_SUBJECTS:]
        tuning = training[-TUNING_SUBJECTS:]
        parts = ((training, test), ([one for one in training if one not in tuning], tuning))
        return [{"train": self._of(train), "val": self._of(val)} for train, val in parts]

    def _of(self, subjects: Sequence[str]) -> list[str]:
        """The cases of subjects."""
        return sorted(case for case, subject in self.subjects.items() if subject in subjects)


def hippocampus(source: Path) -> Cohort:
    """MSD Task04 with its splits.json: MR crops; ids 2k-1 and 2k are the two sides of one subject."""
    split: dict[str, Any] = json.loads((source / "splits.json").read_text())
    cases = sorted(split["fine_tune_labelled"])
    return Cohort(
        channel="MRI",
        classes={"anterior": 1, "posterior": 2},
        unlabelled=[source / "imagesTr" / f"{case}_0000.nii.gz" for case in split["pretrain_unlabelled"]],
        images={case: source / "imagesTr" / f"{case}_0000.nii.gz" for case in cases},
        labels={case: source / "labelsTr" / f"{case}.nii.gz" for case in cases},
        subjects={case: f"s{(int(case[-3:]) + 1) // 2:03d}" for case in cases},
        case_voxels=90_000,
        patch_limit=40,
    )


def head_neck(source: Path) -> Cohort:
    """OpenKBP: head-neck CT with five organs, two of them a left and a right one; planned at about 4 mm."""
    labels = {file.name.removesuffix(".nii.gz"): file for file in sorted((source / "labelsTr").iterdir())}
    return Cohort(
        channel="CT",
        classes={"brainstem": 1, "spinal_cord": 2, "right_parotid": 3, "left_parotid": 4, "mandible": 5},
        unlabelled=sorted((source / "imagesUn").iterdir()),
        images={case: source / "imagesTr" / f"{case}_0000.nii.gz" for case in labels},
        labels=labels,
        subjects={case: case for case in labels},
        case_voxels=600_000,
        patch_limit=48,
    )


def cohort_of(source: Path) -> Cohort:
    """The cohort that a folder holds."""
    if (source / "imagesUn").is_dir():
        return head_neck(source)
    if (source / "splits.json").is_file():
        return hippocampus(source)
    sys.exit(f"{source} holds neither OpenKBP (imagesUn) nor Task04_Hippocampus (splits.json).")
