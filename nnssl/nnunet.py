"""The one door to nnU-Net: what the rest of the package uses of it, imported late.

Importing nnU-Net takes seconds, and its `paths` module reads the environment at import; so nothing here imports it at
module level, and `nnssl.paths` must have set the folders before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def build_network(
    architecture: Mapping[str, Any], *, channels: int, classes: int, deep_supervision: bool = False
) -> nn.Module:
    """A freshly initialised network of a plans file's `architecture` block, by nnU-Net's own builder.

    Args:
        architecture: the block with `network_class_name`, `arch_kwargs` and `_kw_requires_import`.
        channels: input channels.
        classes: segmentation outputs.
        deep_supervision: whether forward returns one output per decoder level.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    network: nn.Module = get_network_from_plans(
        architecture["network_class_name"],
        dict(architecture["arch_kwargs"]),
        architecture["_kw_requires_import"],
        channels,
        classes,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    return network


def blosc2_layout(
    shape: Sequence[int], patch_size: Sequence[int], bytes_per_voxel: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Block and chunk shape of a (C, D, H, W) array, as nnU-Net's own store chooses them."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    blocks, chunks = comp_blosc2_params(tuple(shape), tuple(patch_size), bytes_per_voxel)
    return tuple(blocks), tuple(chunks)
