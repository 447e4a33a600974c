"""DeSD's `paper` preset brings its own plan, starts on it, and is refused on others with the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnssl.cli import plan_and_preprocess, pretrain
from tests.tiny import make_raw_dataset, make_thin, workspace_folders

pytestmark = [pytest.mark.pipeline, pytest.mark.usefixtures("no_folders")]
ASKED = ("--for", "DeSDTrainer", "--preset", "paper")
PAPER = ("745", "3d_fullres", "-tr", "DeSDTrainer", "--preset", "paper", "-device", "cpu")
SMALL = (
    "--set", "batch_size=2", "epochs=1", "steps_per_epoch=1", "threads=1", "method.prototypes=32", "method.hidden=16",
    "method.bottleneck=8", "method.head_norm=none",
)  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four CTs of 26 x 136 x 136 voxels of 1.25 x 1 x 1 mm: just larger than the published parent crop."""
    root = tmp_path_factory.mktemp("paper")
    make_raw_dataset(workspace_folders(root).raw, 745, 4, shape=(26, 138, 138), spacing_mm=(1.25, 1.0, 1.0))
    return root


def plan(workspace: Path, *arguments: str) -> int:
    return plan_and_preprocess.main(["--workspace", str(workspace), "-np", "2", "-d", "745", *arguments])


def refused(workspace: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert pretrain.main([*PAPER, *SMALL, "--workspace", str(workspace), *arguments]) == 1
    return " ".join(capsys.readouterr().err.split())


def test_the_paper_preset_plans_preprocesses_and_trains(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(workspace, *ASKED) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The preset brings its own plan: 1 mm voxels, patch [16, 96, 96] and 6 stages" in said
    assert "Pretrain with -p nnsslPlansDeSDPaper" in said
    home = workspace / "nnUNet_preprocessed" / "Dataset745_Tiny"
    configuration = json.loads((home / "nnsslPlansDeSDPaper.json").read_text())["configurations"]["3d_fullres"]
    assert (configuration["patch_size"], configuration["spacing"]) == ([16, 96, 96], [1.0, 1.0, 1.0])
    assert (home / "nnsslPlansDeSDPaper_3d_fullres" / "case_00_raw.b2nd").is_file()
    assert not (home / "nnsslPlans.json").exists()

    make_thin(home / "nnsslPlansDeSDPaper.json")
    arguments = [*PAPER, *SMALL, "-p", "nnsslPlansDeSDPaper", "--workspace", str(workspace)]
    assert pretrain.main(arguments) == 0
    run = workspace / "nnUNet_results" / "Dataset745_Tiny" / "DeSDTrainer__nnsslPlansDeSDPaper__3d_fullres" / "fold_all"
    assert (run / "checkpoint_final.pth").is_file()
    assert "Views of a sample: 2 global of (16, 96, 96) voxels" in next(run.glob("training_log_*")).read_text()


def test_another_plan_is_refused_with_the_command(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(workspace) == 0  # without raw values
    said = refused(workspace, capsys)
    assert "needs raw values" in said
    assert "nnssl_plan_and_preprocess -d 745 -c 3d_fullres --for DeSDTrainer --preset paper" in said
    assert plan(workspace, "--for", "DeSDTrainer", "--preset", "paper", "--only_pp", "-p", "nnsslPlans") == 0
    said = refused(workspace, capsys)
    assert "voxels of (1.0, 1.0, 1.0) mm (D H W); the plan's are (1.25, 1.0, 1.0) mm" in said
    assert "nnssl_plan_and_preprocess -d ID --for DeSDTrainer --preset paper" in said
    assert "-p nnsslPlansDeSDPaper" in said


def test_the_name_can_be_given_and_the_spacing_cannot(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(workspace, *ASKED, "--no_pp", "-overwrite_plans_name", "mine") == 0
    assert "--only_pp -p mine --for DeSDTrainer --preset paper" in " ".join(capsys.readouterr().out.split())
    assert plan(workspace, *ASKED, "-overwrite_target_spacing", "2", "2", "2") == 2
    assert "brings its own plan with voxels of 1 mm" in " ".join(capsys.readouterr().err.split())
