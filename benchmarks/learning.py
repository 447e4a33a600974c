"""Does a method learn in minutes? Short runs of trainers on real scans: losses, entropy, frozen probe, correspondence.

    python benchmarks/learning.py ../shared/data/Task04_Hippocampus [--rows AliceTrainer] [--steps 300] [--seeds 0 1 2]
        [--set KEY=VALUE ..] [--matches_by CKPT]

A row is a trainer with a short run's changes of its default recipe (`ROWS`). Every run is judged against the same
network before its first step: Dice of a linear layer on frozen maps, fitted on 5 labelled cases and tested on 35; and,
on 64 boxes of held-out scans, each seen twice (turned by up to 15 degrees, zoomed by 0.8 to 1.25, another gamma), the
error of finding a voxel again, with a 95 % interval of its change over boxes. Prints a table and one JSON line a run.

The folder is an nnU-Net one with imagesTr, labelsTr and a splits.json that names `pretrain_unlabelled`,
`fine_tune_labelled` and `few_shot_5` cases; images of about 1 mm, of one channel. Or it is OpenKBP's, with imagesUn:
head-neck CT at 3 mm, without a probe. `--matches_by` has the table of AliceTrainer made by weights of AnatEmbedTrainer
(matching.py trains some), not by registration. desd_collapse.py, dino_pooling.py and vox2vec_probe.py are tables of one
method each, by the same measures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import head_neck
import hippocampus
import numpy as np
import torch
from hippocampus import FEATURES, World, probe

from nnssl.blocks.sampling import voxel_vectors
from nnssl.cli.match import main as match
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.feed import Feed
from nnssl.engine.health_metrics import correspondence_error_mm, watch_scalars
from nnssl.engine.optim import Schedule
from nnssl.engine.probe_set import ProbeSet, held_out_probe
from nnssl.engine.recipe import Recipe, assignments, resolve
from nnssl.engine.step import StepRunner
from nnssl.evaluate.statistics import bootstrap_interval
from nnssl.method import Method
from nnssl.registry import find_trainer
from nnssl.testing_world import small_architecture

BOXES = 64
EPOCHS = 10  # of a short run, one of them warm-up


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a run changes.

    Attributes:
        trainer: class name.
        method: keys of the method.
        recipe: keys of the recipe.
        optimizer: keys of the optimizer.
        residual: a residual encoder, as in nnU-Net's ResEnc plans.
        shipped: all epochs of the trainer's own recipe, with fewer steps each, in place of ten with one of warm-up.
        asked: further dotted keys, as with `--set`.
    """

    trainer: str
    method: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    residual: bool = False
    shipped: bool = False
    asked: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def short(
        cls,
        trainer: str,
        base: Mapping[str, Any],
        method: Mapping[str, Any] | None = None,
        *,
        batch_size: int,
        lr: float,
        residual: bool = False,
    ) -> Row:
        """`base`, what every short run of a table changes of the method, and over it what this row does."""
        return cls(
            trainer=trainer,
            method={**base, **(method or {})},
            recipe={"batch_size": batch_size},
            optimizer={"lr": lr, "min_lr": lr / 100},
            residual=residual,
        )

    def of_length(self, steps: int, seed: int) -> Recipe:
        """The trainer's recipe for a run of `steps`."""
        trainer = find_trainer(self.trainer)
        short = {} if self.shipped else {"epochs": EPOCHS, "optimizer.warmup_epochs": 1}
        epochs = short.get("epochs", trainer.recipe.epochs)
        fixed = {"steps_per_epoch": max(1, steps // epochs), "seed": seed, "precision": "fp32"}
        changes = {"method": self.method, "optimizer": self.optimizer}
        named = {f"{part}.{key}": value for part, values in changes.items() for key, value in values.items()}
        return resolve(trainer, overrides={**short, **fixed, **named, **self.recipe, **self.asked})


SHORT = {"frozen_epochs": 0}  # an epoch of them is a tenth of the run
ROWS = {
    "DeSDTrainer": Row(trainer="DeSDTrainer", method=SHORT, optimizer={"lr": 2e-3}, recipe={"batch_size": 16}),
    "DINO3DTrainer": Row(
        trainer="DINO3DTrainer",
        method={**SHORT, "local_views": 2},
        optimizer={"lr": 2e-3},
        recipe={"batch_size": 16},
    ),
    "CADSTrainer": Row(trainer="CADSTrainer", method=SHORT, optimizer={"lr": 2e-3}, recipe={"batch_size": 16}),
    "AliceTrainer": Row(  # at full width a step takes ten seconds on one thread
        trainer="AliceTrainer",
        method={**SHORT, "hidden": 256, "bottleneck": 128, "casa_width": 64},
        optimizer={"lr": 1e-3},
        recipe={"batch_size": 4},
    ),
    "MAETrainer": Row(trainer="MAETrainer", optimizer={"lr": 5e-3}, recipe={"batch_size": 4}),
    "Vox2VecTrainer": Row(trainer="Vox2VecTrainer", method={"voxels": 512, "view_voxels": 24 * 32 * 32}),
    "AnatEmbedTrainer": Row(trainer="AnatEmbedTrainer", method={"width": 32}),
}


def run(row: Row, world: World, *, steps: int, seed: int) -> dict[str, float]:
    """Pretrain a row and measure it.

    Args:
        row: what it changes.
        world: the data, with all that the row's trainer needs on disk.
        steps: optimizer steps, a multiple of the recipe's epochs.
        seed: of weights, draws and boxes.

    Returns:
        every loss in the first step and over the last tenth ("loss_first", "loss_last", ..), what is watched over the
        first and last tenth and its extremes ("teacher_entropy_first", .., "entropy_min", "entropy_max"), "probe" and
        "mm" with "_before", the interval "mm_low" to "mm_high", and "seconds".
    """
    recipe, trainer = row.of_length(steps, seed), find_trainer(row.trainer)
    needs = trainer.method.needs(recipe.method)
    feed = Feed([world.folder], mix=(), needs=needs, recipe=recipe, trainer=row.trainer)
    feed.describe(trainer.method.views(recipe.method, world.plan, feed.info), world.plan)
    torch.manual_seed(seed)
    architecture = small_architecture(features=FEATURES, residual=row.residual)
    method: Method = trainer.method(recipe.method, PlanNetworks(architecture, world.plan, feed.info)).train()
    boxes = held_out_probe(feed.collection, world.plan, needs, seed=seed, boxes=BOXES)
    began, (before, lost) = time.perf_counter(), look(method, world, boxes)
    losses, watched = steps_of(method, recipe, feed)
    after, error = look(method, world, boxes)
    low, high = bootstrap_interval(error - lost)
    return {
        **ends(losses, first=1),
        **ends(watched, first=max(1, len(watched) // 10)),
        **extremes([one["teacher_entropy"] for one in watched if "teacher_entropy" in one]),
        "probe_before": before, "probe": after,
        "mm_before": float(lost.mean()), "mm": float(error.mean()), "mm_low": low, "mm_high": high,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def steps_of(method: Method, recipe: Recipe, feed: Feed) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Train; the losses and the watched scalars of every step."""
    runner = StepRunner(method, recipe=recipe, schedule=Schedule(recipe), device=torch.device("cpu"))
    losses, watched = [], []
    with feed.stream(torch.device("cpu"), workers=0) as stream:
        for index in range(recipe.total_steps):
            outcome = runner(index, partial(stream.batch, index), observe=watch_scalars)
            losses.append({name: float(value) for name, value in outcome.losses.items()})
            watched.append({name: float(value) for name, value in outcome.watched.items()})
    return losses, watched


def look(method: Method, world: World, boxes: ProbeSet) -> tuple[float, np.ndarray[Any, Any]]:
    """Dice of the frozen probe on the networks to be exported, NaN without labelled cases; error of every box."""
    exported = method.export_network()
    dice = probe(exported.decoder or exported.encoder, world) if world.few else math.nan
    return dice, correspondence(method, boxes)


def correspondence(method: Method, boxes: ProbeSet) -> np.ndarray[Any, Any]:
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


def ends(values: Sequence[Mapping[str, float]], *, first: int) -> dict[str, float]:
    """Means over the first `first` steps and the last tenth."""
    parts = {"first": values[:first], "last": values[-max(1, len(values) // 10) :]}
    return {
        f"{name}_{end}": float(np.mean([one[name] for one in part])) for end, part in parts.items() for name in part[0]
    }


def extremes(entropies: Sequence[float]) -> dict[str, float]:
    """Least and most, where there are any."""
    return {"entropy_min": min(entropies), "entropy_max": max(entropies)} if entropies else {}


def main() -> None:
    """Run the rows one after the other."""
    run_rows(ROWS, run, about=__doc__ or "", steps=300, trainers=[row.trainer for row in ROWS.values()])


def run_rows(
    rows: Mapping[str, Any],
    run: Callable[..., dict[str, float]],
    *,
    about: str,
    steps: int,
    trainers: Sequence[str],
) -> None:
    """Read the command line, run the rows it names, print a table and the JSON lines.

    Args:
        rows: by name.
        run: called with a row, the data, `steps` and `seed`.
        about: the script's description.
        steps: of a run, unless the command line says otherwise.
        trainers: whose raw values, sidecars and tables to make.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=Path("../shared/data/Task04_Hippocampus"))
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rows", nargs="+", default=list(rows), choices=list(rows), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe keys of all rows")
    parser.add_argument("--matches_by", type=Path, metavar="CKPT", help="weights of AnatEmbedTrainer")
    arguments = parser.parse_args()
    if not arguments.source.is_dir():
        sys.exit(
            f"No scans at {arguments.source}; give the folder of Task04_Hippocampus (with splits.json) or OpenKBP."
        )
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        wanted = [trainer for trainer in trainers if trainer in arguments.rows or len(set(trainers)) == 1]
        scans = head_neck if head_neck.is_head_neck(arguments.source) else hippocampus
        world = scans.prepare(arguments.source, Path(folder), trainers=wanted)
        if arguments.matches_by:
            head_neck.run(match, [str(arguments.matches_by), "--table", "-d", "745"])
        print(
            "| run | seed | loss, first to last | H / ln K, first to last (least to most) | KL | probe, untrained to "
            "trained | mm, untrained to trained (interval of the change) | s |\n|---|---|---|---|---|---|---|---|"
        )
        for name in arguments.rows:
            for seed in arguments.seeds:
                row = replace(rows[name], asked=assignments(arguments.set))
                found = run(row, world, steps=arguments.steps, seed=seed)
                print(line(name, seed, found), flush=True)
                asked = {"row": name, "set": arguments.set, "steps": arguments.steps, "seed": seed}
                print(json.dumps(asked | {"matches_by": str(arguments.matches_by)} | found), file=sys.stderr)


def line(name: str, seed: int, found: Mapping[str, float]) -> str:
    """A line of the table."""
    entropy = kl = "-"
    if "entropy_min" in found:
        entropy = "{teacher_entropy_first:.2f} to {teacher_entropy_last:.2f} ({entropy_min:.2f} to {entropy_max:.2f})"
        kl = "{teacher_kl_first:.2f} to {teacher_kl_last:.2f}"
    text = (
        f"| {name} | {seed} | {{loss_first:.2f}} to {{loss_last:.2f}} | {entropy} | {kl} | {{probe_before:.3f}} to "
        "{probe:.3f} | {mm_before:.1f} to {mm:.1f} ({mm_low:+.1f} to {mm_high:+.1f}) | {seconds:.0f} |"
    )
    return text.format(**found)


if __name__ == "__main__":
    main()
