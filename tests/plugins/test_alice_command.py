"""Alice through the commands: `--for` makes masks and table, and the run says and keeps who matched."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK
import torch

from nnssl.cli import plan_and_preprocess, pretrain
from nnssl.data.tables import read_matches, write_matches
from nnssl.needs import Match
from tests.tiny import make_raw_dataset, make_thin, workspace_folders

pytestmark = [pytest.mark.pipeline, pytest.mark.usefixtures("no_folders")]
SMALL = (
    "--set", "batch_size=4", "epochs=1", "steps_per_epoch=1", "threads=1", "method.prototypes=16", "method.hidden=12",
    "method.bottleneck=8", "method.casa_width=8",
)  # fmt: skip


def test_one_command_suffices_and_the_matcher_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = workspace_folders(tmp_path).raw
    make_raw_dataset(raw, 745, 4)
    at = ["--workspace", str(tmp_path)]
    assert plan_and_preprocess.main([*at, "-np", "1", "-d", "745", "--for", "AliceTrainer"]) == 0
    home = tmp_path / "nnUNet_preprocessed" / "Dataset745_Tiny"
    data = home / "nnsslPlans_3d_fullres"
    assert (data / "matches.csv").is_file() and (data / "case_00.body.npz").is_file()
    make_thin(home / "nnsslPlans.json")
    start = ["745", "3d_fullres", "-tr", "AliceTrainer", "-device", "cpu", *at]
    assert pretrain.main([*start, *SMALL]) == 0
    run = tmp_path / "nnUNet_results" / "Dataset745_Tiny" / "AliceTrainer__nnsslPlans__3d_fullres" / "fold_all"
    assert "Dataset745_Tiny: matched points by" in next(run.glob("training_log_*")).read_text()
    kept = torch.load(run / "checkpoint_final.pth", weights_only=True)
    told = kept["provenance"]["data"]["matchers"]["Dataset745_Tiny"]
    rows = (data / "matches.csv").read_text().splitlines()[1:]
    assert sum(told.values()) == len(rows)
    assert all(who.split(":")[0] in ("affine", "body") for who in told)
    assert kept["provenance"]["recipe"]["method"]["casa"] == "paper"
    assert any(name.startswith("decoder.") for name in kept["network_weights"])
    capsys.readouterr()
    (data / "matches.csv").write_text("\n".join([(data / "matches.csv").read_text().splitlines()[0], *rows[1:]]) + "\n")
    assert pretrain.main([*start, "--c"]) == 1
    assert "cannot be continued on" in capsys.readouterr().err


def test_matches_of_ones_own_take_the_place_of_registration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnssl.match.table.make_table", None)  # nothing is registered
    raw = workspace_folders(tmp_path).raw
    make_raw_dataset(raw, 745, 4)
    names, home = [f"case_{number:02}" for number in range(4)], tmp_path / "nnUNet_preprocessed" / "Dataset745_Tiny"
    scans = {name: SimpleITK.ReadImage(str(next((raw / home.name / "imagesTr").glob(f"{name}_*")))) for name in names}
    middle = {
        name: scan.TransformContinuousIndexToPhysicalPoint([side / 2 for side in scan.GetSize()])
        for name, scan in scans.items()
    }
    own = [
        Match(case_a=a, point_a_mm=middle[a], case_b=b, point_b_mm=middle[b], score=1.0)
        for a, b in zip(names, names[1:] + names[:1], strict=True)
    ]
    write_matches(tmp_path / "own.csv", own)
    command = ["--workspace", str(tmp_path), "-np", "1", "-d", "745", "--for", "AliceTrainer"]
    assert plan_and_preprocess.main([*command, "--matches", str(tmp_path / "own.csv")]) == 0
    assert "4 matches taken over." in capsys.readouterr().out
    stored = home / "nnsslPlans_3d_fullres" / "matches.csv"
    assert read_matches(stored) == own
    assert plan_and_preprocess.main(command) == 0  # and it stays
    assert read_matches(stored) == own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--for", "MAETrainer", "--matches", "own.csv"], "trainers that need matched points"),
        (["--for", "AliceTrainer", "--no_pp", "--matches", "own.csv"], "neither --no_pp nor --part"),
        (["--for", "AliceTrainer", "--matches", "absent.csv"], "absent.csv is not there"),
    ],
)
def test_matches_that_cannot_be_meant_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    make_raw_dataset(workspace_folders(tmp_path).raw, 745, 1)
    assert plan_and_preprocess.main(["--workspace", str(tmp_path), "-d", "745", *words]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
