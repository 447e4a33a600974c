"""Fine-tuning trainers: what rests is bit-equal, rates follow the formula, stock prediction takes the result."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nnssl.errors import RecipeError
from nnssl.evaluate.finetune.schedule import VARIABLE
from nnssl.paths import VARIABLES, folders
from tests.stock.stock import CONFIGURATION, write_split
from tests.stock.test_fine_tuning import pretrained
from tests.tiny import tiny_plans

pytestmark = pytest.mark.stock
DATASET, PLANS = "Dataset004_Tiny", "nnsslPlans"
SHORT = {"epochs": 3, "iterations_per_epoch": 2, "validation_iterations": 1, "mirroring": False, "threads": 1}


@pytest.fixture
def workspace(tmp_path: Path, tiny_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preprocessed labelled data set of its own, with one split; nnU-Net's variables point to it."""
    for variable in VARIABLES:
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    home = tmp_path / "nnUNet_preprocessed" / DATASET
    shutil.copytree(tiny_workspace / "nnUNet_preprocessed" / DATASET, home)
    shutil.copy(tiny_workspace / "nnUNet_raw" / DATASET / "dataset.json", home)
    (home / "dataset_fingerprint.json").write_text("{}")
    write_split(home, ["case_00", "case_01", "case_02"])
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


def built(name: str, settings: Mapping[str, object], monkeypatch: pytest.MonkeyPatch, *, go_on: bool = False) -> Any:
    """A trainer, initialised as `nnUNetv2_train` does."""
    from nnssl.evaluate.finetune import trainer as finetune_trainer

    monkeypatch.setenv(VARIABLE, json.dumps(dict(settings)))
    home = folders().preprocessed / DATASET
    plans = {**tiny_plans(DATASET), "continue_training": go_on}
    about = json.loads((home / "dataset.json").read_text())
    trainer = getattr(finetune_trainer, name)(plans, CONFIGURATION, 0, about, torch.device("cpu"))
    trainer.initialize()
    return trainer


def batches(trainer: Any) -> Iterator[dict[str, Any]]:
    """Random patches with deep supervision's targets."""
    generator = torch.Generator().manual_seed(5)
    while True:
        data = torch.randn(2, 1, 32, 32, 32, generator=generator)
        target = [(data[..., ::step, ::step, ::step] > 0).float() for step in (1, 2, 4)]
        yield {"data": data, "target": target}


