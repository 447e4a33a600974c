"""`nnssl_plan_like` writes a stock plan, prints the commands to go on with, and refuses in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnssl.cli.plan_like import main
from nnssl.paths import VARIABLES
from tests.export.weights import write_weights
from tests.tiny import Kind, make_raw_dataset, tiny_plans

NAME = "Dataset005_Tiny"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A labelled two-case CT data set with a fingerprint (nnU-Net's extractor takes 20 s however small the set)."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    make_raw_dataset(tmp_path / "nnUNet_raw", 5, 2, labels=True)
    folder = tmp_path / "nnUNet_preprocessed" / NAME
    folder.mkdir(parents=True)
    (tmp_path / "nnUNet_results").mkdir()
    intensity = tiny_plans(NAME)["foreground_intensity_properties_per_channel"]
    fingerprint = {
        "spacings": [[3.0, 2.0, 2.0]] * 2,
        "shapes_after_crop": np.array([[20, 30, 40], [22, 30, 40]]).tolist(),
        "foreground_intensity_properties_per_channel": intensity,
        "median_relative_size_after_cropping": 1.0,
    }
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return tmp_path


def weights(workspace: Path, *, kind: Kind = "ct") -> str:
    names = ("T1", "T2") if kind == "two" else (kind.upper(),)
    write_weights(workspace / "w.pth", tiny_plans("Dataset745_Pre", kind=kind), channel_names=names)
    return str(workspace / "w.pth")


def plan(workspace: Path, name: str) -> dict[str, object]:
    written = json.loads((workspace / "nnUNet_preprocessed" / NAME / f"{name}.json").read_text())
    configuration: dict[str, object] = written["configurations"]["3d_fullres"]
    return configuration


def test_writes_the_plan_and_prints_the_two_stock_commands(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # right for training on the CPU; nnU-Net's planner cannot bear it
    assert main([weights(workspace), "-d", "5"]) == 0
    said = capsys.readouterr().out
    assert "nnUNetv2_preprocess -d 5 -plans_name nnsslPlansLike745 -c 3d_fullres\n" in said
    weights_file = workspace / "w.pth"
    assert f"nnUNetv2_train 5 3d_fullres 0 -p nnsslPlansLike745 -pretrained_weights {weights_file}\n" in said
    assert "1.5/1.25/1 mm  from the weights (the data set's own would be 3/2/2)" in said
    assert plan(workspace, "nnsslPlansLike745")["spacing"] == [1.5, 1.25, 1.0]
    assert plan(workspace, "nnsslPlansLike745")["median_image_size_in_voxels"] == pytest.approx([42, 48, 80], abs=1)
    assert main([weights(workspace), "-d", "5"]) == 0, "the same plan again is no conflict"


def test_an_existing_plan_of_the_target_can_stand_for_its_own_side(workspace: Path) -> None:
    base = tiny_plans(NAME, plans_name="edited", spacing_mm=(2.5, 2.0, 2.0), patch_size=(40, 48, 48))
    (workspace / "nnUNet_preprocessed" / NAME / "edited.json").write_text(json.dumps(base))
    options = ["-p", "edited", "--keep_spacing", "--keep_patch", "-overwrite_plans_name", "Mine"]
    assert main([weights(workspace), "-d", "5", *options]) == 0
    assert plan(workspace, "Mine")["spacing"] == [2.5, 2.0, 2.0]
    assert plan(workspace, "Mine")["patch_size"] == [40, 48, 48]


@pytest.mark.parametrize("keep", [False, True])
def test_a_ct_window_is_the_pretrainings_unless_the_normalisation_is_kept(
    workspace: Path, capsys: pytest.CaptureFixture[str], keep: bool
) -> None:
    plans = tiny_plans("Dataset745_Pre")
    learned = plans["foreground_intensity_properties_per_channel"]["0"]
    own = dict(learned)
    learned |= {"mean": own["mean"] + 100, "std": own["std"] * 2}
    write_weights(workspace / "w.pth", plans)
    options = ["--keep_normalization"] if keep else []
    assert main([str(workspace / "w.pth"), "-d", "5", *options]) == 0
    name = "nnsslPlansLike745OwnNormalization" if keep else "nnsslPlansLike745"
    written = json.loads((workspace / "nnUNet_preprocessed" / NAME / f"{name}.json").read_text())
    assert written["foreground_intensity_properties_per_channel"]["0"] == (own if keep else learned)
    assert ("CT statistics of the pretraining too" in capsys.readouterr().out) != keep


def test_a_plan_that_is_there_and_differs_is_never_replaced(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = workspace / "nnUNet_preprocessed" / NAME / "nnsslPlansLike745.json"
    file.write_text("{}")
    assert main([weights(workspace), "-d", "5"]) == 1
    assert "exists and differs" in " ".join(capsys.readouterr().err.split())
    assert file.read_text() == "{}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-d", "6"], "no data set with id 6"),
        (["-d", "5", "-overwrite_plans_name", "a__b"], "must have no '__'"),
        (["-d", "5", "-p", "nothing"], "-p nothing needs"),
        (["-d", "5", "-np", "0"], "-np must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(
    workspace: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([weights(workspace), *options]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said


def test_weights_for_other_channels_are_refused_with_both_names(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([weights(workspace, kind="two"), "-d", "5"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "take 2 input channel(s) (T1, T2), Dataset005_Tiny has 1 (CT)" in said


def test_a_file_that_is_no_checkpoint_is_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "w.pth").write_text("hello")
    assert main([str(workspace / "w.pth"), "-d", "5"]) == 1
    assert "is no weights file" in " ".join(capsys.readouterr().err.split())


def test_a_network_that_nnunet_cannot_build_is_refused_before_a_plan_is_written(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    content = torch.load(weights(workspace), weights_only=True)
    about = content["nnssl_adaptation_plan"]
    about["architecture_plans"]["arch_class_name"] = "nowhere.SwinUNETR"
    (configuration,) = about["pretrain_plan"]["configurations"].values()
    configuration["architecture"]["network_class_name"] = "nowhere.SwinUNETR"
    torch.save(content, workspace / "w.pth")
    assert main([str(workspace / "w.pth"), "-d", "5"]) == 1
    assert "is not built: The plan's architecture names 'nowhere.S" in " ".join(capsys.readouterr().err.split())
    assert not list((workspace / "nnUNet_preprocessed" / NAME).glob("nnssl*.json"))


def test_weights_that_do_not_fit_their_own_architecture_are_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    content = torch.load(weights(workspace), weights_only=True)
    (configuration,) = content["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"].values()
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 16, 32, 48]
    torch.save(content, workspace / "w.pth")
    assert main([str(workspace / "w.pth"), "-d", "5"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "nnU-Net's own loader refuses the weights file" in said
    assert len(said) < 700, "nnU-Net's message holds the whole tensor"


def test_unlabelled_scans_are_sent_to_the_other_command(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_raw_dataset(workspace / "nnUNet_raw", 6, 1)
    assert main([weights(workspace), "-d", "6"]) == 1
    assert "has no labels" in " ".join(capsys.readouterr().err.split())
