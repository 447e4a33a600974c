"""What pooling and batch standardisation do to the near-collapse of instance-norm encoders under DINO3D.

    python benchmarks/dino_pooling.py ../shared/data/Task04_Hippocampus [--steps 80] [--rows short "mean, none"]

The rows are "POOLING, HEAD NORM"; rows and measures are those of learning.py, and every row changes what it names, and
nothing else. Prints a table and one JSON line a row; a JSON line also holds what pooled vectors of different
scans have in common before any training: `cosine_start`, their mean cosine, and `std_start` of isotropic vectors. About
half a minute a row of 80 steps on one free thread.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from hippocampus import FEATURES, World
from learning import Row, run_rows
from learning import run as measured
from nnssl_dino3d.trainer import DINO3DTrainer

from nnssl.blocks.pooling import pool
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.feed import Feed
from nnssl.engine.health_metrics import feature_std
from nnssl.testing_world import small_architecture

TRAINER = DINO3DTrainer.__name__
# Fewer prototypes and views than by default, a teacher that follows, nothing frozen.
SHORT = {"prototypes": 1024, "local_views": 2, "teacher_momentum": 0.98, "teacher_memory": 0.0, "frozen_epochs": 0}
POOLINGS = ("mean", "mean_max", "mean_std")
NORMS = ("none", "hidden", "ends", "everywhere")


short = partial(Row.short, TRAINER, SHORT, batch_size=16, lr=2e-3)

ROWS = {
    **{f"{kind}, {norm}": short({"pooling": kind, "head_norm": norm}) for norm in NORMS for kind in POOLINGS},
    "short": short(),
    "short, 4 local views": short({"local_views": 4}),
    "short, tau .04-.07": short({"teacher_temperature": (0.04, 0.07), "teacher_warmup_epochs": 2}),
    "short, koleo": short({"koleo": 0.1}),
    "short, dense": short({"dense": 1.0}),
    "short, dense of noise": short({"dense": 1.0, "dense_fill": "noise"}),
    "short, published augmentations": short({"rotation": "full", "elastic": True, "elastic_sigma": (0.0, 7.0)}),
    "short, no augmentation": short(
        {"rotation": "off", "scale": False, "flip": (0.0, 0.0, 0.0), "smoothing": False, "histogram": False}
    ),
    "short, lr 5e-4": short(lr=5e-4),
    "residual: short": short(residual=True),
    "residual: short, lr 5e-4": short(residual=True, lr=5e-4),
    "residual: mean, none": short({"pooling": "mean", "head_norm": "none"}, residual=True),
    "residual: mean, everywhere": short({"pooling": "mean"}, residual=True),
    "residual: short, dense": short({"dense": 1.0}, residual=True),
}


def run(row: Row, world: World, *, steps: int, seed: int) -> dict[str, float]:
    """Pretrain a row of DINO3D, and look at its untrained features first."""
    return start(row, world, seed=seed) | measured(row, world, steps=steps, seed=seed)


@torch.no_grad()
def start(row: Row, world: World, *, seed: int) -> dict[str, float]:
    """How alike pooled vectors of different scans are to an untrained encoder."""
    recipe, method = row.of_length(10, seed), DINO3DTrainer.method
    feed = Feed([world.folder], mix=(), needs=method.needs(recipe.method), recipe=recipe, trainer=TRAINER)
    feed.describe(method.views(recipe.method, world.plan, feed.info), world.plan)
    torch.manual_seed(seed)
    architecture = small_architecture(features=FEATURES, residual=row.residual)
    encoder = PlanNetworks(architecture, world.plan, feed.info).encoder()
    with feed.stream(torch.device("cpu"), workers=0) as stream:
        view = stream.batch(0).views["global"]
    vectors = pool(encoder(view.image[:, 0])[-1], recipe.method.pooling, valid=view.valid[:, 0])
    unit = F.normalize(vectors, dim=1)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    return {"cosine_start": float(cosines.mean()), "std_start": float(feature_std(vectors))}


if __name__ == "__main__":
    run_rows(ROWS, run, about=__doc__ or "", steps=80, trainers=[TRAINER])