def epochs(trainer: Any, count: int) -> Iterator[dict[str, Tensor]]:
    """The network's tensors after each epoch of training, and before the first."""
    yield {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    drawn = batches(trainer)
    for _ in range(count):
        trainer.on_train_epoch_start()
        for _ in range(trainer.num_iterations_per_epoch):
            trainer.train_step(next(drawn))
        trainer.current_epoch += 1
        yield {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[bool, bool]:
    """Whether any tensor of the encoder, and of the rest, changed."""
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    encoder = [name for name in changed if "encoder." in name]
    return bool(encoder), len(changed) > len(encoder)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("NnsslFinetuneWarmup", [(True, True)] * 3),
        ("NnsslFinetuneSawtooth", [(False, True), (True, True), (True, True)]),
        ("NnsslFinetuneFrozenThenThawed", [(False, True), (True, True), (True, True)]),
        ("NnsslFinetuneFrozen", [(False, True)] * 3),
    ],
)
def test_each_part_learns_when_its_schedule_says(
    name: str, phases: list[tuple[bool, bool]], optimizer: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(name, {**SHORT, "optimizer": optimizer, "weight_decay": 0.1}, monkeypatch)
    states = list(epochs(trainer, 3))
    assert [moved(before, after) for before, after in itertools.pairwise(states)] == phases


def test_every_step_has_the_rate_of_the_formula(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = built("NnsslFinetuneSawtooth", {**SHORT, "warmup": 0.4}, monkeypatch)
    drawn, seen = batches(trainer), []
    for _ in range(6):
        trainer.train_step(next(drawn))
        seen.append(trainer.optimizer.param_groups[0]["lr"])
    assert seen == [trainer.schedule.learning_rate(iteration) for iteration in range(6)]
    assert seen[1] > seen[0]
    assert seen[2] < seen[1]


def test_a_seed_decides_the_start(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = [next(epochs(built("NnsslFinetuneWarmup", {"seed": seed}, monkeypatch), 0)) for seed in (1, 1, 2)]
    assert moved(start[0], start[1]) == (False, False)
    assert moved(start[0], start[2]) == (True, True)


def test_a_continued_training_keeps_its_settings(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnssl.evaluate.finetune.trainer import SETTINGS

    first = built("NnsslFinetuneWarmup", SHORT, monkeypatch)
    first.schedule.save(Path(first.output_folder) / SETTINGS)
    assert built("NnsslFinetuneWarmup", {}, monkeypatch, go_on=True).schedule == first.schedule
    with pytest.raises(RecipeError, match="epochs=3 and cannot go on with 9"):
        built("NnsslFinetuneWarmup", {"epochs": 9}, monkeypatch, go_on=True)


def test_a_class_stands_for_its_schedule(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="NnsslFinetuneFrozen trains with the schedule frozen, not warmup"):
        built("NnsslFinetuneFrozen", {"schedule": "warmup"}, monkeypatch)


def command(program: str, *arguments: object, code: int = 0) -> str:
    """Run a console command; nnU-Net must find our trainers by itself, or not need them."""
    environment = {name: value for name, value in os.environ.items() if name not in ("nnUNet_extTrainer", VARIABLE)}
    small = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, arguments)],
        env={**environment, **small},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == code, output[-4000:]
    return output


@pytest.mark.pipeline
def test_fine_tune_with_one_line_and_predict_with_stock_nnunet(workspace: Path, tiny_workspace: Path) -> None:
    weights = workspace / "w.pth"
    pretrained(weights, tiny_plans(DATASET), channels=1, decoder=True)
    line = (4, CONFIGURATION, 0, "-w", weights, "--schedule", "frozen", "-device", "cpu")
    short = [f"{key}={value}" for key, value in SHORT.items() if key != "epochs"]
    said = command("nnssl_finetune", *line, "--epochs", 1, "--set", *short)
    assert "-tr NnsslFinetuneFrozen -f 0 -i IMAGES -o PREDICTIONS" in said

    fold = workspace / "nnUNet_results" / DATASET / f"NnsslFinetuneFrozen__{PLANS}__{CONFIGURATION}" / "fold_0"
    trained = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    before: dict[str, Tensor] = torch.load(weights, weights_only=True)["network_weights"]
    encoder = [name for name in before if "encoder." in name]
    assert encoder
    assert all(torch.equal(before[name], trained["network_weights"][name]) for name in encoder)
    assert "foreground_mean" in json.loads((fold / "validation" / "summary.json").read_text())

    images = workspace / "images"
    images.mkdir()
    shutil.copy(tiny_workspace / "nnUNet_raw" / DATASET / "imagesTr" / "case_03_0000.nii.gz", images)
    command(
        "nnUNetv2_predict", "-d", 4, "-c", CONFIGURATION, "-p", PLANS, "-tr", "NnsslFinetuneFrozen", "-f", 0,
        "-i", images, "-o", workspace / "out", "-device", "cpu", "-npp", 0, "-nps", 0,
    )  # fmt: skip
    assert (workspace / "out" / "case_03.nii.gz").is_file()

    refused = command("nnssl_finetune", *line, code=1)
    assert "holds a training already" in refused


def test_what_cannot_be_fine_tuned_is_said_before_anything_starts(workspace: Path) -> None:
    from nnssl.errors import NnsslError
    from nnssl.evaluate.finetune.run import Request, prepare

    weights = workspace / "w.pth"
    pretrained(weights, tiny_plans(DATASET), channels=1, decoder=False)
    other = workspace / "other.pth"
    pretrained(other, tiny_plans(DATASET, residual=True), channels=1, decoder=False)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"fold": "first"}, "fold is a number"),
        ({"configuration": "3d_fulres"}, "Did you mean 3d_fullres"),
        ({"weights": None, "schedule": "frozen"}, "needs pretrained weights"),
        ({"weights": None, "continue_run": True, "plans_name": PLANS}, "none in"),
        ({"continue_run": True}, "Give one of them"),
        ({"weights": workspace / "none.pth"}, "not there"),
        ({"weights": other}, "network"),
        ({"settings": {"epoch": "3"}}, "Did you mean epochs"),
        ({"plans_name": "fooPlans"}, "fooPlans.json is needed"),
    ]
    for given, message in cases:
        words: dict[str, Any] = {"target": "4", "configuration": CONFIGURATION, "fold": "0", "weights": weights}
        with pytest.raises(NnsslError, match=message):
            prepare(Request(**{**words, **given}))
    assert prepare(Request(target="4", configuration=CONFIGURATION, fold="0", weights=weights)).plans_name == PLANS
