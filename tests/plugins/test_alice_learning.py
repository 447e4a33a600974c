"""Alice learns in a minute on textures: what one crop shows is told of the other, and the teacher has not collapsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from nnssl_alice.config import AliceConfig
from nnssl_alice.method import Alice
from nnssl_alice.views import KEY, QUERY
from torch import Tensor

from nnssl.engine.health_metrics import watch_scalars
from nnssl.engine.optim import Schedule
from nnssl.engine.recipe import Optimizer, PerTensor, Recipe
from nnssl.engine.step import StepRunner
from nnssl.method import Batch
from nnssl.testing_world import noise_batch, small_networks

pytestmark = pytest.mark.slow
STEPS, BATCH, KINDS = 150, 8, 4


def anatomy(empty: Batch, index: int) -> Batch:
    """A batch whose pairs show one of four textures each: waves of a length, with noise of each crop's own."""
    generator = torch.Generator().manual_seed(index)
    views = dict(empty.views)
    for name in (QUERY, KEY):
        d, h, w = (torch.arange(side, dtype=torch.float32) for side in views[name].image.shape[3:])
        waves = []
        for sample in range(BATCH):
            phase, pace = 6.3 * torch.rand(3, generator=generator), (0.25, 0.5, 1.0, 2.0)[sample % KINDS]
            x, y, z = (torch.sin(pace * axis + shift) for axis, shift in zip((d, h, w), phase, strict=True))
            waves.append(x[:, None, None] + y[:, None] + z)
        image = torch.stack(waves)[:, None, None]
        image = image + 0.1 * torch.randn(image.shape, generator=generator)
        views[name] = replace(views[name], image=image)
    return replace(empty, views=views)


def test_crops_of_one_anatomy_agree_more_than_others_and_the_teacher_tells_them_apart() -> None:
    networks = small_networks(patch_size=(16, 32, 32), features=(8, 12, 16), batch_size=BATCH)
    config = AliceConfig(prototypes=32, hidden=32, bottleneck=16, casa_width=16, most_queries=64, most_memory=64)
    recipe = Recipe(
        epochs=10,
        steps_per_epoch=STEPS // 10,
        batch_size=BATCH,
        precision="fp32",
        optimizer=Optimizer(name="adamw", lr=3e-3, warmup_epochs=1, weight_decay=0.04, clip=PerTensor(3.0)),
        method=replace(config, frozen_epochs=0, body_only=False),
    )
    torch.manual_seed(0)
    method = Alice(recipe.method, networks).train()
    spec, needs = Alice.views(recipe.method, networks.plan, networks.data), Alice.needs(recipe.method)
    runner = StepRunner(method, recipe=recipe, schedule=Schedule(recipe), device=torch.device("cpu"))
    seen: list[dict[str, float]] = []

    def observe(watch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        p, log_q = watch["teacher_probs"], watch["student_log_probs"]
        own, other = (-(p * said).sum(-1).mean() for said in (log_q, log_q.roll(1, 0)))  # the next pair: other texture
        return {**watch_scalars(watch), "own": own, "other": other}

    for index in range(recipe.total_steps):
        empty = noise_batch(spec, networks, needs=needs, keys=range(BATCH * index, BATCH * index + BATCH))
        given: Callable[[int], Batch] = partial(lambda batch, micro: batch, anatomy(empty, index))
        outcome = runner(index, given, observe=observe)
        seen.append({name: float(value) for name, value in {**outcome.losses, **outcome.watched}.items()})
    first, last = ({name: sum(one[name] for one in part) / 10 for name in part[0]} for part in (seen[:10], seen[-10:]))
    assert last["loss/reconstruction"] < 0.5 * first["loss/reconstruction"]
    assert last["teacher_kl"] < 0.7 * first["teacher_kl"]
    assert last["own"] < last["other"] - 0.3
    assert all(0.05 < one["teacher_entropy"] < 0.98 for one in seen)
    assert last["prototype_use"] > (KINDS - 1) / 32  # four textures need four prototypes
