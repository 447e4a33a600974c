"""DeSD and MAE learn. Slow: minutes, not seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nnssl_mae.method import MAE, MAEConfig

from nnssl.testing_world import local_step, noise_batch, small_networks
from tests.plugins.scripts import benchmark


@pytest.mark.slow
def test_default_desd_learns_where_the_published_head_becomes_uniform(shared_data: Path, tmp_path: Path) -> None:
    world = benchmark("hippocampus").prepare(shared_data / "Task04_Hippocampus", tmp_path)
    script = benchmark("desd_collapse")
    default = script.run(script.ROWS["short"], world, steps=160, seed=1)
    assert default["teacher_kl_last"] < 0.7 * default["teacher_kl_first"]
    assert default["entropy_min"] > 0.05
    assert default["entropy_max"] < 0.98
    assert default["probe"] > default["probe_before"] + 0.02
    published = script.run(script.ROWS["published head, tau .04-.07"], world, steps=160, seed=1)
    assert published["teacher_entropy_last"] > 0.97


@pytest.mark.slow
def test_masked_reconstruction_beats_the_mean() -> None:
    networks = small_networks(features=(8, 16, 24))
    config = MAEConfig(block=(4, 4, 4))
    spec = MAE.views(config, networks.plan, networks.data)
    method = MAE(config, networks)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for index in range(150):
        batch = noise_batch(spec, networks, keys=range(4 * index, 4 * index + 4))
        view = batch.views["crop"]
        # one sine wave a sample: what is hidden follows from what is not
        where = torch.linspace(0, 6.3, view.image.shape[-1]) + torch.arange(4).view(4, 1, 1, 1, 1, 1) + index
        batch = replace(batch, views={"crop": replace(view, image=where.sin().expand_as(view.image).contiguous())})
        loss = method(batch, local_step(index=0)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.1  # the mean's error is 0.5
