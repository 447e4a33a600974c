"""The whole demonstration, as short as it goes: every real command, a report, and no step done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.pipeline, pytest.mark.stock]


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("nnssl_demo")), "--out", str(folder), "-device", "cpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    done = demo(folder, "--minutes", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Mean Dice of 16 test subjects" in done.stdout
    return folder


def test_it_leaves_a_report_and_a_picture(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert set(report["labels"]) == {"1", "5"}
    assert len(report["labels"]["5"]["pretrained"]["cases"]) == 16
    assert report["probe"]["difference"]["sentence"]
    assert (finished / "comparison.png").stat().st_size > 20_000


def test_the_pretrained_arm_began_from_the_weights_and_scratch_did_not(finished: Path) -> None:
    assert "Loading pretrained weights" in (finished / "logs" / "pretrained_5.log").read_text()
    assert "Loading pretrained weights" not in (finished / "logs" / "scratch_5.log").read_text()


def test_called_again_it_only_measures(finished: Path) -> None:
    marks = {path: path.stat().st_mtime_ns for path in (finished / "logs").glob("*.done")}
    before = (finished / "report.json").read_text()
    done = demo(finished, "--minutes", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in (finished / "logs").glob("*.done")} == marks
    after = json.loads((finished / "report.json").read_text())
    assert after["labels"] == json.loads(before)["labels"]
    assert after["probe"] == json.loads(before)["probe"]


def test_other_settings_in_the_same_folder_are_refused(finished: Path) -> None:
    done = demo(finished, "--minutes", "0.2")
    assert done.returncode == 2
    assert "other settings" in done.stderr


def test_a_misspelt_trainer_is_named_at_once(tmp_path: Path) -> None:
    done = demo(tmp_path / "new", "--trainer", "MAETrainr")
    assert done.returncode != 0
    assert "MAETrainer" in done.stderr
    assert not (tmp_path / "new").exists()
