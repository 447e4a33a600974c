"""Recipes of AnatEmbed. README.md says where `default` differs from the paper and why."""

from __future__ import annotations

from typing import ClassVar

from nnssl.engine.recipe import Global, Optimizer, PlanWish, Recipe
from nnssl.trainer import SSLTrainer
from nnssl_anatembed.method import AnatEmbed, AnatEmbedConfig


class AnatEmbedTrainer(SSLTrainer):
    """Anatomical embeddings (Yan et al., TMI 2022)."""

    method = AnatEmbed
    # from random weights where the published run started from ImageNet's: twice its 20,000 steps
    recipe = Recipe(
        epochs=160,
        steps_per_epoch=250,
        batch_size=4,
        optimizer=Optimizer(
            name="sgd", lr=0.02, min_lr=1e-4, warmup_epochs=2, weight_decay=1e-4, momentum=0.9, clip=Global(12.0)
        ),
        method=AnatEmbedConfig(),
    )
    presets: ClassVar[dict[str, Recipe]] = {
        # 6 volumes a step (NIH configuration), 20,000 steps; lr constant after 500 steps of warm-up
        "paper": Recipe(
            epochs=80,
            steps_per_epoch=250,
            batch_size=6,
            optimizer=Optimizer(
                name="sgd", lr=0.02, min_lr=0.02, warmup_epochs=2, weight_decay=1e-4, momentum=0.9, clip=None
            ),
            method=AnatEmbedConfig(
                scale_lengths=False,
                body_only=False,
                rotation_deg=0.0,
                min_overlap=0.0,
                values="raw",
                published_views=True,
            ),
            # the published strides: 2 2 2, then in plane only to 8, then both to 4 x 16 x 16
            plan=PlanWish(
                name="AnatEmbedPaper",
                spacing_mm=2.0,
                patch_size=(32, 96, 96),
                strides=((1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2)),
            ),
        ),
    }
