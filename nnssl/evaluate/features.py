"""Features of whole images from a frozen pretrained network: one vector an image, and its maps where they are wanted.

An image goes the way of preprocessing: the same reader, axes, crop to nonzero, normalisation and resampling as in
pretraining, all of which the weights file tells. The network then sees windows of the pretraining's patch size, because
instance norm makes a feature depend on how much is seen at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nnssl.errors import DataError
from nnssl.evaluate.tiling import pieces
from nnssl.export.load import PretrainedEncoder, PretrainedOther, PretrainedPyramid
from nnssl.export.read import Weights
from nnssl.planning.grid import CasePlan, case_plan
from nnssl.planning.preprocess import OnGrid, onto_grid
from nnssl.planning.reading import read_image

_NEEDED = (
    "data_identifier", "spacing", "patch_size", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data",
    "resampling_fn_data_kwargs",
)  # fmt: skip
_NEEDED_OF_PLANS = (
    "plans_name", "image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel",
)  # fmt: skip


@dataclass(frozen=True)
class Embedding:
    """Features of one image.

    Attributes:
        levels: per level (C_k,) float32, the mean over all cells of its map that touch the image.
        maps: {level: (C_k, d, h, w) float32}, those that were asked for; cell i covers voxels i*s to i*s + s - 1.
    """

    levels: tuple[Tensor, ...]
    maps: dict[int, Tensor]

    @property
    def vector(self) -> Tensor:
        """(sum of C_k,) all levels side by side, finest first."""
        return torch.cat(self.levels)


def preparation(weights: Weights) -> CasePlan:
    """How images are prepared for these weights.

    Raises:
        DataError: the file does not say all of it.
    """
    missing = [key for key in _NEEDED if key not in weights.configuration]
    missing += [key for key in _NEEDED_OF_PLANS if key not in weights.plans]
    if missing:
        raise DataError(
            f"{weights.path} does not say how its images were prepared ({', '.join(missing[:3])} missing), so features "
            f"of an image would mean little. Files of nnssl and of stock nnU-Net say it."
        )
    (name,) = weights.plans["configurations"]
    return case_plan(weights.plans, name)


def prepare(files: Sequence[Path], plan: CasePlan) -> OnGrid:
    """One case as the network saw cases in pretraining.

    Args:
        files: one per channel, in order.
        plan: from `preparation`.

    Raises:
        DataError: a file cannot be used, or the number of channels is another.
    """
    check_channels(files, plan)
    return onto_grid(read_image(files, plan.reader), plan)


def check_channels(files: Sequence[Path], plan: CasePlan) -> None:
    """Refuse a case of more or fewer files than the network has channels.

    Raises:
        DataError: the number of channels is another.
    """
    if len(files) != len(plan.schemes):
        raise DataError(
            f"The weights take {len(plan.schemes)} channel(s), so {len(plan.schemes)} file(s) a case; "
            f"{', '.join(map(str, files))} are {len(files)}."
        )


def embed(
    network: PretrainedEncoder | PretrainedPyramid | PretrainedOther,
    image: Tensor,
    *,
    keep: Collection[int] = (),
    largest: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Embedding:
    """Features of one prepared image.

    Args:
        network: from `nnssl.load_encoder` or `nnssl.load_pyramid`; it is not changed.
        image: (C, D, H, W) as `prepare` gives it, any size.
        keep: levels whose maps are wanted, 0 the finest (which is as large as the image).
        largest: D H W of a window, voxels; None: the pretraining's patch.
        device: where the network is.
    """
    sizes = [
        tuple(math.ceil(side / step) for side, step in zip(image.shape[1:], steps, strict=True))
        for steps in network.strides
    ]
    sums = [torch.zeros(width, dtype=torch.float64) for width in network.channels]
    maps = {level: torch.empty(network.channels[level], *sizes[level]) for level in keep}
    for piece in pieces(network, image, largest=largest or network.patch_size, device=device):
        for level, (found, start) in enumerate(zip(piece.maps, piece.starts, strict=True)):
            # cells beyond the image are cut: they saw only its repeated border
            ends = [min(a + n, side) for a, n, side in zip(start, found.shape[1:], sizes[level], strict=True)]
            inside = found[:, *(slice(0, max(0, b - a)) for a, b in zip(start, ends, strict=True))].float()
            sums[level] += inside.sum(dim=(1, 2, 3)).cpu().double()
            if level in maps:
                maps[level][:, *(slice(a, max(a, b)) for a, b in zip(start, ends, strict=True))] = inside.cpu()
    levels = tuple((total / math.prod(size)).float() for total, size in zip(sums, sizes, strict=True))
    return Embedding(levels, maps)
