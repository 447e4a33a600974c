"""torchrun gives the losses of one rank, and several data sets are mixed: whole commands on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.workspace import DATASET, command, environment, losses, make_workspace, pretrain

pytestmark = pytest.mark.pipeline
EXACT = ("--set", "precision=fp64", "method.dropout=0", "optimizer.lr=1e-3")
SECOND = "Dataset702_Tiny"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset701_Tiny, and its cases once more as Dataset702_Tiny."""
    root = make_workspace(tmp_path_factory.mktemp("ranks"))
    home, other = (root / "nnUNet_preprocessed" / name for name in (DATASET, SECOND))
    for file in sorted(home.rglob("*")):
        copy = other / file.relative_to(home)
        if file.is_dir():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        named = file.suffix == ".json"
        copy.write_bytes(file.read_bytes().replace(DATASET.encode(), SECOND.encode()) if named else file.read_bytes())
    return root


def test_torchrun_gives_the_losses_of_one_rank(workspace: Path) -> None:
    pretrain(workspace, "--name", "one", *EXACT)
    beside = Path(sys.executable).parent
    done = subprocess.run(
        [
            str(beside / "torchrun"), "--standalone", "--nproc_per_node", "2", str(beside / "nnssl_pretrain"),
            *command("--name", "two", *EXACT)[3:],
        ],
        env=environment(workspace), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rank(s)" in done.stdout + done.stderr
    one, two = losses(workspace, "one"), losses(workspace, "two")
    assert len(one) == 6
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)


def test_two_data_sets_are_mixed_as_weighted(workspace: Path) -> None:
    words = command("--name", "mixed", "--mix", "1", "2")
    words.insert(words.index("3d_fullres"), "702")
    done = subprocess.run(
        words, env={**os.environ, **environment(workspace)}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = workspace / "nnUNet_results" / DATASET / "TinyTrainer__nnsslPlans__3d_fullres" / "fold_all--mixed"
    data = json.loads((folder / "recipe.json").read_text())["data"]
    assert data["datasets"] == [DATASET, SECOND] and data["mix"] == [1.0, 2.0]
    told = torch.load(folder / "checkpoint_final.pth", weights_only=True)["provenance"]["data"]["sources"]
    assert {name.split("/")[0] for name in told} == {DATASET, SECOND}
    assert len(losses(workspace, "mixed")) == 6
