"""Alice through the commands: `--for` makes masks and table, and the run says and keeps who matched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnssl.cli import plan_and_preprocess, pretrain
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
