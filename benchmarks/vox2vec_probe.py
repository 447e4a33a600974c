"""Does vox2vec learn in minutes? Short runs that differ in one number each, on real scans, with a frozen linear probe.

    python benchmarks/vox2vec_probe.py ../shared/data/Task04_Hippocampus [--steps 150] [--rows default "no window"]

Prints a table and one JSON line a row. The folder is an nnU-Net one with imagesTr, labelsTr and a splits.json that
names `pretrain_unlabelled`, `fine_tune_labelled` and `few_shot_5` cases; images of about 1 mm, of one channel.
About two minutes a row of 150 steps on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hippocampus import World, prepare, probe, same
from nnssl_vox2vec.method import Vox2Vec, Vox2VecConfig

from nnssl.blocks.sampling import voxel_vectors
from nnssl.data.loader import make_batch
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.health_metrics import correspondence_error_mm
from nnssl.engine.optim import Schedule
from nnssl.engine.probe_set import ProbeSet, held_out_probe
from nnssl.engine.recipe import Global, Optimizer, Recipe
from nnssl.engine.step import StepRunner
from nnssl.evaluate.statistics import bootstrap_interval
from nnssl.testing_world import small_architecture

FEATURES = (8, 16, 32, 64)  # a quarter of nnU-Net's
BOXES = 64  # held-out boxes, each seen turned by up to 15 degrees, zoomed by 0.8 to 1.25 and with another gamma
# As `default`, but with what one thread can do: smaller crops, fewer voxels.
SHORT = Vox2VecConfig(voxels=512, view_voxels=24 * 32 * 32)


@dataclass(frozen=True)
class Row:
    """What a run changes."""

    config: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 4
    lr: float = 1e-3
    residual: bool = False
    weight_decay: float = 0.01


ROWS = {
    "default": Row(),
    "lr 3e-4": Row(lr=3e-4),
    "lr 3e-3": Row(lr=3e-3),
    "batch 8": Row(batch_size=8),
    "batch 2": Row(batch_size=2),
    "256 voxels": Row({"voxels": 256}),
    "tau .2": Row({"temperature": 0.2}),
    "tau .05": Row({"temperature": 0.05}),
    "no sharpening or blur": Row({"shape_probability": 0.0}),
    "mild sharpening": Row({"sharpen": (1.0, 5.0)}),
    "noise x 5": Row({"noise": 0.0638}),
    "jitter .3": Row({"percentile_jitter": 0.3}),
    "jitter 0": Row({"percentile_jitter": 0.0}),
    "two pairs a volume": Row({"pairs_per_volume": 2}),
    "residual encoder": Row(residual=True),
    "vicreg": Row({"loss": "vicreg", "projection": 512}),
}


def run(row: Row, world: World, *, steps: int, seed: int) -> dict[str, float]:
    """Pretrain for `steps` and measure: loss and retrieval in the first step and the last tenth, and both probes."""
    config = replace(SHORT, **row.config)
    recipe = Recipe(
        epochs=10,
        steps_per_epoch=steps // 10,
        batch_size=row.batch_size,
        seed=seed,
        precision="fp32",
        optimizer=Optimizer(
            lr=row.lr, min_lr=row.lr / 100, warmup_epochs=1, weight_decay=row.weight_decay, clip=Global(1.0)
        ),
        method=config,
    )
    torch.manual_seed(seed)
    data = world.data(row.batch_size, recipe.steps_per_epoch)
    architecture = small_architecture(features=FEATURES, residual=row.residual)
    method = Vox2Vec(config, PlanNetworks(architecture, world.plan, data)).train()
    spec, needs = Vox2Vec.views(config, world.plan, data), Vox2Vec.needs(config)
    runner = StepRunner(method, recipe=recipe, schedule=Schedule(recipe), device=torch.device("cpu"))
    before = probe(method.network, world)
    boxes = held_out_probe(world.collection, world.plan, needs, seed=seed, boxes=BOXES)
    lost = correspondence(method, boxes)
    started = time.perf_counter()
    seen = []
    for index in range(recipe.total_steps):
        keys = range(index * row.batch_size, (index + 1) * row.batch_size)
        batch = make_batch(world.collection, spec, needs, list(keys), seed=seed, batch_size=row.batch_size)
        outcome = runner(index, partial(same, batch))
        seen.append({name: float(value) for name, value in outcome.losses.items()})
    seconds = time.perf_counter() - started
    last = seen[-max(1, len(seen) // 10) :]
    found = {f"{name}_first": seen[0][name] for name in ("loss", "loss/retrieval")}
    found |= {f"{name}_last": float(np.mean([one[name] for one in last])) for name in ("loss", "loss/retrieval")}
    voxels = seen[0]["loss/voxels"] * row.batch_size
    chance = {"chance": float(np.log(2 * voxels - 1))}
    found |= chance | {"probe_before": before, "probe": probe(method.network, world), "seconds": seconds}
    error = correspondence(method, boxes)
    low, high = bootstrap_interval(error - lost)
    found |= {"mm_before": float(lost.mean()), "mm": float(error.mean()), "mm_low": low, "mm_high": high}
    return found


def correspondence(method: Vox2Vec, boxes: ProbeSet) -> np.ndarray[Any, Any]:
    """Median error in mm of every box, of finding a voxel of its first view in its second by the nearest vector."""
    errors = []
    method.eval()
    for box in boxes.boxes:
        if len(box.points_mm) < 2:
            continue
        with torch.no_grad():
            pyramid = method.features(box.images).pyramid
            query, candidates = (
                voxel_vectors([level[view] for level in pyramid], box.points[view].float(), box.images.shape[2:])
                for view in range(2)
            )
        errors.append(float(correspondence_error_mm(query, candidates, box.points_mm, box.points_mm).median()))
    method.train()
    return np.array(errors)


def main() -> None:
    """Run the rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=Path("../shared/data/Task04_Hippocampus"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    if not arguments.source.is_dir():
        sys.exit(f"No scans at {arguments.source}; give the folder of MSD Task04_Hippocampus with a splits.json.")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        world = prepare(arguments.source, Path(folder), features=FEATURES, trainer="Vox2VecTrainer")
        print(
            "| run | seed | loss, chance to last | retrieval, first to last | probe Dice, untrained to trained | "
            "dense error, untrained to trained (95 % interval of the change) | s |"
        )
        print("|---|---|---|---|---|---|---|")
        lines = []
        for name in arguments.rows:
            for seed in arguments.seeds:
                found = run(ROWS[name], world, steps=arguments.steps, seed=seed)
                print(
                    f"| {name} | {seed} | {found['chance']:.2f} to {found['loss_last']:.2f} "
                    f"| {found['loss/retrieval_first']:.2f} to {found['loss/retrieval_last']:.2f} "
                    f"| {found['probe_before']:.3f} to {found['probe']:.3f} "
                    f"| {found['mm_before']:.1f} to {found['mm']:.1f} mm ({found['mm_low']:.1f} to "
                    f"{found['mm_high']:.1f}) | {found['seconds']:.0f} |",
                    flush=True,
                )
                lines.append(json.dumps({"row": name, "steps": arguments.steps, "seed": seed} | found))
        print("\n".join(lines))


if __name__ == "__main__":
    main()
