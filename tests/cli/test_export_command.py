"""`nnssl_export` writes beside the weights, tells what moved and how to train, and refuses in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nnssl.cli.export import main
from nnssl.paths import VARIABLES
from tests.export.unets import unet_plans
from tests.export.weights import write_weights

MIDDLE = "Dataset004_T__nnUNetPlans__3d_fullres"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of 4 stages, and a target with flat kernels and two channels."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset004_T"
    folder.mkdir(parents=True)
    target = unet_plans("Dataset004_T", stages=4, flat=1, channels=2)
    (folder / "nnUNetPlans.json").write_text(json.dumps(target))
    deeper = unet_plans("Dataset004_T", stages=6)
    (folder / "deeper.json").write_text(json.dumps(deeper))
    write_weights(tmp_path / "w.pth", unet_plans(stages=4))
    return tmp_path


def test_it_tells_what_moved_and_how_to_train(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(workspace / "w.pth"), "-d", "4"]) == 0
    said = capsys.readouterr().out
    written = workspace / f"w__{MIDDLE}.pth"
    assert written.is_file()
    assert "encoder  100 % of 16 (15 exact, 1 adapted, 0 fresh)" in said
    assert "decoder  100 % of 18 (16 exact, 2 adapted, 0 fresh)" in said
    assert "1 adapted: 1 -> 2 input channels, kernel 3x3x3 -> 1x3x3" in said
    assert f"nnUNetv2_train 4 3d_fullres 0 -p nnUNetPlans -pretrained_weights {written}\n" in said


def test_formats_have_names_of_their_own(workspace: Path) -> None:
    for form in ("stock", "nnssl", "safetensors"):
        assert main([str(workspace / "w.pth"), "-d", "4", "--format", form]) == 0
    assert {path.name for path in workspace.glob("w__*")} == {
        f"w__{MIDDLE}.pth", f"w__{MIDDLE}__nnssl.pth", f"w__{MIDDLE}.safetensors",
    }  # fmt: skip


def test_the_seed_decides_what_stays_fresh_and_nothing_else(workspace: Path) -> None:
    def written(seed: int) -> dict[str, torch.Tensor]:
        path = workspace / f"seed{seed}.pth"
        options = ["-p", "deeper", "--min_transfer", "0.5", "--seed", str(seed), "-o", str(path)]
        assert main([str(workspace / "w.pth"), "-d", "4", *options]) == 0
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["network_weights"]
        return state

    one, again, other = written(1), written(1), written(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    source = torch.load(workspace / "w.pth", weights_only=True)["network_weights"]
    transferred = {name for name in one if name in source and torch.equal(one[name], source[name])}
    assert "encoder.stages.5.0.convs.0.conv.weight" in differing
    assert "encoder.stages.0.0.convs.0.conv.weight" in transferred
    assert not differing & {name for name in transferred if one[name].std() > 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-d", "4", "-p", "deeper"], "Only 67 % of the encoder's 24 tensors"),
        (["-d", "4", "--min_transfer", "90"], "share from 0 to 1, not 90"),
        (["-d", "4", "--channels", "0"], "for each of the data set's 2, not 0"),
        (["-d", "4", "--channels", "repeat", "0"], "'repeat' or channel numbers"),
        (["-d", "4", "--channels", "0", "1"], "(0 to 0)"),
        (["-d", "4", "--which", "teacher"], "no variant 'teacher'; it holds default"),
        (["-d", "4", "-c", "3d_lowres"], "must hold this configuration"),
        (["-d", "4", "-p", "none"], "none.json does not exist"),
        (["-d", "5"], "no data set with id 5"),
        (["-d", "4", "-o", "x.txt"], "writes a .pth file; -o names x.txt"),
        (["-d", "4", "-o", "nowhere/x.pth"], "is not there"),
        (["-d", "4", "-o", "SAME"], "would overwrite the weights"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    workspace: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    weights = str(workspace / "w.pth")
    before = sorted(workspace.iterdir())
    assert main([weights, *(weights if word == "SAME" else word for word in options)]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
    assert sorted(workspace.iterdir()) == before
