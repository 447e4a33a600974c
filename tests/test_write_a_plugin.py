"""The plugin in docs/how-to/write-a-plugin.md is found by name, keeps the contract and trains by the real command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnssl.cli.pretrain import main as pretrain
from nnssl.registry import find_trainer
from nnssl.testing import check_method
from tests.cli_reference import ROOT
from tests.engine.workspace import make_workspace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's first Python block, saved where the page says."""
    page = (ROOT / "docs/how-to/write-a-plugin.md").read_text()
    code = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert code is not None
    file = tmp_path / "plugins_of_mine" / "rotation.py"
    file.parent.mkdir()
    file.write_text(code[1])
    monkeypatch.setenv("nnssl_extTrainer", str(file.parent))
    return tmp_path


def test_it_keeps_the_contract(folder: Path) -> None:
    check_method(find_trainer("RotationTrainer"))


@pytest.mark.pipeline
def test_it_trains_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = make_workspace(folder / "workspace")
    words = ["701", "3d_fullres", "-tr", "RotationTrainer", "-device", "cpu", "--workspace", str(workspace)]
    assert pretrain([*words, "--set", "epochs=1", "steps_per_epoch=2", "batch_size=2", "threads=1"]) == 0
    assert "-pretrained_weights" in capsys.readouterr().out
