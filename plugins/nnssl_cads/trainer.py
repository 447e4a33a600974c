"""Recipes of CADS. README.md says where `default` differs from the paper and why."""

from __future__ import annotations

from typing import ClassVar

from nnssl.engine.recipe import Optimizer, PerTensor, PlanWish, Recipe
from nnssl.trainer import SSLTrainer
from nnssl_cads.method import CADS, CADSConfig


class CADSTrainer(SSLTrainer):
    """Cross-modal alignment and deep self-distillation (Ye et al., IEEE TMI 2025)."""

    method = CADS
    recipe = Recipe(
        epochs=300,
        steps_per_epoch=250,
        batch_size=32,
        optimizer=Optimizer(
            name="adamw", lr=2e-3, min_lr=2e-6, warmup_epochs=10, weight_decay=0.04, clip=PerTensor(0.3), scaling="none"
        ),
        method=CADSConfig(),
    )
    presets: ClassVar[dict[str, Recipe]] = {
        # 125,000 sub-volumes in batches of 192 = 651 steps an epoch; peak lr 7.5e-4 * 192 / 256 = 5.625e-4
        "paper": Recipe(
            epochs=150,
            steps_per_epoch=651,
            batch_size=192,
            precision="fp32",
            optimizer=Optimizer(
                name="adamw",
                lr=7.5e-4,
                scaling="linear",
                reference_batch=256,
                min_lr=2e-6,
                warmup_epochs=10,
                weight_decay=0.04,
                weight_decay_end=0.4,
                clip=PerTensor(0.3),
            ),
            method=CADSConfig(
                teacher_memory=0.0,
                repack="raster",
                prototypes=60_000,
                hidden=2048,
                bottleneck=256,
                pooling="mean",
                head_norm="none",
                teacher_temperature=(0.04, 0.07),
                frozen_epochs=3,
                flip=(0.8, 0.8, 0.8),
                slicewise_intensity=True,
                published_views=True,
            ),
            # packed views of 16 x 48 x 48 must be divisible; the published encoder rounded its last map up to 1 x 2 x 2
            plan=PlanWish(
                name="CADSPaper",
                spacing_mm=1.0,
                patch_size=(16, 96, 96),
                strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
            ),
        ),
    }
