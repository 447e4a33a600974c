"""DINO3D learns, and three broken runs are told as what they are. Slow: minutes, not seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnssl.paths import VARIABLES
from tests.engine.workspace import DATASET, make_workspace
from tests.plugins.scripts import benchmark

pytestmark = pytest.mark.slow
BASE = {
    "batch_size": "8", "epochs": "4", "steps_per_epoch": "40", "threads": "1", "save_every_minutes": "60",
    "optimizer.lr": "2e-3", "optimizer.warmup_epochs": "0.25", "method.prototypes": "256", "method.hidden": "64",
    "method.bottleneck": "32", "method.local_views": "2", "method.teacher_momentum": "0.95",
    "method.frozen_epochs": "0",
}  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("broken"), cases=14)


def last_look(workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str, **changes: str) -> dict[str, Any]:
    """What the trainer says of the network's health at the end of a run that changes BASE."""
    from nnssl.cli import pretrain
    from nnssl.engine import journal

    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")  # restored afterwards, whatever --workspace sets
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.setattr(journal, "draw_progress", lambda *_: None)
    numbers = [f"{key}={value}" for key, value in (BASE | changes).items()]
    arguments = ["701", "3d_fullres", "-tr", "DINO3DTrainer", "-device", "cpu", "--workspace", str(workspace)]
    assert pretrain.main([*arguments, "--name", name, "--set", *numbers]) == 0
    results = workspace / "nnUNet_results" / DATASET / "DINO3DTrainer__nnsslPlans__3d_fullres"
    health = json.loads((results / f"fold_all--{name}" / "health.json").read_text())
    look: dict[str, Any] = health["history"][-1]
    return look


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "centre",  # with the published head; batch norm at its ends alone holds a point collapse back for long
            {"method.targets": "none", "method.head_norm": "none", "epochs": "2"},
            ("point collapse", "check that centring is on"),
        ),
        (
            "temperature",
            {"method.teacher_temperature": "0.1,0.1"},
            ("uniform collapse", "Lower the teacher temperature"),
        ),
        (
            "rate",  # after half as many steps its rank still hovers about the limit between yellow and red
            {"optimizer.lr": "0.2", "epochs": "8"},
            ("dimensional collapse", "Lower the learning rate"),
        ),
    ],
)
def test_a_broken_run_is_told_with_its_cause(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, str], words: tuple[str, str]
) -> None:
    look = last_look(workspace, monkeypatch, name, **changes)
    assert look["light"] == "red"
    assert any(all(word in sentence for word in words) for sentence in look["sentences"]), look["sentences"]


def test_the_run_that_they_were_broken_from_is_healthy(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = last_look(workspace, monkeypatch, "whole")
    assert look["light"] == "green", look["sentences"]
    assert 0.05 < look["values"]["teacher_entropy"] < 0.98


def test_default_dino3d_learns_where_the_published_head_becomes_uniform(shared_data: Path, tmp_path: Path) -> None:
    world = benchmark("hippocampus").prepare(shared_data / "Task04_Hippocampus", tmp_path)
    script = benchmark("dino_pooling")
    default = script.run(script.ROWS["short, 4 local views"], world, steps=160, seed=0)
    assert default["teacher_kl_last"] < 0.7 * default["teacher_kl_first"]
    assert default["entropy_min"] > 0.05
    assert default["entropy_max"] < 0.98
    assert default["probe"] > default["probe_before"] + 0.02
    published = script.run(script.ROWS["mean, none"], world, steps=80, seed=0)
    assert published["teacher_entropy_last"] > 0.98
    assert published["cosine_start"] > 0.99
