"""The two data sets of the demonstration in nnU-Net's layout, from phantoms. The real-scan twin is `task_folder.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.demo.phantoms import LABELS, Phantom, make_phantom

PRETRAIN, TARGET = 745, 746
UNLABELLED_SUBJECTS, TRAINING_SUBJECTS, TEST_SUBJECTS = 40, 5, 16


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """What the demonstration works on; saved as `cohort.json`.

    Attributes:
        source: where the scans come from, in words.
        pretraining: name of the unlabelled data set ("Dataset745_Phantoms").
        target: name of the labelled one.
        training: labelled cases to fine-tune on, in the order in which few-label runs take them.
        test: labelled cases of other subjects, seen by no training.
        labels: name -> value, background included.
        unlabelled: number of unlabelled cases.
    """

    source: str
    pretraining: str
    target: str
    training: tuple[str, ...]
    test: tuple[str, ...]
    labels: Mapping[str, int]
    unlabelled: int

    def save(self, path: Path) -> None:
        """Write `cohort.json`."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> Cohort:
        """Read what `save` wrote."""
        values = json.loads(path.read_text())
        return Cohort(**{**values, "training": tuple(values["training"]), "test": tuple(values["test"])})

    @property
    def organs(self) -> tuple[str, ...]:
        """Foreground names in order of their value."""
        return tuple(sorted((name for name, value in self.labels.items() if value), key=lambda name: self.labels[name]))


def make_phantom_cohort(
    raw: Path,
    *,
    unlabelled: int = UNLABELLED_SUBJECTS,
    training: int = TRAINING_SUBJECTS,
    test: int = TEST_SUBJECTS,
    spacing_mm: float = 4.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cohort:
    """Write both data sets under `raw` and say what is in them. Subjects are never shared between the three parts.

    Args:
        raw: nnU-Net's raw folder.
        unlabelled: subjects for pretraining.
        training: labelled subjects to fine-tune on.
        test: labelled subjects to measure on.
        spacing_mm: voxel size of the phantoms.
        progress: called with (subjects written, all subjects).
    """
    total = unlabelled + training + test
    cohort = Cohort(
        source=f"{total} generated CT-like phantoms (nnssl.demo.phantoms), {spacing_mm:g} mm",
        pretraining=f"Dataset{PRETRAIN}_Phantoms",
        target=f"Dataset{TARGET}_PhantomOrgans",
        training=tuple(f"subject_{unlabelled + k:03d}" for k in range(training)),
        test=tuple(f"subject_{unlabelled + training + k:03d}" for k in range(test)),
        labels=LABELS,
        unlabelled=unlabelled,
    )
    for seed in range(total):
        phantom = make_phantom(seed, spacing_mm=spacing_mm)
        name = f"subject_{seed:03d}"
        if seed < unlabelled:
            write_scan(raw / cohort.pretraining / "imagesTr" / f"{name}_0000.nii.gz", phantom.image, phantom)
        else:
            write_scan(raw / cohort.target / "imagesTr" / f"{name}_0000.nii.gz", phantom.image, phantom)
            write_scan(raw / cohort.target / "labelsTr" / f"{name}.nii.gz", phantom.labels, phantom)
        progress(seed + 1, total)
    write_dataset_json(raw / cohort.pretraining, channels=("CT",), labels={"background": 0}, cases=unlabelled)
    write_dataset_json(raw / cohort.target, channels=("CT",), labels=LABELS, cases=training + test)
    return cohort


def write_scan(path: Path, array: npt.NDArray[np.generic], phantom: Phantom) -> None:
    """Write (D, H, W) voxels with the phantom's spacing."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(tuple(reversed(phantom.spacing_mm)))
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def write_dataset_json(
    folder: Path,
    *,
    channels: Sequence[str],
    labels: Mapping[str, int],
    cases: int,
    subjects: Mapping[str, str] | None = None,
) -> None:
    """Write nnU-Net's `dataset.json`; `subjects` (case -> subject) only where a subject has several cases."""
    content: dict[str, Any] = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": dict(labels),
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    if subjects:
        content["subjects"] = dict(subjects)
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n")
