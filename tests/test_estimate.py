"""`nnssl_estimate` takes the run's own steps, writes nothing, and its numbers follow from what it did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnssl.cli.estimate import main
from nnssl.estimate import size_of
from tests.engine.workspace import FOLDER, TRAINERS, environment, make_workspace

WORDS = ("701", "3d_fullres", "-tr", "TinyTrainer", "-device", "cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("estimate"), cases=4)


@pytest.fixture(autouse=True)
def clean_environment(no_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnssl_extTrainer", str(TRAINERS))


def run(workspace: Path, *words: str) -> int:
    return main([*WORDS, "--workspace", str(workspace), "--set", "steps_per_epoch=4", *words])


def estimated(workspace: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, float]:
    assert run(workspace, "epochs=50", *words, "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


@pytest.mark.pipeline
def test_nothing_is_written(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_size for path in workspace.rglob("*")}
    estimated(workspace, capsys)
    assert run(workspace, "epochs=1", "--steps", "9") == 1
    assert {path: path.stat().st_size for path in workspace.rglob("*")} == before


def test_numbers_follow_from_each_other(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = estimated(workspace, capsys, "batch_size=2", "--steps", "4")
    large = estimated(workspace, capsys, "batch_size=4", "--steps", "4")
    assert large["flops"] == 2 * small["flops"] > 0
    for found in (small, large):
        assert (found["measured"], found["total_steps"]) == (4, 200)
        assert found["hours"] == pytest.approx(found["seconds"] * 200 / 3600)
        assert found["tflops"] == pytest.approx(found["flops"] / found["seconds"] / 1e12)
        assert 0 <= found["waiting"] <= 1
        assert found["memory"] > 2**26  # torch alone holds more
    assert large["state"] == small["state"]


@pytest.mark.pipeline
def test_the_state_is_as_large_as_the_one_a_run_saves(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = estimated(workspace, capsys)
    code = "import sys; from nnssl.cli.pretrain import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *WORDS, "--set", "epochs=1", "steps_per_epoch=2"]
    subprocess.run(command, env=environment(workspace), check=True)
    saved = torch.load(workspace / FOLDER / "fold_all" / "state_latest.pth", weights_only=True)
    assert found["state"] == size_of(saved["method"]) + size_of(saved["optimizer"])
    assert found["disk"] == 2 * found["state"]
    assert run(workspace, "epochs=2", "--steps", "1") == 0  # beside the run that is there now


def test_the_table_says_what_was_measured(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "epochs=50", "--steps", "2") == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[:3]] == ["run", "device", "a"]
    for words in (
        "TinyTrainer, 200 steps",
        "cpu, fp32",
        "median of 2",
        "GiB of this process",
        "TFLOP/s",
        "two training",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "0"), "--steps must be at least 1"),
        (("epochs=1", "--steps", "4"), "8 steps are needed to measure 4, but the run has 4"),
        (("epoch=1",), "Did you mean epochs"),
        (("-num_workers", "-1"), "-num_workers must not be negative"),
    ],
)
def test_what_cannot_be_estimated_is_said(
    workspace: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert run(workspace, *words) != 0
    assert message in " ".join(capsys.readouterr().err.split())
