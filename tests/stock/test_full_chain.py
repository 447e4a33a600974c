"""The README's road on real scans: plan, preprocess and pretrain without labels, then stock nnU-Net from the result.

Unlike the other stock tests the weights are trained ones, and every command is the one that the command before printed.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nnssl.export.tensors import decoder_names, encoder_names
from tests.stock.stock import CONFIGURATION, Stock
from tests.stock.test_fine_tuning import fine_tune, plan_like
from tests.tiny import Kind, tiny_plans

pytestmark = [pytest.mark.stock, pytest.mark.pipeline]
SCANS = 6
STEPS = ("epochs=1", "steps_per_epoch=3", "batch_size=4")


@dataclass(frozen=True)
class Scans:
    """Real scans without labels, and the tiny plan they are pretrained with.

    Attributes:
        dataset: number of the unlabelled data set.
        planned: number of the data set whose plan is taken: the target's own, or some other one.
        folder: the images, below the shared data.
        kind: what they show.
        spacing_mm: of the plan.
    """

    dataset: int
    planned: int
    folder: str
    kind: Kind
    spacing_mm: tuple[float, float, float]


def copy_unlabelled(stock: Stock, scans: Scans, shared: Path, channel: str) -> None:
    """The first cases that no labelled data set here holds."""
    images = stock.raw / f"Dataset{scans.dataset}_Unlabelled" / "imagesTr"
    if images.is_dir():
        return
    images.mkdir(parents=True)
    source = shared / scans.folder
    split = json.loads((source.parent / "splits.json").read_text())
    names = split.get("pretrain_unlabelled") or split["unlabelled"]
    for name in names[:SCANS]:
        shutil.copy(source / f"{name}_0000.nii.gz", images)
    about = {
        "channel_names": {"0": channel},
        "labels": {"background": 0},
        "numTraining": SCANS,
        "file_ending": ".nii.gz",
    }
    (images.parent / "dataset.json").write_text(json.dumps(about))


def tiny_plan_of(stock: Stock, scans: Scans, dataset: str, *, residual: bool) -> str:
    """Give a data set a small plan, as its own planning would leave it; the plan's name."""
    home = stock.preprocessed / dataset
    home.mkdir(exist_ok=True)
    (home / "dataset_fingerprint.json").write_text("{}")  # only copied by nnU-Net's trainer; taking it is slow
    name = f"chain{'ResEnc' if residual else ''}Plans"
    plans = tiny_plans(dataset, plans_name=name, kind=scans.kind, residual=residual, spacing_mm=scans.spacing_mm)
    (home / f"{name}.json").write_text(json.dumps(plans))
    for file in ("dataset.json", "splits_final.json"):
        found = stock.raw / dataset / file
        if found.is_file():
            shutil.copy(found, home)
    return name


def pretrain(stock: Stock, scans: Scans, plans_name: str, trainer: str) -> Path:
    """Plan like `scans.planned`, preprocess and pretrain; the weights that the last command says to start from."""
    target = ("-target", scans.planned, "-target_plans", plans_name, "-overwrite_plans_name", f"{trainer}Plans")
    words = [str(word) for word in ("-d", scans.dataset, "-np", 1, *target)]
    stock.run("nnssl_plan_and_preprocess", *words)
    place = (str(scans.dataset), CONFIGURATION, "-p", f"{trainer}Plans", "-tr", trainer, "-device", "cpu")
    said = stock.run("nnssl_pretrain", *place, "--set", *STEPS)
    found = re.search(r"-pretrained_weights (\S+checkpoint_final\.pth)", said)
    assert found is not None, said
    return Path(found[1])


def promised(weights: Path, trainer: str) -> list[str]:
    """What the file promises: MAE trains a decoder, DeSD none."""
    names = torch.load(weights, weights_only=True)["network_weights"]
    return encoder_names(names) + (decoder_names(names) if trainer == "MAETrainer" else [])


@pytest.fixture
def mr(stock: Stock, hippocampus: str, shared_data: Path) -> Scans:
    scans = Scans(745, 4, "Task04_Hippocampus/imagesTr", "mr", (1.0, 1.0, 1.0))
    copy_unlabelled(stock, scans, shared_data, "MRI")
    return scans


@pytest.fixture
def ct(stock: Stock, head_neck: str, shared_data: Path) -> Scans:
    scans = Scans(746, 9, "OpenKBP_HN/imagesUn", "ct", (5.0, 4.0, 4.0))
    copy_unlabelled(stock, scans, shared_data, "CT")
    return scans


@pytest.mark.parametrize(
    ("trainer", "residual"),
    [("DeSDTrainer", False), pytest.param("MAETrainer", True, marks=pytest.mark.slow)],
)
def test_pretrained_with_the_targets_plan(
    stock: Stock, hippocampus: str, mr: Scans, trainer: str, residual: bool
) -> None:
    name = tiny_plan_of(stock, mr, hippocampus, residual=residual)
    weights = pretrain(stock, mr, name, trainer)
    fine_tune(stock, hippocampus, name, weights, promised(weights, trainer))


@pytest.mark.parametrize(
    ("trainer", "residual"),
    [("MAETrainer", True), pytest.param("DeSDTrainer", False, marks=pytest.mark.slow)],
)
def test_pretrained_once_with_a_plan_of_its_own(
    stock: Stock, head_neck: str, ct: Scans, trainer: str, residual: bool
) -> None:
    other = "Dataset009_Other"
    (stock.raw / other).mkdir(exist_ok=True)
    about: dict[str, Any] = json.loads((stock.raw / head_neck / "dataset.json").read_text())
    (stock.raw / other / "dataset.json").write_text(json.dumps(about))
    weights = pretrain(stock, ct, tiny_plan_of(stock, ct, other, residual=residual), trainer)
    name = plan_like(stock, head_neck, weights)
    ours = json.loads((stock.preprocessed / "Dataset746_Unlabelled" / f"{trainer}Plans.json").read_text())
    written = json.loads((stock.preprocessed / head_neck / f"{name}.json").read_text())
    assert written["configurations"][CONFIGURATION]["spacing"] == [5.0, 4.0, 4.0]
    intensity = "foreground_intensity_properties_per_channel"
    assert written[intensity] == ours[intensity]
    fine_tune(stock, head_neck, name, weights, promised(weights, trainer))
