"""Recipes of vox2vec. README.md says where `default` differs from the paper and why."""

from __future__ import annotations

from typing import ClassVar

from nnssl.engine.recipe import Global, Optimizer, Recipe
from nnssl.trainer import SSLTrainer
from nnssl_vox2vec.method import Vox2Vec, Vox2VecConfig


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
    presets: ClassVar[dict[str, Recipe]] = {}
