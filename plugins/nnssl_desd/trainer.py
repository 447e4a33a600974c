"""Recipes of DeSD. README.md says where `default` differs from the paper and why."""

from __future__ import annotations

from typing import ClassVar

from nnssl.engine.recipe import Global, Optimizer, PlanWish, Recipe
from nnssl.trainer import SSLTrainer
from nnssl_desd.method import DeSD, DeSDConfig


class DeSDTrainer(SSLTrainer):
    """Deep self-distillation (Ye et al., MICCAI 2022)."""

    method = DeSD
    recipe = Recipe(
        epochs=300,
        steps_per_epoch=250,
        batch_size=32,
        optimizer=Optimizer(
            name="adamw", lr=2e-3, min_lr=1e-5, warmup_epochs=10, weight_decay=0.04, clip=Global(3.0), scaling="none"
        ),
        method=DeSDConfig(),
    )
    presets: ClassVar[dict[str, Recipe]] = {
        # 125,000 sub-volumes in batches of 192 = 651 steps an epoch; peak lr 0.3 * 192 / 256 = 0.225
        "paper": Recipe(
            epochs=300,
            steps_per_epoch=651,
            batch_size=192,
            precision="fp32",
            optimizer=Optimizer(
                name="sgd",
                lr=0.3,
                scaling="linear",
                reference_batch=256,
                min_lr=0.048,
                warmup_epochs=10,
                weight_decay=1e-6,
                momentum=0.9,
                clip=None,
            ),
            method=DeSDConfig(
                teacher_memory=0.0,
                prototypes=60_000,
                hidden=2048,
                bottleneck=256,
                pooling="mean",
                head_norm="hidden",
                teacher_temperature=(0.04, 0.07),
                flip=(0.8, 0.8, 0.8),
                slicewise_intensity=True,
                published_views=True,
            ),
            # the heads' maps have the published in-plane strides 4 8 16 32; the last holds 1 x 3 x 3 cells
            plan=PlanWish(
                name="DeSDPaper",
                spacing_mm=1.0,
                patch_size=(16, 96, 96),
                strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
            ),
        ),
    }
