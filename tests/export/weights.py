"""Small published weights files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nnssl.encoders.pyramid import PlanUNet
from nnssl.export.checkpoint import publish
from nnssl.method import Exported
from nnssl.nnunet import build_network


def write_weights(path: Path, plans: dict[str, Any], *, channel_names: tuple[str, ...] = ("CT",)) -> PlanUNet:
    """Publish an untrained U-Net of `plans` with its decoder; returns it."""
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    torch.manual_seed(0)
    unet = PlanUNet(build_network(architecture, channels=len(channel_names), classes=1))
    publish(
        path,
        exported=Exported(encoder=unet.encoder, decoder=unet),
        plans=plans,
        configuration="3d_fullres",
        dataset_json={"channel_names": {str(index): name for index, name in enumerate(channel_names)}},
        channels=len(channel_names),
        provenance={"trainer": "MAETrainer", "steps": 3},
        citations=[{"type": "Pretraining", "name": "MAE", "apa_citations": ["He et al. (2022)."]}],
        seed=0,
        final=True,
    )
    return unet
