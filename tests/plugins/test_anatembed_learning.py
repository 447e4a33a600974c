"""AnatEmbed learns: on phantoms that deform, matches come nearer than an untrained network's. Slow."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from nnssl_anatembed.method import AnatEmbed, AnatEmbedConfig

from nnssl.data.collection import Collection
from nnssl.data.loader import make_batch
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.optim import Schedule
from nnssl.engine.plan import plan_info
from nnssl.engine.probe_set import held_out_probe
from nnssl.engine.recipe import Global, Optimizer, Recipe
from nnssl.engine.step import StepRunner
from nnssl.method import Batch
from nnssl.planning.cases import read_raw_dataset
from nnssl.planning.folder import preprocess_folder
from nnssl.planning.grid import case_plan
from nnssl.planning.requirements import union
from tests.match.phantom_scans import phantom, write_dataset
from tests.tiny import tiny_plans, workspace_folders

SPACING_MM, STEPS, BATCH = 6.0, 120, 4
CELL_MM = 2 * SPACING_MM


def whichever(batch: Batch, micro: int) -> Batch:
    return batch


@pytest.mark.slow
def test_matches_come_nearer_than_those_of_the_untrained_network(tmp_path: Path) -> None:
    where = workspace_folders(tmp_path)
    name = write_dataset(where.raw, {f"p{seed}": phantom(seed, spacing_mm=SPACING_MM) for seed in range(12)})
    plans = tiny_plans(name, spacing_mm=(SPACING_MM,) * 3, patch_size=(24, 32, 32))
    config = AnatEmbedConfig(width=32, hard=500, diverse=200)
    needs = AnatEmbed.needs(config)
    folder = where.preprocessed / name / "nnsslPlans_3d_fullres"
    preprocess_folder(read_raw_dataset(name, where), case_plan(plans, "3d_fullres"), folder, union([needs]), workers=1)
    collection = Collection.from_datasets([folder], needs=needs)
    recipe = Recipe(
        epochs=4,
        steps_per_epoch=STEPS // 4,
        batch_size=BATCH,
        precision="fp32",
        optimizer=Optimizer(name="adamw", lr=3e-3, warmup_epochs=0.5, weight_decay=1e-4, clip=Global(1.0)),
        method=config,
    )
    configuration = plans["configurations"]["3d_fullres"]
    plan, data = plan_info(configuration, channels=1), collection.data_info(batch_size=BATCH, steps_per_epoch=30)
    torch.manual_seed(0)
    method = AnatEmbed(config, PlanNetworks(configuration["architecture"], plan, data)).train()
    boxes = held_out_probe(collection, plan, needs, seed=0, boxes=12).boxes

    def validated() -> dict[str, float]:
        method.eval()
        with torch.no_grad():
            found = {name: float(value) for name, value in method.validate(boxes).items()}
        method.train()
        return found

    before = validated()
    spec = AnatEmbed.views(config, plan, data)
    runner = StepRunner(method, recipe=recipe, schedule=Schedule(recipe), device=torch.device("cpu"))
    losses = []
    for index in range(recipe.total_steps):
        keys = list(range(index * BATCH, (index + 1) * BATCH))
        batch = make_batch(collection, spec, needs, keys, seed=0, batch_size=BATCH)
        losses.append(float(runner(index, partial(whichever, batch)).losses["loss"]))
    after = validated()
    print(f"before {before}\nafter {after}\nloss {losses[0]:.2f} to {sum(losses[-10:]) / 10:.2f}")
    assert sum(losses[-10:]) / 10 < losses[0] - 0.5
    assert after["match_mm"] < 2 * CELL_MM
    assert after["match_mm"] < 0.7 * before["match_mm"]
    assert after["match_within_cell"] > before["match_within_cell"] + 0.2
