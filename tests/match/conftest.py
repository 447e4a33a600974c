"""One small workspace of phantoms for all tests of matching, and weights of an AnatEmbed that never trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnssl_anatembed.method import AnatEmbed, AnatEmbedConfig
from nnssl_anatembed.trainer import AnatEmbedTrainer

from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.plan import plan_info
from nnssl.engine.recipe import resolve
from nnssl.export.checkpoint import publish
from nnssl.match.cases import MatchCase, dataset_cases
from nnssl.method import DataInfo
from nnssl.paths import Folders
from tests.match.phantom_scans import flipped, permuted, phantom, resampled, transformed, write_dataset
from tests.tiny import tiny_plans, workspace_folders

SPACING_MM = 6.0
LINEAR = np.array([[1.06, 0.03, 0.0], [-0.03, 0.97, 0.02], [0.0, 0.0, 1.05]])
SHIFT_MM = np.array([9.0, -14.0, 11.0])


@pytest.fixture(scope="session")
def where(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Dataset745_Phantoms: subject a stored in four ways and moved, subject b."""
    folders = workspace_folders(tmp_path_factory.mktemp("match"))
    a = phantom(1, spacing_mm=SPACING_MM)
    images = {
        "a": a,
        "a_flipped": flipped(a),
        "a_permuted": permuted(a),
        "a_resampled": resampled(a),
        "a_moved": transformed(a, LINEAR, SHIFT_MM),
        "b": phantom(2, spacing_mm=SPACING_MM),
    }
    write_dataset(folders.raw, images)
    return folders


@pytest.fixture(scope="session")
def cases(where: Folders) -> dict[str, MatchCase]:
    return {case.case_id: case for case in dataset_cases("Dataset745_Phantoms", where)}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint_final.pth of an untrained AnatEmbed; its features are random, but those of a place."""
    plans = tiny_plans("Dataset745_Phantoms", spacing_mm=(SPACING_MM,) * 3)
    configuration = plans["configurations"]["3d_fullres"]
    recipe = replace(resolve(AnatEmbedTrainer), method=AnatEmbedConfig(width=16))
    plan = plan_info(configuration, channels=1)
    data = DataInfo(
        modality=("ct",),
        cases=6,
        shape_quantiles=dict.fromkeys((0, 10, 50, 90, 100), (40, 44, 44)),
        batch_size=4,
        steps_per_epoch=1,
    )
    torch.manual_seed(0)
    method = AnatEmbed(recipe.method, PlanNetworks(configuration["architecture"], plan, data))
    path = tmp_path_factory.mktemp("weights") / "checkpoint_final.pth"
    publish(
        path,
        exported=method.export_network(),
        plans=plans,
        configuration="3d_fullres",
        dataset_json={"channel_names": {"0": "CT"}},
        channels=1,
        provenance={
            "trainer": "AnatEmbedTrainer",
            "recipe": recipe.to_json(),
            "steps": 0,
            "data": {"orientation": "SPL"},
        },
        citations=[],
        seed=0,
        final=True,
    )
    return path
