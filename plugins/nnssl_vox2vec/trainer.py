"""Recipes of vox2vec. README.md says where `default` differs from the paper and why."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from nnssl.engine.recipe import Global, Optimizer, PlanWish, Recipe
from nnssl.trainer import SSLTrainer
from nnssl_vox2vec.method import Vox2Vec, Vox2VecConfig

# Adam without weight decay is AdamW with none; without warm-up and with min_lr = lr the rate is constant, as published
ADAM = Optimizer(name="adamw", lr=3e-4, min_lr=3e-4, warmup_epochs=0, weight_decay=0.0, clip=Global(1.0))
PLAN = PlanWish(
    name="Vox2VecPaper",
    spacing_mm=(2.0, 1.0, 1.0),
    patch_size=(32, 128, 128),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
)
# 100,000 steps of 10 pairs
PAPER = Recipe(
    epochs=1000,
    steps_per_epoch=100,
    batch_size=10,
    precision="fp32",
    optimizer=ADAM,
    method=Vox2VecConfig(network="fpn3d", published_views=True),
    plan=PLAN,
)


class Vox2VecTrainer(SSLTrainer):
    """Contrastive learning of voxels (Goncharov et al., MICCAI 2023)."""

    method = Vox2Vec
    # four pairs of at most 32 x 128 x 128 voxels: as many voxels a step as nnU-Net's two patches of 128 x 128 x 128
    recipe = Recipe(
        epochs=400,
        steps_per_epoch=250,
        batch_size=4,
        optimizer=Optimizer(name="adamw", lr=1e-3, min_lr=1e-6, warmup_epochs=10, weight_decay=0.01, clip=Global(1.0)),
        method=Vox2VecConfig(),
    )
    presets: ClassVar[dict[str, Recipe]] = {
        "paper": PAPER,
        # the same with the plan's own network, which nnU-Net can start from
        "paper_unet": replace(PAPER, method=Vox2VecConfig(published_views=True)),
    }
