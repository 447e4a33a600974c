"""The recipe of MAE."""

from __future__ import annotations

from typing import ClassVar

from nnssl.engine.recipe import Global, Optimizer, Recipe
from nnssl.trainer import SSLTrainer
from nnssl_mae.method import MAE, MAEConfig

OPTIMIZER = Optimizer(
    name="adamw", lr=1e-3, min_lr=1e-6, warmup_epochs=10, weight_decay=0.05, betas=(0.9, 0.95), clip=Global(1.0)
)


class MAETrainer(SSLTrainer):
    """Masked autoencoding (He et al. 2022) of the plan's U-Net."""

    method = MAE
    recipe = Recipe(epochs=1000, steps_per_epoch=250, batch_size=8, optimizer=OPTIMIZER, method=MAEConfig())
    presets: ClassVar[dict[str, Recipe]] = {
        "sparse": Recipe(
            epochs=1000, steps_per_epoch=250, batch_size=8, optimizer=OPTIMIZER, method=MAEConfig(sparse=True)
        ),
    }
