"""Weights of Primus, nnU-Net's transformer, under nnU-Net's names.

A pretraining's file holds the encoder: patch embedding, transformer and positions of the plan's patch. The decoder
depends on the class count and the positions on the patch, so nnU-Net takes only what `nnssl_export` fitted to a target
(`nnssl.export.primus_fit`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from nnssl.encoders.tokens import TokenEncoder, grid_of, token_encoder
from nnssl.errors import ExportError
from nnssl.export.adaptation import resolved_configuration, without_configurations
from nnssl.export.other import PRIMUS, finite, is_primus
from nnssl.export.plain import plain
from nnssl.export.read import Weights
from nnssl.export.tensors import unwrapped
from nnssl.nnunet import primus_trainer

NOTE = "nnssl_export fits it to a labelled data set for nnU-Net's Primus trainers; nnssl.load_encoder reads it"
_POSITIONS, _EMBEDDING = "eva.pos_embed", "down_projection.proj.weight"


def size_of(weights: Weights) -> str:
    """ "s", "b", "m" or "l"."""
    return PRIMUS[str(weights.adaptation["architecture_plans"]["arch_class_name"])].removeprefix("primus_")


def trainer_of(weights: Weights) -> str | None:
    """Name of nnU-Net's trainer that builds the network; None: the plan does."""
    return primus_trainer(size_of(weights)).__name__ if is_primus(weights) else None


def primus_content(
    network: TokenEncoder, plans: Mapping[str, Any], configuration: str, channels: int
) -> dict[str, Any]:
    """`network_weights` and `nnssl_adaptation_plan` of a file for `network`.

    Args:
        network: the trained network.
        plans: the pretraining plans file.
        configuration: which of its configurations was trained.
        channels: input channels.

    Raises:
        ExportError: a tensor is not finite.
    """
    chosen = resolved_configuration(plans, configuration)
    chosen["patch_size"] = network.options["patch_size"]
    plan = primus_plan(network.name, network.keys, plans, configuration, chosen, channels)
    return {"network_weights": finite(network), "nnssl_adaptation_plan": plan}


def primus_plan(
    name: str,
    keys: Mapping[str, Any],
    plans: Mapping[str, Any],
    configuration: str,
    chosen: Mapping[str, Any],
    channels: int,
) -> dict[str, Any]:
    """What a file says about itself; nnU-Net's own readers know Primus by its name and its patch.

    Args:
        name: "primus_s" and so on.
        keys: `TokenEncoder.keys`.
        plans: the pretraining plans file.
        configuration: name of its configuration.
        chosen: that configuration; its U-Net is left out.
        channels: input channels.
    """
    (called,) = (theirs for theirs, ours in PRIMUS.items() if ours == name)
    patch = plain(chosen["patch_size"])
    kept = {key: item for key, item in chosen.items() if key != "architecture"}
    return {
        "architecture_plans": {"arch_class_name": called, "arch_kwargs": {}, "arch_kwargs_requiring_import": []},
        "pretrain_plan": {**without_configurations(plans), "configurations": {configuration: plain(kept)}},
        "pretrain_num_input_channels": int(channels),
        "pretrain_patch_size": patch,
        "recommended_downstream_patchsize": patch,
        **plain(dict(keys)),
    }


def load_primus(weights: Weights) -> TokenEncoder:
    """The encoder of a file, with every tensor from it.

    Raises:
        ExportError: a tensor is missing or of another shape.
        PlanError: nnU-Net cannot build it.
    """
    patch, given = patch_of(weights), unwrapped(weights.tensors)
    network = token_encoder(f"primus_{size_of(weights)}", weights.channels, patch_size=patch)
    try:
        network.load_state_dict({name: given[name] for name in network.state_dict() if name in given})
    except RuntimeError as error:
        raise ExportError(f"{weights.path} does not hold what it says: {' '.join(str(error).split())}") from error
    return network


def patch_of(weights: Weights) -> list[int]:
    """The patch D H W that the file's positions are for.

    Raises:
        ExportError: the file does not say, or holds positions for another one, or for other channels. Nothing is built
            that is larger than what the file holds.
    """
    given = unwrapped(weights.tensors)
    patch = [int(side) for side in weights.configuration.get("patch_size", ())]
    missing = [name for name in (_POSITIONS, _EMBEDDING) if name not in given]
    if len(patch) != 3 or missing:
        raise ExportError(f"{weights.path} lacks {', '.join(missing) or 'its patch_size'}, which every Primus has.")
    rows, channels = given[_POSITIONS].shape[1:2], given[_EMBEDDING].shape[1:2]
    wanted = (prod(grid_of(patch)),), (weights.channels,)
    if (tuple(rows), tuple(channels)) != wanted:
        raise ExportError(
            f"{weights.path} says patch {tuple(patch)} and {weights.channels} channel(s), that is {wanted[0][0]} "
            f"tokens; it holds positions of {tuple(rows)} and an embedding of {tuple(channels)} channels. Download it "
            f"again."
        )
    return patch
