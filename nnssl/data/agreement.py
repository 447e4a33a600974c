"""Whether several data sets can be trained on together: same channels, spacing and normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnssl.data.case import CaseEntry, Constants
from nnssl.errors import DataError

SPACING_TOLERANCE = 0.05  # a grid is rounded to whole voxels, so cases of one plan differ by a few percent at most
SCALE_TOLERANCE = 1e-3
PER_DATA_SET = ("CTNormalization",)  # schemes whose constants come from the data set, not from the case


def check_agreement(groups: Sequence[Sequence[CaseEntry]], *, raw: bool) -> tuple[str, ...]:
    """Refuse data sets whose voxels mean different things; what cannot be checked comes back as sentences.

    Args:
        groups: the cases of each data set.
        raw: raw values will be read, so the normalisation does not matter.

    Raises:
        DataError: naming the two data sets, what differs and how to plan them alike.
    """
    first, notes = groups[0], []
    for other in groups[1:]:
        _check_channels(first, other)
        _check_spacing(first, other)
        if not raw:
            notes += _check_normalisation(first, other)
    return tuple(notes)


def _check_channels(first: Sequence[CaseEntry], other: Sequence[CaseEntry]) -> None:
    found = sorted({entry.channels for entry in (*first, *other)})
    if len(found) > 1:
        raise _refusal(first, other, f"the same number of channels; found {' and '.join(map(str, found))}")


def _check_spacing(first: Sequence[CaseEntry], other: Sequence[CaseEntry]) -> None:
    here, there = (np.median([entry.spacing_mm for entry in group], axis=0) for group in (first, other))
    if np.any(np.abs(here / there - 1) > SPACING_TOLERANCE):
        raise _refusal(first, other, f"the same voxel spacing; found {_numbers(here)} and {_numbers(there)} mm")


def _check_normalisation(first: Sequence[CaseEntry], other: Sequence[CaseEntry]) -> list[str]:
    here, there = first[0].constants, other[0].constants
    if not here or not there:
        return [
            f"Whether {first[0].dataset} and {other[0].dataset} were normalised alike cannot be checked: one of them "
            f"was not preprocessed by nnssl_plan_and_preprocess."
        ]
    for channel, (one, two) in enumerate(zip(here, there, strict=True)):
        if one.scheme != two.scheme:
            raise _refusal(first, other, f"one normalisation; channel {channel} has {one.scheme} and {two.scheme}")
        if one.scheme in PER_DATA_SET and not _alike(one, two):
            raise _refusal(
                first,
                other,
                f"one set of intensity constants; channel {channel} has mean {one.offset:.5g}, sd {one.scale:.5g} and "
                f"mean {two.offset:.5g}, sd {two.scale:.5g}",
            )
    return []


def _alike(one: Constants, two: Constants) -> bool:
    """Whether two normalisations give the same numbers, to a thousandth of a standard deviation."""
    pairs = [(one.offset, two.offset), (one.scale, two.scale), (one.lower, two.lower), (one.upper, two.upper)]
    return all(
        a == b or (a is not None and b is not None and abs(a - b) <= SCALE_TOLERANCE * max(one.scale, two.scale))
        for a, b in pairs
    )


def _refusal(first: Sequence[CaseEntry], other: Sequence[CaseEntry], what: str) -> DataError:
    one, two = first[0].dataset, other[0].dataset
    return DataError(
        f"{one} and {two} can be trained on together only with {what}. Plan the second like the first: "
        f"nnssl_plan_and_preprocess -d {dataset_id(two)} -target {dataset_id(one)}"
    )


def dataset_id(dataset: str) -> str:
    """ "745" of "Dataset745_Thorax"; other names as they are."""
    number = dataset.removeprefix("Dataset").split("_")[0]
    return str(int(number)) if number.isdigit() else dataset


def _numbers(values: Iterable[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
