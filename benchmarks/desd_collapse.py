"""Does DeSD collapse on an instance-norm encoder? Short runs that differ in one number each, on real scans.

    python benchmarks/desd_collapse.py ../shared/data/Task04_Hippocampus [--steps 160] [--rows default "K 4096"]

Prints a table and one JSON line a row. The folder is an nnU-Net one with imagesTr, labelsTr and a splits.json that
names `pretrain_unlabelled`, `fine_tune_labelled` and `few_shot_5` cases; images of about 1 mm, of one channel.
About a minute a row of 160 steps on one thread.
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
from nnssl_desd.method import DeSD, DeSDConfig

from nnssl.data.loader import make_batch
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.health_metrics import watch_scalars
from nnssl.engine.optim import Schedule
from nnssl.engine.recipe import Global, Optimizer, Recipe
from nnssl.engine.step import StepRunner
from nnssl.testing_world import small_architecture

# As `default`, but with what few steps need: fewer prototypes, a teacher that follows within 50 steps, none frozen.
SHORT = DeSDConfig(prototypes=1024, teacher_momentum=0.98, teacher_warmup_epochs=2, frozen_epochs=0)
PUBLISHED = {"head_norm": "hidden", "pooling": "mean"}


@dataclass(frozen=True)
class Row:
    """What a run changes."""

    config: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    lr: float = 2e-3
    residual: bool = False


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
}


def run(row: Row, world: World, *, steps: int, seed: int) -> dict[str, float]:
    """Pretrain a row of DeSD; see `measured`."""
    return measured(DeSD, replace(SHORT, **row.config), row, world, steps=steps, seed=seed)


def measured(method_class: Any, config: Any, row: Row, world: World, *, steps: int, seed: int) -> dict[str, float]:
    """Pretrain for `steps` and measure: entropy and KL in the first and last tenth, probes before and after.

    Args:
        method_class: a method with a `teacher` that has an encoder.
        config: the method's.
        row: batch size, learning rate, kind of encoder.
        world: the data.
        steps: optimizer steps, a multiple of 10.
        seed: of weights and draws.
    """
    started = time.perf_counter()
    recipe = Recipe(
        epochs=10,
        steps_per_epoch=steps // 10,
        batch_size=row.batch_size,
        seed=seed,
        precision="fp32",
        optimizer=Optimizer(lr=row.lr, min_lr=row.lr / 100, warmup_epochs=1, weight_decay=0.04, clip=Global(3.0)),
        method=config,
    )
    torch.manual_seed(seed)
    data = world.data(row.batch_size, recipe.steps_per_epoch)
    architecture = small_architecture(features=FEATURES, residual=row.residual)
    method = method_class(config, PlanNetworks(architecture, world.plan, data)).train()
    spec, needs = method_class.views(config, world.plan, data), method_class.needs(config)
    runner = StepRunner(method, recipe=recipe, schedule=Schedule(recipe), device=torch.device("cpu"))
    before = probe(method.teacher.network.encoder, world)
    watched = []
    for index in range(recipe.total_steps):
        keys = range(index * row.batch_size, (index + 1) * row.batch_size)
        batch = make_batch(world.collection, spec, needs, list(keys), seed=seed, batch_size=row.batch_size)
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


def main() -> None:
    """Run the rows one after the other."""
    run_rows(ROWS, run, about=__doc__ or "")


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


if __name__ == "__main__":
    main()
