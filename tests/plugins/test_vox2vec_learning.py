"""vox2vec learns: voxels are found again in volumes it knows, and its features say more on scans it does not."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnssl_vox2vec.method import Vox2Vec, Vox2VecConfig
from scipy import ndimage

from nnssl.data.collection import Collection
from nnssl.data.loader import make_batch
from nnssl.data.sidecar import BodyMask, write_sidecar
from nnssl.method import ViewSpec
from nnssl.needs import Needs
from nnssl.testing_world import local_step, small_networks
from tests.plugins.scripts import benchmark
from tests.volumes import collect, write_case

pytestmark = pytest.mark.slow
SHAPE = (28, 32, 36)
STEPS = 400


def four_volumes(folder: Path) -> Collection:
    """Smooth textures with no air, as MR."""
    entries = []
    for case in range(4):
        rng = np.random.default_rng(case)
        texture = sum(ndimage.gaussian_filter(rng.standard_normal(SHAPE), s) * s**1.5 for s in (0.8, 4.0))
        entry = write_case(
            folder, f"case_{case}", (texture[None] * 100 + 500).astype(np.float32), raw_file=f"case_{case}.b2nd",
            sidecars={"body": f"case_{case}.body.npz"},
        )  # fmt: skip
        lattice = {"mask": np.ones((7, 8, 9), bool), "first": np.full(3, 1), "stride": np.full(3, 4)}
        write_sidecar(folder / f"case_{case}.body.npz", BodyMask, lattice)
        entries.append(entry)
    return collect(*entries)


def retrieval_among_1024(method: Vox2Vec, data: Collection, spec: ViewSpec, needs: Needs) -> float:
    """Share of voxels found again in the other crop of their volume among about 1024, in crops not trained on."""
    method.config = replace(method.config, voxels=1024)
    found: list[float] = []
    with torch.no_grad():
        for index in range(STEPS, STEPS + 8):
            batch = make_batch(data, spec, needs, range(4 * index, 4 * index + 4), seed=0, batch_size=4)
            parts = method(batch, local_step()).parts
            assert parts["voxels"] > 900
            found.append(parts["retrieval"].item())
    return sum(found) / len(found)


def test_voxels_of_four_known_volumes_are_found_again(tmp_path: Path) -> None:
    data = four_volumes(tmp_path)
    networks = small_networks(features=(16, 32, 64), patch_size=(16, 16, 16), case_shape=SHAPE, modality="t1")
    config = Vox2VecConfig(voxels=256, shape_probability=0.0, noise_probability=0.0)
    spec, needs = Vox2Vec.views(config, networks.plan, networks.data), Vox2Vec.needs(config)
    method = Vox2Vec(config, networks).train()
    assert retrieval_among_1024(copy.deepcopy(method), data, spec, needs) < 0.1
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=STEPS)
    totals = []
    for index in range(STEPS):
        batch = make_batch(data, spec, needs, range(4 * index, 4 * index + 4), seed=0, batch_size=4)
        losses = method(batch, local_step())
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        rate.step()
        totals.append(losses.total.item())
    assert sum(totals[-10:]) / 10 < totals[0] - 3
    assert retrieval_among_1024(method, data, spec, needs) > 0.9


def test_it_finds_its_way_in_held_out_scans_and_its_features_tell_the_organs(shared_data: Path, tmp_path: Path) -> None:
    world = benchmark("hippocampus").prepare(shared_data / "Task04_Hippocampus", tmp_path, trainers=["Vox2VecTrainer"])
    script = benchmark("vox2vec_probe")
    found = script.run(script.ROWS["short"], world, steps=150, seed=0)
    chance = math.log(2 * 4 * found["loss/voxels_first"] - 1)  # of four pairs
    assert abs(found["loss_first"] - chance) < 1
    assert found["loss_last"] < found["loss_first"] - 2
    assert found["probe"] > found["probe_before"] + 0.15
    assert found["mm_high"] < 0  # dense correspondence, paired over the boxes
