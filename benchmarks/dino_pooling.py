"""What pooling and batch standardisation do to the near-collapse of instance-norm encoders under DINO3D.

    python benchmarks/dino_pooling.py ../shared/data/Task04_Hippocampus [--steps 80] [--rows default "mean, none"]

The rows are "POOLING, HEAD NORM"; as in desd_collapse.py, whose data and measures these are, every row changes what it
names and nothing else. Prints a table and one JSON line a row; a JSON line also holds what pooled vectors of different
scans have in common before any training: `cosine_start`, their mean cosine, and `std_start` of isotropic vectors. About
half a minute a row of 80 steps on one free thread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from distillation import Row, measured, run_rows
from hippocampus import FEATURES, World
from nnssl_dino3d.config import DINO3DConfig
from nnssl_dino3d.method import DINO3D

from nnssl.blocks.pooling import pool
from nnssl.data.loader import make_batch
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.health_metrics import feature_std
from nnssl.testing_world import small_architecture

# As `default`, but with what few steps need: fewer prototypes and views, a teacher that follows, nothing frozen.
SHORT = DINO3DConfig(prototypes=1024, local_views=2, teacher_momentum=0.98, frozen_epochs=0)
POOLINGS = ("mean", "mean_max", "mean_std")
NORMS = ("none", "hidden", "ends", "everywhere")

ROWS = {
    **{f"{kind}, {norm}": Row({"pooling": kind, "head_norm": norm}) for norm in NORMS for kind in POOLINGS},
    "default": Row(),
    "default, 4 local views": Row({"local_views": 4}),
    "default, tau .04-.07": Row({"teacher_temperature": (0.04, 0.07), "teacher_warmup_epochs": 2}),
    "default, koleo": Row({"koleo": 0.1}),
    "default, dense": Row({"dense": 1.0}),
    "default, dense of noise": Row({"dense": 1.0, "dense_fill": "noise"}),
    "default, published augmentations": Row({"rotation": "full", "elastic": True, "elastic_sigma": (0.0, 7.0)}),
    "default, no augmentation": Row(
        {"rotation": "off", "scale": False, "flip": (0.0, 0.0, 0.0), "smoothing": False, "histogram": False}
    ),
    "default, lr 5e-4": Row(lr=5e-4),
    "residual: default": Row(residual=True),
    "residual: default, lr 5e-4": Row(residual=True, lr=5e-4),
    "residual: mean, none": Row({"pooling": "mean", "head_norm": "none"}, residual=True),
    "residual: mean, everywhere": Row({"pooling": "mean"}, residual=True),
    "residual: default, dense": Row({"dense": 1.0}, residual=True),
}


def run(row: Row, world: World, *, steps: int, seed: int) -> dict[str, float]:
    """Pretrain a row of DINO3D, and look at its untrained features first."""
    config = replace(SHORT, **row.config)
    recipe = row.recipe(config, steps=steps, seed=seed)
    return start(config, row, world, seed=seed) | measured(DINO3D, recipe, world, residual=row.residual)


@torch.no_grad()
def start(config: Any, row: Row, world: World, *, seed: int) -> dict[str, float]:
    """How alike pooled vectors of different scans are to an untrained encoder."""
    torch.manual_seed(seed)
    data = world.data(row.batch_size, 1)
    architecture = small_architecture(features=FEATURES, residual=row.residual)
    encoder = PlanNetworks(architecture, world.plan, data).encoder()
    spec, needs = DINO3D.views(config, world.plan, data), DINO3D.needs(config)
    batch = make_batch(world.collection, spec, needs, list(range(16)), seed=seed, batch_size=16)
    view = batch.views["global"]
    vectors = pool(encoder(view.image[:, 0])[-1], config.pooling, valid=view.valid[:, 0])
    unit = F.normalize(vectors, dim=1)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    return {"cosine_start": float(cosines.mean()), "std_start": float(feature_std(vectors))}


if __name__ == "__main__":
    run_rows(ROWS, run, about=__doc__ or "")
