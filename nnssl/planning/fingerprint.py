"""The data set's fingerprint in nnU-Net's JSON schema, without labels.

The body (CT) or the nonzero region (others) stands in for nnU-Net's labelled foreground. Voxels are sampled per case by
a generator keyed with the case's name, and cases are taken in the order of their names, so that neither the order of
files nor the number of workers changes the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.planning.bodymask import foreground
from nnssl.planning.cases import RawFiles
from nnssl.planning.checks import check_values
from nnssl.planning.cropping import crop, nonzero_box
from nnssl.planning.reading import read_image

# 10^7 samples of the data set and at most 10^5 of a case give percentiles 0.5 and 99.5 to far below a grey level
SAMPLES_PER_DATASET = 10_000_000
SAMPLES_PER_CASE = 100_000
# The foreground is found on a lattice of at most this many voxels: intensities need no exact outline
_LATTICE_VOXELS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class CaseStatistics:
    """What one case tells the planner.

    Attributes:
        case_id: its name.
        shape: D H W after cropping to the nonzero box.
        spacing_mm: D H W.
        relative_size: voxels after cropping over voxels before.
        samples: (C, n) float32 foreground intensities, drawn with replacement so that every case weighs the same.
    """

    case_id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    relative_size: float
    samples: npt.NDArray[np.float32]


def samples_per_case(cases: int) -> int:
    """How many foreground voxels to draw from each case."""
    return max(1000, min(SAMPLES_PER_CASE, SAMPLES_PER_DATASET // max(1, cases)))


def case_statistics(case: RawFiles, modality: Sequence[str], reader: str, samples: int) -> CaseStatistics:
    """Read one case and summarise it.

    Raises:
        DataError: the case cannot be used.
    """
    image = read_image(case.files, reader)
    check_values(case.case_id, image.data, modality, case.accepted)
    cropped = crop(image.data, nonzero_box(image.data))
    stride = _lattice_stride(cropped.shape[1:])
    lattice = cropped[:, :: stride[0], :: stride[1], :: stride[2]]
    inside = lattice[:, foreground(lattice, modality)]
    seed = int.from_bytes(hashlib.sha256(case.case_id.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).integers(inside.shape[1], size=samples)
    d, h, w = cropped.shape[1:]
    return CaseStatistics(
        case_id=case.case_id,
        shape=(d, h, w),
        spacing_mm=image.spacing_mm,
        relative_size=float(cropped[0].size / image.data[0].size),
        samples=inside[:, drawn],
    )


def fingerprint(statistics: Sequence[CaseStatistics]) -> dict[str, Any]:
    """dataset_fingerprint.json of these cases."""
    ordered = sorted(statistics, key=lambda case: case.case_id)
    channels = np.concatenate([case.samples for case in ordered], axis=1)
    return {
        "foreground_intensity_properties_per_channel": {
            str(channel): _properties(values) for channel, values in enumerate(channels)
        },
        "median_relative_size_after_cropping": float(np.median([case.relative_size for case in ordered])),
        "shapes_after_crop": [list(case.shape) for case in ordered],
        "spacings": [list(case.spacing_mm) for case in ordered],
    }


def _properties(values: npt.NDArray[np.float32]) -> Mapping[str, float]:
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "max": float(values.max()),
        "mean": float(values.mean(dtype=np.float64)),
        "median": float(median),
        "min": float(values.min()),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
        "std": float(values.std(dtype=np.float64)),
    }


def _lattice_stride(shape: Sequence[int]) -> list[int]:
    stride = [1, 1, 1]
    while np.prod([-(-side // step) for side, step in zip(shape, stride, strict=True)]) > _LATTICE_VOXELS:
        finest = int(np.argmax([side / step for side, step in zip(shape, stride, strict=True)]))
        stride[finest] += 1
    return stride
