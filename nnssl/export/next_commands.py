"""What to do with the weights of a finished pretraining: sentences and commands that can be copied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from nnssl.encoders.other import OtherNetwork
from nnssl.encoders.tokens import TokenEncoder
from nnssl.export.other import NOTE
from nnssl.nnunet import primus_trainer
from nnssl.planning.plan_like import CONFIGURATION, Keep, default_name


def next_commands(encoder: nn.Module, weights: Path, plans: Mapping[str, Any]) -> list[str]:
    """Lines for the end of the log.

    Args:
        encoder: what was exported.
        weights: the file.
        plans: the pretraining plans file.
    """
    done = f"Pretraining is done: {weights}"
    if isinstance(encoder, TokenEncoder):
        trainer = primus_trainer(encoder.name.removeprefix("primus_")).__name__
        return [
            done,
            "Fine-tune with stock nnU-Net (4 stands for your labelled data set with a plan of its own; FILE for what "
            "nnssl_export writes):",
            f"    nnssl_export {weights} -d 4 -p nnUNetPlans -c {CONFIGURATION}",
            f"    nnUNetv2_train 4 {CONFIGURATION} 0 -p nnUNetPlans -tr {trainer} -pretrained_weights FILE",
        ]
    if isinstance(encoder, OtherNetwork):
        return [done, f"{NOTE}."]
    like = default_name(plans, Keep())
    return [
        done,
        "Fine-tune with stock nnU-Net (4 stands for your labelled data set):",
        f"    nnssl_plan_like {weights} -d 4",
        f"    nnUNetv2_preprocess -d 4 -plans_name {like} -c {CONFIGURATION}",
        f"    nnUNetv2_train 4 {CONFIGURATION} 0 -p {like} -pretrained_weights {weights}",
    ]
