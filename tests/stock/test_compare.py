"""A whole comparison: fair arms, honest report, no training done twice, figures that the predictions confirm."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch

from nnssl.cli.compare import main
from nnssl.evaluate.statistics import dice_per_class, mean_dice
from nnssl.paths import VARIABLES
from tests.stock.stock import CONFIGURATION
from tests.stock.test_fine_tuning import pretrained
from tests.tiny import tiny_plans

pytestmark = [pytest.mark.stock, pytest.mark.pipeline]
DATASET = "Dataset004_Tiny"
SHORT = ("epochs=1", "iterations_per_epoch=2", "curve_cases=1", "threads=1")


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


def compare(workspace: Path, *arguments: object, code: int = 0) -> None:
    """Run the command in this process; its trainings are processes of their own."""
    words = [4, CONFIGURATION, "-w", workspace / "w.pth", "-device", "cpu", "-o", workspace / "out", *arguments]
    assert main([str(word) for word in words]) == code


def recomputed(workspace: Path, fold: Path) -> dict[str, float]:
    """Mean Dice of each saved prediction."""

    def read(path: Path) -> Any:
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.int64)

    truth = workspace / "nnUNet_raw" / DATASET / "labelsTr"
    return {
        file.name.removesuffix(".nii.gz"): mean_dice(dice_per_class(read(file), read(truth / file.name), [1, 2]))
        for file in (fold / "validation").glob("*.nii.gz")
    }


def test_a_comparison_from_the_first_word_to_the_report(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--labels", 1, "--replicates", 1, "--set", *SHORT, "-j", 2)
    compare(workspace, *words)
    said = capsys.readouterr().out
    assert "2 test subjects cannot show any difference" in said
    assert "does not say which scans it saw" in said
    assert "too few cases for a claim" in said

    out = workspace / "out"
    report = json.loads((out / "report.json").read_text())
    found = report["targets"][DATASET]["labels"]["1"]
    folds = {path.relative_to(out).parts[0]: path.parent for path in out.glob("*/*/Dataset*/*/fold_0/final.json")}
    assert set(folds) == set(found["arms"]) == set(report["arms"])
    assert len(folds) == 2
    for arm, value in found["arms"].items():
        assert value["cases"] == pytest.approx(recomputed(workspace, folds[arm]), abs=1e-6)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert 'src="http' not in page
    assert all(f"{value['mean']:.3f}" in page for value in found["arms"].values())

    marks = {file: file.stat().st_mtime_ns for file in (out / "logs").glob("*.done")}
    assert len(marks) == 2
    compare(workspace, *words)
    assert marks == {file: file.stat().st_mtime_ns for file in (out / "logs").glob("*.done")}
    capsys.readouterr()
    compare(workspace, "--labels", 1, "--set", "epochs=2", "--dry_run", code=2)
    assert "holds a comparison of other" in capsys.readouterr().err


def test_both_arms_start_with_one_decoder(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnssl.evaluate.compare_plan import Request, make_arms
    from nnssl.evaluate.compare_start import write_start
    from nnssl.evaluate.compare_target import settle_target
    from nnssl.evaluate.finetune_measured import NnsslMeasuredFinetune
    from nnssl.evaluate.finetune_schedule import VARIABLE
    from nnssl.paths import folders

    monkeypatch.setenv(VARIABLE, '{"seed": 3}')
    request = Request(targets=["4"], configuration=CONFIGURATION, weights=[workspace / "w.pth"], labels=["1"], out=workspace)
    arms = make_arms(request)
    target = settle_target("4", request, arms, folders())
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
