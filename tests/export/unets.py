"""Small U-Nets of the kinds nnU-Net plans: any number of stages, plain or residual, isotropic or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nnssl.export.fitted import TargetPlan
from nnssl.nnunet import build_network
from tests.tiny import tiny_plans

FEATURES = [4, 6, 8, 10, 10, 10, 10]
M_BLOCKS = [1, 3, 4, 6, 6, 6, 6]  # of nnU-Net's residual encoders


def unet_plans(
    name: str = "Dataset745_Pre",
    *,
    residual: bool = False,
    stages: int = 6,
    channels: int = 1,
    flat: int = 0,
    blocks: list[int] | None = None,
    features: list[int] | None = None,
) -> dict[str, Any]:
    """Plans with one U-Net.

    Args:
        name: of the data set.
        residual: ResidualEncoderUNet instead of PlainConvUNet.
        stages: of the encoder.
        channels: input channels, all CT.
        flat: how many of the first stages have kernel 1x3x3, and how many strides after them 1x2x2.
        blocks: a stage; for residual encoders.
        features: a stage.
    """
    plans = tiny_plans(name, residual=residual)
    chosen = plans["configurations"]["3d_fullres"]
    made = chosen["architecture"]["arch_kwargs"]
    made.update(
        n_stages=stages,
        features_per_stage=(features or FEATURES)[:stages],
        kernel_sizes=[[1, 3, 3]] * flat + [[3, 3, 3]] * (stages - flat),
        strides=[[1, 1, 1]] + [[1, 2, 2]] * flat + [[2, 2, 2]] * (stages - 1 - flat),
        n_conv_per_stage_decoder=[1] * (stages - 1),
    )
    made["n_blocks_per_stage" if residual else "n_conv_per_stage"] = (blocks or [1] * 7)[:stages]
    for key in ("normalization_schemes", "use_mask_for_norm"):
        chosen[key] = chosen[key] * channels
    statistics = plans["foreground_intensity_properties_per_channel"]["0"]
    plans["foreground_intensity_properties_per_channel"] = {str(c): dict(statistics) for c in range(channels)}
    return plans


def target_plan(plans: dict[str, Any]) -> TargetPlan:
    """The plans as a target."""
    chosen = plans["configurations"]["3d_fullres"]
    return TargetPlan(plans=plans, configuration="3d_fullres", chosen=chosen)


def network(plans: dict[str, Any], *, classes: int = 2, seed: int = 0) -> nn.Module:
    """nnU-Net's network, every value away from its initial one."""
    chosen = plans["configurations"]["3d_fullres"]
    torch.manual_seed(seed)
    made = build_network(chosen["architecture"], channels=len(chosen["normalization_schemes"]), classes=classes)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def stock_checkpoint(plans: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """What stock nnU-Net saves, numpy number included."""
    import numpy as np

    return {
        "network_weights": state,
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float32(0.5), np.float64(0.25)]},
        "_best_ema": np.float32(0.5),
        "current_epoch": 3,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}},
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
