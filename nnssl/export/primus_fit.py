"""Fits a pretrained Primus to a target: positions to its patch, embedding to its channels; its decoder starts fresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nnssl.encoders.tokens import grid_of, resized
from nnssl.errors import ExportError, PlanError
from nnssl.export.fit import Fit, How, Moved
from nnssl.export.primus import patch_of, size_of, trainer_of
from nnssl.export.proof import prove_in
from nnssl.export.read import Weights
from nnssl.export.rows import Commands, Row, by
from nnssl.export.rules import channel_mixing, mix_channels
from nnssl.export.tensors import unwrapped
from nnssl.nnunet import build_primus, segmentation_heads

if TYPE_CHECKING:
    from nnssl.export.fitted import TargetPlan

ENCODER = ("down_projection.", "eva.", "mask_token")
DECODER = ("up_projection.",)
_FRESH = "nnU-Net's decoder of Primus is made for the target's classes"


def target_primus(weights: Weights, target: TargetPlan, *, seed: int) -> nn.Module:
    """What nnU-Net's Primus trainer of this size builds for the target, with initial values of the seed alone.

    Raises:
        ExportError: the patch cannot be cut into tokens, or dataset.json does not say the classes.
    """
    if not target.dataset_json:
        raise ExportError(
            f"Primus's decoder depends on the number of classes, and there is no dataset.json of "
            f"{target.plans['dataset_name']} that says it."
        )
    try:
        grid_of(target.chosen["patch_size"])
        classes = segmentation_heads(target.plans, target.dataset_json)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_primus(
                size_of(weights), patch_size=target.chosen["patch_size"], channels=target.channels, classes=classes
            )
    except PlanError as error:
        raise ExportError(
            f"Primus is not built for {target.plans['plans_name']} ({target.configuration}) of "
            f"{target.plans['dataset_name']}: {error}"
        ) from error


def fit_primus(
    weights: Weights, target: TargetPlan, *, channels: Sequence[int] | None, seed: int
) -> tuple[nn.Module, Fit]:
    """The target's freshly initialised network, and the weights fitted to it (not yet loaded).

    Raises:
        ExportError: nnU-Net cannot build the network, or the weights lack what every Primus has.
        UsageError: `channels` does not suit.
    """
    network = target_primus(weights, target, seed=seed)
    given = unwrapped(weights.tensors)
    grids = grid_of(patch_of(weights)), grid_of(target.chosen["patch_size"])
    (projection,) = (f"{name}.weight" for name in _names(network, "keys_to_in_proj"))
    (positions,) = _names(network, "key_to_lpe")
    tensors: dict[str, Tensor] = {}
    moved = []
    for name, wanted in network.state_dict().items():
        value, notes = None if name.startswith(DECODER) else given.get(name), []
        if value is not None and name == positions and grids[0] != grids[1]:
            notes.append(f"positions of {by(grids[0])} -> {by(grids[1])} tokens")
            value = resized(value, *grids)
        if value is not None and name == projection and (channels is not None or value.shape[1] != wanted.shape[1]):
            notes.append(f"{value.shape[1]} -> {wanted.shape[1]} input channels")
            value = mix_channels(value, channel_mixing(value.shape[1], wanted.shape[1], channels))
        how: How = "fresh"
        if value is None:
            notes = [_FRESH if name.startswith(DECODER) else "the weights have no such tensor"]
        elif value.shape != wanted.shape:
            notes = [f"{by(value.shape)} -> {by(wanted.shape)} values"]
        else:
            if not bool(value.isfinite().all()):
                raise ExportError(f"{name} of the weights holds values that are not finite.")
            tensors[name] = value.detach().cpu().to(wanted.dtype)
            how = "adapted" if notes else "exact"
        moved.append(Moved(name=name, how=how, why=", ".join(notes), aliases=(name,)))
    return network, Fit(tensors=tensors, moved=tuple(moved), encoder=ENCODER, decoder=DECODER)


def prove_primus(path: Path, promised: Mapping[str, Tensor], weights: Weights, target: TargetPlan, *, seed: int) -> int:
    """As `nnssl.export.proof.prove`, into what nnU-Net's own Primus trainer builds for the target.

    Args:
        path: the file as it will be published.
        promised: nnU-Net's tensor name -> the value a fine-tuning must start from.
        weights: the source, for the size.
        target: the target.
        seed: that was not used for the file.

    Raises:
        ExportError: nnU-Net refuses the file, or a tensor differs.
    """
    return prove_in(target_primus(weights, target, seed=seed), path, promised)


def primus_rows(weights: Weights, target: TargetPlan, commands: Commands) -> list[Row]:
    """The doctor's rows about the network: which trainer builds it, and whose patch its positions are for."""
    grids = grid_of(patch_of(weights)), grid_of(target.chosen["patch_size"])
    equal = grids[0] == grids[1]
    return [
        Row(
            what="architecture",
            weights=f"Primus {size_of(weights).upper()}",
            target=f"-tr {trainer_of(weights)}",
            verdict="fits",
        ),
        Row(
            what="positions",
            weights=f"{by(grids[0])} tokens",
            target=f"{by(grids[1])} tokens",
            verdict="fits" if equal else "no",
            consequence="" if equal else "nnU-Net refuses the shape; the export interpolates",
            fix="" if equal else commands.export,
        ),
    ]


def _names(network: nn.Module, key: str) -> list[str]:
    """Names that nnU-Net's network gives to its own parts."""
    found: Any = getattr(network, key)
    return [found] if isinstance(found, str) else list(found)
