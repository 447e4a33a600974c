"""Recipes of DINO3D. README.md says where `default` differs from the paper and why."""

from __future__ import annotations

from typing import ClassVar

from nnssl.engine.recipe import Global, Optimizer, PerTensor, PlanWish, Recipe
from nnssl.trainer import SSLTrainer
from nnssl_dino3d.config import DINO3DConfig
from nnssl_dino3d.method import DINO3D


class DINO3DTrainer(SSLTrainer):
    """DINO on 3D crops (3DMedDINO, SPIE 2024)."""

    method = DINO3D
    recipe = Recipe(
        epochs=300,
        steps_per_epoch=250,
        batch_size=32,
        optimizer=Optimizer(
            name="adamw", lr=2e-3, min_lr=1e-6, warmup_epochs=10, weight_decay=0.04, clip=Global(3.0), scaling="none"
        ),
        method=DINO3DConfig(),
    )
    presets: ClassVar[dict[str, Recipe]] = {
        # nnU-Net's own rate, decay and clipping for this network
        "primus": Recipe(
            epochs=300,
            steps_per_epoch=250,
            batch_size=32,
            optimizer=Optimizer(
                name="adamw",
                lr=3e-4,
                min_lr=1e-6,
                warmup_epochs=10,
                weight_decay=0.05,
                clip=Global(1.0),
                scaling="none",
            ),
            method=DINO3DConfig(network="primus_s", pooling="mean"),
        ),
        # an epoch was one box a scan, in batches of 256; the number of scans is not published: nnU-Net's 250 steps
        "paper": Recipe(
            epochs=100,
            steps_per_epoch=250,
            batch_size=256,
            optimizer=Optimizer(
                name="adamw",
                lr=5e-4,
                scaling="linear",
                reference_batch=256,
                min_lr=1e-6,
                warmup_epochs=10,
                weight_decay=0.04,
                weight_decay_end=0.4,
                clip=PerTensor(3.0),
            ),
            method=DINO3DConfig(
                teacher_memory=0.0,
                local_views=8,
                published_views=True,
                rotation="full",
                elastic=True,
                elastic_sigma=(0.0, 7.0),
                prototypes=65_536,
                hidden=2048,
                bottleneck=256,
                pooling="mean",
                head_norm="none",
            ),
            # the published local views are a single cell of the published encoder; here they are 3 x 3 x 3 cells
            plan=PlanWish(
                name="DINO3DPaper",
                spacing_mm=1.0,
                patch_size=(48, 96, 96),
                strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
            ),
        ),
    }
