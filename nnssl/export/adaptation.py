"""`nnssl_adaptation_plan`: what a weights file says about itself, in the form that nnU-Net's own readers ask for.

Contract: `nnUNetv2_preprocess_like_nnssl` and `nnUNetv2_train_pretrained` of nnU-Net's main branch. They read only the
first configuration of `pretrain_plan`, and every `key_to_*` is mandatory. `nnssl_plan_like` reads the same block.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from nnssl.errors import ExportError
from nnssl.export.plain import plain

_KEYS = ("key_to_encoder", "key_to_stem", "keys_to_in_proj")


def resolved_configuration(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """One configuration of a plans file with what it inherits, without links to other configurations.

    Raises:
        ExportError: the plans have no such configuration, or it inherits in a circle.
    """
    chain: list[str] = []
    name: str | None = configuration
    while name is not None:
        if name not in plans["configurations"] or name in chain:
            raise ExportError(
                f"Plans {plans.get('plans_name')!r} must hold configuration {name!r} once; they hold "
                f"{', '.join(plans['configurations'])}."
            )
        chain.append(name)
        name = plans["configurations"][name].get("inherits_from")
    merged: dict[str, Any] = {}
    for name in reversed(chain):
        merged.update(deepcopy(plans["configurations"][name]))
    for link in ("inherits_from", "previous_stage", "next_stage"):
        merged.pop(link, None)
    return merged


def adaptation_plan(network: nn.Module, plans: Mapping[str, Any], configuration: str, channels: int) -> dict[str, Any]:
    """The block for a full nnU-Net network, in plain values.

    Args:
        network: nnU-Net's network of the plan; its `key_to_*` attributes are copied.
        plans: the pretraining plans file.
        configuration: which of its configurations was trained.
        channels: input channels.

    Raises:
        ExportError: the network does not say where its encoder is.
    """
    chosen = resolved_configuration(plans, configuration)
    architecture = chosen["architecture"]
    missing = [key for key in _KEYS if not hasattr(network, key)]
    if missing:
        raise ExportError(
            f"nnU-Net finds an encoder by {', '.join(_KEYS)}; {architecture['network_class_name']} lacks "
            f"{', '.join(missing)}. Plan with a U-Net (ExperimentPlanner or one of the ResEnc planners)."
        )
    return {
        "architecture_plans": {
            "arch_class_name": architecture["network_class_name"],
            "arch_kwargs": plain(architecture["arch_kwargs"]),
            "arch_kwargs_requiring_import": plain(architecture["_kw_requires_import"]),
        },
        "pretrain_plan": {**without_configurations(plans), "configurations": {configuration: plain(chosen)}},
        "pretrain_num_input_channels": int(channels),
        "pretrain_patch_size": plain(chosen["patch_size"]),
        "recommended_downstream_patchsize": plain(chosen["patch_size"]),
        **{key: plain(getattr(network, key)) for key in _KEYS},
        "key_to_lpe": getattr(network, "key_to_lpe", None),
        "architecture_kwargs": plain(architecture["arch_kwargs"]),  # read by nnU-Net's DynamicPretrainedTrainer
    }


def without_configurations(plans: Mapping[str, Any]) -> dict[str, Any]:
    """A plans file's own keys, in plain values."""
    # `continue_training` is put into the plans by nnU-Net's own command and is no part of them
    return {key: plain(item) for key, item in plans.items() if key not in ("configurations", "continue_training")}
