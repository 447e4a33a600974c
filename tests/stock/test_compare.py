"""A whole comparison: fair arms, honest report, no training done twice, figures that the predictions confirm."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.cli.compare import main
from nnssl.evaluate.commands import Runner, Slot, program
from nnssl.evaluate.compare.plan import Request, make_arms
from nnssl.evaluate.compare.run import Comparison
from nnssl.evaluate.compare.start import write_start
from nnssl.evaluate.compare.target import settle_target
from nnssl.evaluate.finetune.schedule import VARIABLE
from nnssl.evaluate.statistics import dice_per_class, mean_dice
from nnssl.paths import VARIABLES, folders
from tests.evaluate.comparisons import Silent, labels_of
from tests.stock.stock import CONFIGURATION
from tests.stock.test_fine_tuning import pretrained
from tests.tiny import tiny_plans

pytestmark = [pytest.mark.stock, pytest.mark.pipeline]
DATASET = "Dataset004_Tiny"
SHORT = ("epochs=3", "iterations_per_epoch=2", "curve_cases=1", "threads=1")


@pytest.fixture
def workspace(tmp_path: Path, tiny_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A labelled data set with two cases to train on and two to test on, and weights for its plan."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for variable in VARIABLES:
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in VARIABLES[:2]:
        shutil.copytree(tiny_workspace / variable / DATASET, tmp_path / variable / DATASET)
    home = tmp_path / "nnUNet_preprocessed" / DATASET
    shutil.copy(tmp_path / "nnUNet_raw" / DATASET / "dataset.json", home)
    split = {"train": ["case_00", "case_01"], "val": ["case_02", "case_03"]}
    (home / "splits_final.json").write_text(json.dumps([split]))
    pretrained(tmp_path / "w.pth", tiny_plans(DATASET), channels=1, decoder=False)
    return tmp_path


def request(workspace: Path, out: Path) -> Request:
    """The comparison of the tests below, from Python."""
    settings = dict(word.split("=") for word in SHORT)
    return Request(
        targets=["4"], configuration=CONFIGURATION, weights=[workspace / "w.pth"], labels=["1"], replicates=1,
        settings=settings, out=out,
    )  # fmt: skip


def compare(workspace: Path, *arguments: object, code: int = 0) -> None:
    """Run the command in this process; its trainings are processes of their own."""
    words = [4, CONFIGURATION, "-w", workspace / "w.pth", "-device", "cpu", "-o", workspace / "out", *arguments]
    assert main([str(word) for word in words]) == code


def recomputed(workspace: Path, fold: Path) -> dict[str, float]:
    """Mean Dice of each saved prediction."""
    truth = workspace / "nnUNet_raw" / DATASET / "labelsTr"
    scores = {
        file.name.removesuffix(".nii.gz"): dice_per_class(labels_of(file), labels_of(truth / file.name), [1, 2])
        for file in (fold / "validation").glob("*.nii.gz")
    }
    return {case: mean_dice(row) for case, row in scores.items()}


def interrupted(workspace: Path, words: Sequence[object]) -> int:
    """Start the command, stop it with SIGTERM once a training has passed its first epoch; its exit code."""
    arguments = [4, CONFIGURATION, "-w", workspace / "w.pth", "-device", "cpu", "-o", workspace / "out", *words]
    process = subprocess.Popen([program("nnssl_compare"), *map(str, arguments)])
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if any(len(json.loads(file.read_text())) > 1 for file in (workspace / "out").glob("*/*/*/*/fold_0/curve.json")):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    return process.wait(60)


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the only training from scratch below."""
    (file,) = folder.glob("scratch/*/*/*/fold_0/checkpoint_final.pth")
    weights: dict[str, torch.Tensor] = torch.load(file, weights_only=False)["network_weights"]
    return weights


def test_a_comparison_stopped_and_continued_to_the_report(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--labels", 1, "--replicates", 1, "--set", *SHORT, "--devices", "cpu", "cpu")
    assert interrupted(workspace, words) == 128 + signal.SIGTERM
    out = workspace / "out"
    assert list((out / "logs").glob("*.begun"))
    assert not list(out.glob("*/*/*/*/fold_0/checkpoint_final.pth"))

    compare(workspace, *words)  # which refuses as long as a process of the first call lives
    said = capsys.readouterr().out
    assert "2 test subjects cannot show any difference" in said
    assert "does not say which scans it saw" in said
    assert "too few subjects for a claim" in said
    logs = "".join(file.read_text() for file in (out / "logs").glob("*.log"))
    assert "Epoch 1" in logs
    report = json.loads((out / "report.json").read_text())
    found = report["targets"][DATASET]["labels"]["1"]
    folds = {path.relative_to(out).parts[0]: path.parent for path in out.glob("*/*/Dataset*/*/fold_0/final.json")}
    assert set(folds) == set(found["arms"]) == set(report["arms"]) == {"scratch", "w"}
    for arm, value in found["arms"].items():
        of_cases = {
            case: mean_dice(dict(enumerate(np.nan if v is None else v for v in scores["dice"].values())))
            for case, scores in value["cases"].items()
        }
        assert of_cases == pytest.approx(recomputed(workspace, folds[arm]), abs=1e-6)
        assert [point[0] for point in value["curve"]] == [0, 2, 4, 6]  # no measurement is lost or made twice

    twin = Comparison(request(workspace, workspace / "twin"), folders(), Silent())
    scratch = next(one for one in twin.trainings[DATASET] if one.arm == "scratch")
    Runner(workspace / "twin" / "logs", Silent()).run(
        twin.job(twin.targets[0], scratch).job(threads=1), slots=[Slot(words=("-device", "cpu"))]
    )
    continued, whole = final_weights(out), final_weights(workspace / "twin")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in continued.items())


def test_both_arms_start_with_one_decoder(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnssl.evaluate.finetune.measured import NnsslMeasuredFinetune

    monkeypatch.setenv(VARIABLE, '{"seed": 3}')
    asked = request(workspace, workspace)
    arms = make_arms(asked)
    target = settle_target("4", asked, arms, folders())
    weights = next(arm.weights for arm in arms.values() if arm.weights is not None)
    write_start(workspace / "start.pth", weights, target, 3)
    start = torch.load(workspace / "start.pth", weights_only=True)
    file = torch.load(workspace / "w.pth", weights_only=True)["network_weights"]
    plans = {**target.plans, "continue_training": False}
    trainer = NnsslMeasuredFinetune(plans, CONFIGURATION, 0, dict(target.about), torch.device("cpu"))
    trainer.initialize()
    scratch = trainer.network.state_dict()
    for name, tensor in start["network_weights"].items():
        expected = file[name] if "encoder." in name else scratch[name]
        assert torch.equal(tensor, expected), name


def test_a_dry_run_trains_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(workspace, "--labels", 1, "all", "--dry_run")
    said = capsys.readouterr().out
    assert "12 trainings" in said
    assert "0 of 12 trainings are done; the rest takes about" in said
    assert not (workspace / "out" / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--labels", "1", "--strict"), 1, "--strict: .* does not say which scans it saw"),
        (("--labels", "3"), 2, "needs that many training subjects; the fold has 2"),
        (("--labels", "few"), 2, "numbers of labelled subjects and 'all'"),
        (("--labels", "1", "--folds", "1"), 2, "has the folds 0 to 0"),
        (("--set", "seed=4"), 2, "draws it itself"),
        (("--labels", "1", "--equal_compute"), 1, "needs what the pretraining cost"),
    ],
)
def test_what_cannot_be_compared_is_said_at_once(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    compare(workspace, *arguments, "--dry_run", code=code)
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
