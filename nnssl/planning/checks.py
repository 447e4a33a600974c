"""What the voxels of a scan betray: nearly empty, labels in place of an image, a CT in other units.

`nnssl_ingest` and `nnssl_plan_and_preprocess` judge by these same functions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.errors import DataError, UsageError
from nnssl.planning.refusal import Refused

# the reasons that `findings` gives, and the one that takes a look at the other cases
JUDGEMENTS = ("near_empty", "label_map", "ct_not_hu", "duplicate")
Volume = npt.NDArray[Any]
_LATTICE_VOXELS = 200_000  # shares of a volume are seen well enough on a lattice
_EMPTY = 0.999  # share of one value from which on nothing is left to learn from
_LABELS_AT_MOST = 64  # distinct values; multi-organ label maps have up to about 120, most of them absent in a scan
_LABELS_ALIKE = 0.9  # share of neighbours with one value: 0.97 and more in label maps, below 0.7 in coarse images
_LABEL_VOXELS = 1000  # smaller volumes have few values whatever they show
_HU_RANGE = 50.0  # Hounsfield values of a body span hundreds; windowed and scaled ones 1 or 2
_HU_LIMITS = (-33_000.0, 70_000.0)  # scanners store 16 bits; metal reaches 65,535 on extended scales


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against a scan.

    Attributes:
        reason: its name in `refusal.REASONS`.
        sentence: what was found, without the name of the file.
    """

    reason: str
    sentence: str


def findings(voxels: Volume, modality: str) -> list[Finding]:
    """Everything that speaks against one channel.

    Args:
        voxels: (D, H, W) finite and not constant.
        modality: of the channel; "ct" in any case makes the values Hounsfield units.
    """
    values, counts = np.unique(_lattice(voxels), return_counts=True)
    found = []
    if counts.max() > _EMPTY * counts.sum():
        common = values[counts.argmax()]
        share = float((voxels == common).mean())
        if share > _EMPTY:
            found.append(Finding("near_empty", f"{100 * share:.2f} % of its voxels are {common:g}"))
    if _is_binary(voxels, values):
        found.append(Finding("label_map", f"it has two values only ({values[0]:g} and {values[1]:g}), like a mask"))
    elif _labels(voxels, values):
        found.append(Finding("label_map", f"it has {len(values)} values, whole numbers in even patches, like labels"))
    if modality.lower() == "ct":
        found += _not_hounsfield(float(voxels.min()), float(voxels.max()))
    return found


def check_values(case_id: str, data: npt.NDArray[Any], modality: Sequence[str], accepted: Collection[str]) -> None:
    """Refuse a case for the first finding that nobody accepted.

    Args:
        case_id: for the message.
        data: (C, D, H, W).
        modality: per channel.
        accepted: names of reasons.

    Raises:
        Refused: with the reason's name and how to accept it.
    """
    if data.shape[0] != len(modality):
        raise DataError(f"Case {case_id} has {data.shape[0]} channels; dataset.json names {len(modality)}.")
    for channel, (voxels, name) in enumerate(zip(data, modality, strict=True)):
        for finding in findings(voxels, name):
            if finding.reason not in accepted:
                which = f" (channel {channel})" if len(modality) > 1 else ""
                raise Refused(
                    finding.reason,
                    f"Case {case_id}{which} was refused as {finding.reason}: {finding.sentence}. Remove it, or take it "
                    f"all the same: --accept {finding.reason}.",
                )


def checked_judgements(names: Collection[str]) -> frozenset[str]:
    """Names given to `--accept` of a command that repairs nothing.

    Raises:
        UsageError: a name that is none of `JUDGEMENTS`.
    """
    unknown = sorted({*names} - {*JUDGEMENTS})
    if unknown:
        raise UsageError(
            f"--accept takes {', '.join(JUDGEMENTS)} here, not {unknown[0]!r}; nnssl_ingest --accept can do more."
        )
    return frozenset(names)


def _lattice(voxels: Volume) -> Volume:
    """Every n-th voxel along every axis."""
    step = max(1, round((voxels.size / _LATTICE_VOXELS) ** (1 / 3)))
    steps = [min(step, max(1, side // 2)) for side in voxels.shape]
    return voxels[tuple(slice(None, None, each) for each in steps)]


def _is_binary(voxels: Volume, values: Volume) -> bool:
    """Whether there are two values only, in whatever patches: a mask, or a threshold's."""
    if voxels.size < _LABEL_VOXELS or len(values) != 2:
        return False
    return all(bool(((plane == values[0]) | (plane == values[1])).all()) for plane in voxels)


def _labels(voxels: Volume, values: Volume) -> bool:
    if voxels.size < _LABEL_VOXELS or len(values) > _LABELS_AT_MOST or values[0] < 0:
        return False
    if not np.array_equal(values, np.rint(values)):
        return False
    planes = voxels[:: max(1, len(voxels) // 16)]
    return float((planes[..., 1:] == planes[..., :-1]).mean()) > _LABELS_ALIKE


def _not_hounsfield(low: float, high: float) -> list[Finding]:
    if low >= 0:
        why = "no value is below 0, but air and fat are"
    elif high - low < _HU_RANGE:
        why = "the range is that of scaled values"
    elif low < _HU_LIMITS[0] or high > _HU_LIMITS[1]:
        why = "no scanner stores such values"
    else:
        return []
    return [Finding("ct_not_hu", f"its values go from {low:g} to {high:g}, which are no Hounsfield units: {why}")]
