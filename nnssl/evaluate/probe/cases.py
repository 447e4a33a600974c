"""Labelled cases of a preprocessed data set for a probe: what its classes are, patches around them, whole cases.

Reads what nnU-Net's preprocessing left (CASE.b2nd, CASE_seg.b2nd), never its pickles. Everything is read by box, so
that memory does not grow with the data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.data.store import read_box, read_header
from nnssl.engine.randomness import numpy_generator
from nnssl.errors import DataError

ANCHORS = 2000  # voxels remembered a case and class
ANCHORED = 0.5  # share of patches around a voxel of the step's class, vox2vec's


@dataclass(frozen=True)
class Label:
    """One class: the voxels whose number is among `numbers`; regions of nnU-Net may overlap."""

    name: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The classes of a data set, and the number of voxels whose label nobody knows, or None."""

    classes: tuple[Label, ...]
    ignore: int | None

    def targets(self, numbers: npt.NDArray[np.integer]) -> tuple[Tensor, Tensor]:
        """(K, D, H, W) and (1, D, H, W) float32 from (D, H, W) numbers: the classes, and where they are known.

        Negative numbers are what nnU-Net's preprocessing writes outside the body.
        """
        masks = np.stack([np.isin(numbers, one.numbers) for one in self.classes]).astype(np.float32)
        known = numbers >= 0
        if self.ignore is not None:
            known &= numbers != self.ignore
        return torch.from_numpy(masks), torch.from_numpy(known.astype(np.float32))[None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A preprocessed labelled case.

    Attributes:
        name: of the case.
        image: file of (C, D, H, W) normalised values.
        labels: file of (1, D, H, W) numbers.
        size: D H W.
        anchors: per class (P, 3) voxels of it, at most `ANCHORS`.
    """

    name: str
    image: Path
    labels: Path
    size: tuple[int, int, int]
    anchors: tuple[npt.NDArray[np.int32], ...]

    def whole(self) -> tuple[Tensor, npt.NDArray[np.int64]]:
        """(C, D, H, W) float32 image and (D, H, W) numbers."""
        image, numbers = (read_box(file, (0, 0, 0), self.size) for file in (self.image, self.labels))
        return torch.from_numpy(image.astype(np.float32)), numbers[0].astype(np.int64)


@dataclass(frozen=True)
class Patches:
    """Some patches of one case: images (N, C, D, H, W), targets (N, K, ..), known (N, 1, ..), float32."""

    images: Tensor
    targets: Tensor
    known: Tensor


def read_labels(about: Mapping[str, Any], source: Path) -> Labels:
    """The classes that dataset.json names: labels, or regions as lists of labels; the background is none.

    Raises:
        DataError: there is no class.
    """
    classes, ignore = [], None
    for name, given in about.get("labels", {}).items():
        numbers = tuple(int(number) for number in (given if isinstance(given, list | tuple) else [given]))
        if name == "ignore":
            ignore = numbers[0]
        elif name != "background" and numbers != (0,):
            classes.append(Label(str(name), numbers))
    if not classes:
        raise DataError(f"{source} names no class besides the background; a probe needs a labelled data set.")
    return Labels(classes=tuple(classes), ignore=ignore)


def read_case(folder: Path, name: str, labels: Labels, *, seed: int) -> Case:
    """A case of the preprocessed `folder`; looks once at all its labels.

    Raises:
        DataError: a file is missing or damaged, or image and labels differ in size.
    """
    image, numbers = folder / f"{name}.b2nd", folder / f"{name}_seg.b2nd"
    for file in (image, numbers):
        if not file.is_file():
            raise DataError(f"{file} is missing. Preprocess the labelled data set with nnUNetv2_preprocess.")
    (_, *sides), _ = read_header(image)
    (_, *others), _ = read_header(numbers)
    if sides != others:
        raise DataError(f"{image} has {sides} voxels and {numbers} has {others}. Preprocess case {name} again.")
    size = (sides[0], sides[1], sides[2])
    values = read_box(numbers, (0, 0, 0), size)[0]
    known = values >= 0 if labels.ignore is None else (values >= 0) & (values != labels.ignore)
    anchors = []
    for index, label in enumerate(labels.classes):
        found = np.argwhere(np.isin(values, label.numbers) & known).astype(np.int32)
        if len(found) > ANCHORS:
            found = found[numpy_generator(seed, index, "anchors", name).choice(len(found), ANCHORS, replace=False)]
        anchors.append(found)
    return Case(name=name, image=image, labels=numbers, size=size, anchors=tuple(anchors))


def draw_patches(case: Case, labels: Labels, *, size: Sequence[int], count: int, rng: np.random.Generator) -> Patches:
    """Patches of one case. One class is drawn; a patch holds a random voxel of it with a chance of `ANCHORED`.

    A patch that holds a voxel lies uniformly among those inside the case that do; another one lies anywhere. Cases
    smaller than a patch are continued by their border, which is not known. Patches drawn at one place are one patch:
    a case no larger than a patch has one only.

    Args:
        case: where from; a class it lacks is not drawn.
        labels: what its numbers mean.
        size: D H W of a patch.
        count: patches, at most.
        rng: of all draws.
    """
    present = [anchors for anchors in case.anchors if len(anchors)]
    anchors = present[rng.integers(len(present))] if present else np.empty((0, 3), np.int32)
    places = []
    for _ in range(count):
        last = np.maximum(np.array(case.size) - size, 0)
        low, high = np.zeros(3, np.int64), last
        if len(anchors) and rng.random() < ANCHORED:
            anchor = anchors[rng.integers(len(anchors))]
            low, high = np.clip(anchor - np.array(size) + 1, 0, last), np.clip(anchor, 0, last)
        places.append(tuple(rng.integers(low, high + 1).tolist()))
    drawn = []
    for place in dict.fromkeys(places):
        lower = np.array(place)
        upper = np.minimum(lower + size, case.size)
        image = torch.from_numpy(read_box(case.image, lower.tolist(), upper.tolist()).astype(np.float32))
        targets, known = labels.targets(read_box(case.labels, lower.tolist(), upper.tolist())[0].astype(np.int64))
        missing = np.array(size) - (upper - lower)
        padding = [n for side in reversed(missing.tolist()) for n in (0, side)]
        drawn.append((F.pad(image[None], padding, mode="replicate")[0], F.pad(targets, padding), F.pad(known, padding)))
    return Patches(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))
