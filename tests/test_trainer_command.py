"""What `nnssl_pretrain` refuses before anything is trained: one sentence and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnssl.cli.pretrain import main
from tests.engine.workspace import TRAINERS, make_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("command"), cases=2)


@pytest.fixture(autouse=True)
def clean_environment(no_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnssl_extTrainer", str(TRAINERS))


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    """The one paragraph of a refused command."""
    assert main(words) == code
    message = " ".join(capsys.readouterr().err.split())
    assert message.startswith("nnssl_pretrain: ")
    return message


def test_missing_variables_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nnUNet_raw" in said(capsys, "701", "3d_fullres", "-tr", "TinyTrainer", code=2)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("702", "3d_fullres", "-tr", "TinyTrainer"), 2, "no data set with id 702"),
        (("701", "3d_fullres", "-tr", "TinyTrianer"), 2, "Did you mean TinyTrainer"),
        (("701", "3d_fulres", "-tr", "TinyTrainer"), 2, "They have: 3d_fullres"),
        (("701", "3d_fulres", "-tr", "TinyTrainer", "-p", "other"), 2, "Did you mean 3d_fullres"),
        (("701", "3d_fullres", "-tr", "TinyTrainer", "-p", "other", "--set", "epoch=2"), 1, "Did you mean epochs"),
        (("701", "3d_fullres", "-tr", "TinyTrainer", "-p", "other"), 1, "Plans of Dataset701_Tiny: nnsslPlans"),
        (("701", "3d_fullres", "-tr", "TinyTrainer", "-num_gpus", "0"), 2, "-num_gpus must be at least 1"),
        (("701", "3d_fullres", "-tr", "TinyTrainer", "--mix", "1", "2"), 2, "one weight for each of 1 data sets"),
        (("701", "3d_fullres", "-tr", "TinyTrainer", "--set", "epochs"), 1, "--set takes key=value"),
    ],
)
def test_bad_words_get_one_sentence(
    workspace: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, message: str
) -> None:
    assert message in said(capsys, *words, "-device", "cpu", "--workspace", str(workspace), code=code)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("ranks", ["1", "2"])
def test_gpu_that_is_not_there_is_not_replaced_in_silence(
    workspace: Path, capsys: pytest.CaptureFixture[str], ranks: str
) -> None:
    words = ("701", "3d_fullres", "-tr", "TinyTrainer", "-device", "cuda", "-num_gpus", ranks)
    assert "Use -device cpu" in said(capsys, *words, "--workspace", str(workspace), code=1)
