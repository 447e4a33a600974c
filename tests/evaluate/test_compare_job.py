"""One training of a comparison: what makes it that training, and how it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnssl.evaluate.compare.job import TrainingJob
from nnssl.evaluate.compare.plan import Training
from nnssl.evaluate.compare.run import Comparison, _slot
from nnssl.evaluate.finetune.schedule import VARIABLE
from nnssl.paths import VARIABLES, Folders
from tests.evaluate.comparisons import Silent, make_workspace, request
from tests.tiny import workspace_folders

NAME = "Dataset004_Tiny"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_workspace: Path) -> Path:
    """One target and two weights files."""
    folder = tmp_path_factory.mktemp("jobs")
    make_workspace(folder, tiny_workspace)
    return folder


@pytest.fixture
def made(root: Path, tmp_path: Path) -> TrainingJob:
    """The pretrained arm's training with one label."""
    comparison = Comparison(request(root, out=tmp_path / "out"), workspace_folders(root), Silent())
    training = next(one for one in comparison.trainings[NAME] if one.arm == "w")
    return comparison.job(comparison.targets[0], training)


def command(made: TrainingJob, *, again: bool) -> list[str]:
    prepare = made.job(threads=1).prepare
    assert prepare is not None
    return list(prepare(again))


def test_a_training_starts_with_its_weights_and_goes_on_without(made: TrainingJob) -> None:
    first = command(made, again=False)
    assert first[1:4] == ["4", "3d_fullres", "0"]
    assert "-pretrained_weights" in first and "--c" not in first
    assert "-pretrained_weights" in command(made, again=True)  # nothing to go on from yet
    made.fold.mkdir(parents=True)
    torch.save({}, made.fold / "checkpoint_latest.pth")
    going_on = command(made, again=True)
    assert going_on[-1] == "--c" and "-pretrained_weights" not in going_on
    assert json.loads((made.fold / "finetuning.json").read_text())["threads"] == 1
    assert "-pretrained_weights" in command(made, again=False)  # another training lay there
    assert not made.fold.exists()


def test_a_checkpoint_that_was_cut_short_is_passed_over(made: TrainingJob) -> None:
    made.fold.mkdir(parents=True)
    torch.save({}, made.fold / "checkpoint_best.pth")
    (made.fold / "checkpoint_latest.pth").write_bytes((made.fold / "checkpoint_best.pth").read_bytes()[:100])
    assert command(made, again=True)[-1] == "--c"
    assert not (made.fold / "checkpoint_latest.pth").exists()
    (made.fold / "checkpoint_best.pth").write_bytes(b"cut")
    assert "-pretrained_weights" in command(made, again=True)


def test_what_makes_a_training(made: TrainingJob, tmp_path: Path) -> None:
    key = made.job(threads=1).key
    assert made.job(threads=2).key == key
    moved = replace(made, request=replace(made.request, out=tmp_path / "elsewhere"), where=Folders(*[tmp_path] * 3))
    assert moved.job(threads=1).key == key
    other_weights = replace(made, contender=replace(made.contender, digest="another"))
    schedule = replace(made.training.schedule, epochs=9)
    others = [
        other_weights,
        replace(made, training=replace(made.training, schedule=schedule)),
        replace(made, training=replace(made.training, cases=("case_09",))),
    ]
    assert key not in {other.job(threads=1).key for other in others}


def test_the_schedules_threads_count_first(made: TrainingJob) -> None:
    assert json.loads(made.job(threads=2).environment[VARIABLE])["threads"] == 2
    own: Training = replace(made.training, schedule=replace(made.training.schedule, threads=7))
    assert json.loads(replace(made, training=own).job(threads=2).environment[VARIABLE])["threads"] == 7


def test_each_place_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _slot("cpu").words == ("-device", "cpu")
    assert dict(_slot("cuda").environment) == {}
    assert dict(_slot("cuda:1").environment) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-x")
    assert dict(_slot("cuda:1").environment) == {"CUDA_VISIBLE_DEVICES": "GPU-x"}
    assert _slot("cuda:1").words == ("-device", "cuda")


def test_variables_are_those_of_nnunet(made: TrainingJob) -> None:
    assert set(VARIABLES) <= set(made.job(threads=1).environment)
