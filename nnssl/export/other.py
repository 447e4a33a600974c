"""Weights of networks that are not the plan's: files for `nnssl.load_pyramid` and `nnssl_features`, not for nnU-Net.

Primus is one of them that nnU-Net can build: see `nnssl.export.primus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from nnssl.encoders.other import KNOWN, OtherNetwork, build_other
from nnssl.errors import ExportError
from nnssl.export.adaptation import resolved_configuration, without_configurations
from nnssl.export.plain import plain
from nnssl.export.read import Weights

# what nnU-Net's readers call the sizes of Primus -> our names
PRIMUS = {f"Primus{size.upper()}": f"primus_{size}" for size in "sbml"}
NOTE = "nnU-Net cannot build this network; nnssl.load_pyramid and nnssl_features --decoder read the file"


def is_other(weights: Weights) -> bool:
    """Whether a file holds a network that nnU-Net cannot build."""
    name = str(weights.adaptation["architecture_plans"]["arch_class_name"])
    return name in KNOWN and name not in PRIMUS.values()


def is_primus(weights: Weights) -> bool:
    """Whether a file holds a Primus, nnU-Net's transformer."""
    return str(weights.adaptation["architecture_plans"]["arch_class_name"]) in PRIMUS


def for_nnunet(weights: Weights) -> Weights:
    """The weights, if nnU-Net can build their network.

    Raises:
        ExportError: it cannot.
    """
    if is_other(weights):
        name = weights.adaptation["architecture_plans"]["arch_class_name"]
        raise ExportError(
            f"{weights.path} holds the network {name}. {NOTE}. To fine-tune, pretrain nnU-Net's own network (for "
            f"vox2vec --preset default or paper_unet)."
        )
    return weights


def for_unet(weights: Weights) -> Weights:
    """The weights, if their network is one of the U-Nets that a plan describes.

    Raises:
        ExportError: it is not.
    """
    if is_primus(weights):
        name = weights.adaptation["architecture_plans"]["arch_class_name"]
        raise ExportError(
            f"{weights.path} holds {name}, and this command is for the U-Nets that plans describe. nnU-Net's own "
            f"trainers build Primus for any plan whose patch is a multiple of 8: nnssl_export {weights.path} -d ID -p "
            f"PLANS fits the weights to one and prints the command that trains."
        )
    return for_nnunet(weights)


def other_content(
    network: OtherNetwork,
    plans: Mapping[str, Any],
    configuration: str,
    channels: int,
) -> dict[str, Any]:
    """`network_weights` and `nnssl_adaptation_plan` of a file for `network`.

    Args:
        network: the trained network; its tensors are named as an encoder's.
        plans: the pretraining plans file, `windowed` where the network saw raw values.
        configuration: which of its configurations was trained.
        channels: input channels.

    Raises:
        ExportError: a tensor is not finite.
    """
    chosen = resolved_configuration(plans, configuration)
    chosen.pop("architecture")
    return {
        "network_weights": finite(network),
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": network.name,
                "arch_kwargs": dict(network.options),
                "arch_kwargs_requiring_import": [],
            },
            "pretrain_plan": {
                **without_configurations(plans),
                "configurations": {configuration: plain(chosen)},
            },
            "pretrain_num_input_channels": int(channels),
            "recommended_downstream_patchsize": plain(chosen["patch_size"]),
        },
    }


def windowed(plans: Mapping[str, Any], window: tuple[float, float] | None) -> dict[str, Any]:
    """Plans whose CTNormalization, clip to percentiles and (x - mean) / std, maps the window to [0, 1].

    So the preparation of images that every reader knows gives what the network saw.
    """
    changed = deepcopy(dict(plans))
    if window is not None:
        low, high = (float(end) for end in window)
        middle = (low + high) / 2
        ends = {"min": low, "max": high, "median": middle, "percentile_00_5": low, "percentile_99_5": high}
        properties = changed["foreground_intensity_properties_per_channel"]
        changed["foreground_intensity_properties_per_channel"] = {
            channel: {**ends, "mean": low, "std": high - low} for channel in properties
        }
    return changed


def load_other(weights: Weights) -> OtherNetwork:
    """The network of a file, with every tensor from it.

    Raises:
        ExportError: a tensor is missing, not known or of another shape.
    """
    about = weights.adaptation["architecture_plans"]
    network = build_other(
        str(about["arch_class_name"]), channels=weights.channels, options=dict(about["arch_kwargs"] or {})
    )
    tensors = {name.removeprefix(network.prefix): value for name, value in weights.tensors.items()}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ExportError(f"{weights.path} does not hold what it says: {error}") from error
    return network


def compare(network: OtherNetwork, loaded: OtherNetwork, weights: Weights) -> int:
    """How many tensors came back, each equal to the trained one.

    Args:
        network: the trained network.
        loaded: what our loader made of the file.
        weights: the file.

    Raises:
        ExportError: one did not.
    """
    trained, found = finite(network), loaded.state_dict()
    wrong = [n for n, value in trained.items() if not torch.equal(value, found[n.removeprefix(network.prefix)])]
    if wrong:
        raise ExportError(f"{len(wrong)} tensors of {weights.path} did not come back as written, first {wrong[0]}.")
    return len(trained)


def finite(network: OtherNetwork) -> dict[str, Tensor]:
    """Its tensors as a weights file holds them.

    Raises:
        ExportError: one is not finite.
    """
    tensors = {f"{network.prefix}{name}": value.detach().cpu().float() for name, value in network.state_dict().items()}
    bad = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if bad:
        raise ExportError(f"{len(bad)} tensors are not finite, first {bad[0]}; nothing was written.")
    return tensors
