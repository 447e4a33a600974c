"""Does DeSD collapse on an instance-norm encoder? Short runs that differ in one number each, on real scans.

    python benchmarks/desd_collapse.py ../shared/data/Task04_Hippocampus [--steps 160] [--rows default "K 4096"]

Prints a table and one JSON line a row. The folder is an nnU-Net one with imagesTr, labelsTr and a splits.json that
names `pretrain_unlabelled`, `fine_tune_labelled` and `few_shot_5` cases; images of about 1 mm, of one channel.
About a minute a row of 160 steps on one thread.
"""

from __future__ import annotations

from dataclasses import replace

from distillation import Row, measured, run_rows
from hippocampus import World
from nnssl_desd.method import DeSD, DeSDConfig
from nnssl_desd.trainer import DeSDTrainer

# As `default`, but with what few steps need: fewer prototypes, a teacher that follows within 50 steps, none frozen.
SHORT = DeSDConfig(prototypes=1024, teacher_momentum=0.98, teacher_warmup_epochs=2, frozen_epochs=0)
PUBLISHED = {"head_norm": "hidden", "pooling": "mean"}


ROWS = {
    "published head, tau .04-.07": Row(PUBLISHED | {"teacher_temperature": (0.04, 0.07)}),
    "published head, tau .04": Row(PUBLISHED),
    "no head norm": Row(PUBLISHED | {"head_norm": "none"}),
    "default": Row(),
    "tau .04-.07": Row({"teacher_temperature": (0.04, 0.07)}),
    "pooling mean": Row({"pooling": "mean"}),
    "pooling mean_max": Row({"pooling": "mean_max"}),
    "K 4096": Row({"prototypes": 4096}),
    "bottleneck 64": Row({"bottleneck": 64}),
    "bottleneck 256": Row({"bottleneck": 256}),
    "momentum .99": Row({"teacher_momentum": 0.99}),
    "batch 8": Row({}, 8),
    "blur to 1.0": Row({"blur_sigma": (0.1, 1.0)}),
    "batch 32": Row({}, 32),
    "lr 5e-4": Row(lr=5e-4),
    "residual encoder": Row(residual=True),
    "residual encoder, lr 5e-4": Row(residual=True, lr=5e-4),
    "residual encoder, pooling mean": Row({"pooling": "mean"}, residual=True),
    "residual encoder, pooling mean, lr 5e-4": Row({"pooling": "mean"}, lr=5e-4, residual=True),
    # --steps 300 or a multiple, for the recipe has 300 epochs
    "as shipped": Row({}, 32, 5e-4, shipped=True),
    "as shipped, momentum .98": Row({"teacher_momentum": 0.98}, 32, 5e-4, shipped=True),
    "as shipped, momentum .98, lr 2e-3": Row({"teacher_momentum": 0.98}, 32, 2e-3, shipped=True),
    "residual encoder, as shipped": Row({}, 32, 5e-4, residual=True, shipped=True),
    "residual encoder, as shipped, momentum .98": Row(
        {"teacher_momentum": 0.98}, 32, 5e-4, residual=True, shipped=True
    ),
}


def run(row: Row, world: World, *, steps: int, seed: int) -> dict[str, float]:
    """Pretrain a row of DeSD; see `measured`."""
    if row.shipped:
        recipe = row.shipped_recipe(DeSDTrainer.recipe, steps=steps, seed=seed)
    else:
        recipe = row.recipe(replace(SHORT, **row.config), steps=steps, seed=seed)
    return measured(DeSD, recipe, world, residual=row.residual)


if __name__ == "__main__":
    run_rows(ROWS, run, about=__doc__ or "")
