"""Short runs of a self-distilling method that differ in one number each, on real scans: rows, measures and their table.

Imported by desd_collapse.py and dino_pooling.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hippocampus import FEATURES, World, prepare, probe, same

from nnssl.data.loader import make_batch
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.health_metrics import watch_scalars
from nnssl.engine.optim import Schedule
from nnssl.engine.recipe import Global, Optimizer, Recipe
from nnssl.engine.step import StepRunner
from nnssl.testing_world import small_architecture


@dataclass(frozen=True)
class Row:
    """What a run changes.

    Attributes:
        config: keys of the method.
        batch_size, lr: of the recipe.
        residual: a residual encoder, as in nnU-Net's ResEnc plans.
        shipped: begin from the trainer's own recipe, all 300 epochs of it with fewer steps each, and not from SHORT.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    lr: float = 2e-3
    residual: bool = False
    shipped: bool = False

    def recipe(self, config: Any, *, steps: int, seed: int) -> Recipe:
        """Ten epochs with one of warm-up: what a run of `steps` has time for."""
        return Recipe(
            epochs=10,
            steps_per_epoch=steps // 10,
            batch_size=self.batch_size,
            seed=seed,
            precision="fp32",
            optimizer=Optimizer(lr=self.lr, min_lr=self.lr / 100, warmup_epochs=1, weight_decay=0.04, clip=Global(3.0)),
            method=config,
        )

    def shipped_recipe(self, recipe: Recipe, *, steps: int, seed: int) -> Recipe:
        """A trainer's recipe, but for the number of steps in an epoch and what the row changes."""
        return replace(
            recipe,
            steps_per_epoch=steps // recipe.epochs,
            batch_size=self.batch_size,
            seed=seed,
            precision="fp32",
            optimizer=replace(recipe.optimizer, lr=self.lr),
            method=replace(recipe.method, **self.config),
        )


def measured(method_class: Any, recipe: Recipe, world: World, *, residual: bool) -> dict[str, float]:
    """Pretrain and measure: entropy and KL in the first and last tenth, probes before and after.

    Args:
        method_class: a method with a `teacher` that has an encoder.
        recipe: all numbers of the run, the method's among them.
        world: the data.
        residual: the kind of encoder.
    """
    started = time.perf_counter()
    seed, config, batch_size = recipe.seed, recipe.method, recipe.batch_size
    torch.manual_seed(seed)
    data = world.data(batch_size, recipe.steps_per_epoch)
    architecture = small_architecture(features=FEATURES, residual=residual)
    method = method_class(config, PlanNetworks(architecture, world.plan, data)).train()
    spec, needs = method_class.views(config, world.plan, data), method_class.needs(config)
    runner = StepRunner(method, recipe=recipe, schedule=Schedule(recipe), device=torch.device("cpu"))
    before = probe(method.teacher.network.encoder, world)
    watched = []
    for index in range(recipe.total_steps):
        keys = range(index * batch_size, (index + 1) * batch_size)
        batch = make_batch(world.collection, spec, needs, list(keys), seed=seed, batch_size=batch_size)
        outcome = runner(index, partial(same, batch), observe=watch_scalars)
        watched.append({name: float(value) for name, value in outcome.watched.items()})
    tenth = max(1, len(watched) // 10)
    ends = {"first": watched[:tenth], "last": watched[-tenth:]}
    found = {
        f"{name}_{end}": float(np.mean([w[name] for w in part]))
        for end, part in ends.items()
        for name in ("teacher_entropy", "teacher_kl", "prototype_use")
    }
    entropies = [w["teacher_entropy"] for w in watched]
    after = probe(method.teacher.network.encoder, world)
    extremes = {"entropy_min": min(entropies), "entropy_max": max(entropies)}
    return found | extremes | {"probe_before": before, "probe": after, "seconds": time.perf_counter() - started}


def run_rows(rows: Mapping[str, Row], run: Callable[..., dict[str, float]], *, about: str) -> None:
    """Read the command line, run the rows it names, print a table and the JSON lines.

    Args:
        rows: by name.
        run: called with a row, the data, `steps` and `seed`.
        about: the script's description.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=Path("../shared/data/Task04_Hippocampus"))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--rows", nargs="+", default=list(rows), choices=list(rows), metavar="ROW")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.source.is_dir():
        sys.exit(f"No scans at {arguments.source}; give the folder of MSD Task04_Hippocampus with a splits.json.")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        world = prepare(arguments.source, Path(folder))
        print("| run | H / ln K, first to last | least to most | KL, first to last | probe, untrained to trained |")
        print("|---|---|---|---|---|")
        lines = []
        for name in arguments.rows:
            found = run(rows[name], world, steps=arguments.steps, seed=arguments.seed)
            print(
                f"| {name} | {found['teacher_entropy_first']:.2f} to {found['teacher_entropy_last']:.2f} "
                f"| {found['entropy_min']:.2f} to {found['entropy_max']:.2f} "
                f"| {found['teacher_kl_first']:.2f} to {found['teacher_kl_last']:.2f} "
                f"| {found['probe_before']:.3f} to {found['probe']:.3f} |",
                flush=True,
            )
            lines.append(json.dumps({"row": name, "steps": arguments.steps, "seed": arguments.seed} | found))
        print("\n".join(lines))
