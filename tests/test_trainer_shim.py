"""Stock nnU-Net as the launcher: the same losses, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.processes import run
from tests.engine.workspace import FOLDER, environment, losses, make_workspace

STOCK = "import sys; from nnunetv2.run.run_training import run_training_entry; sys.exit(run_training_entry())"
WORDS = ("701", "3d_fullres", "all", "-p", "nnsslPlans", "-tr", "TinyTrainer", "-device", "cpu")


@pytest.mark.stock
def test_stock_nnunet_trains_our_trainer_to_the_same_losses(tmp_path: Path) -> None:
    root = make_workspace(tmp_path)
    code, words = run(root, "--name", "ours", "--set", "epochs=5", "steps_per_epoch=4", "save_every_minutes=60")
    assert code == 0, words
    recipe = root / FOLDER / "fold_all--ours" / "recipe.json"
    path = [sys.executable, "-c", "import sys; from nnssl.cli.ext_path import main; sys.exit(main())"]
    shim = subprocess.run(path, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    variables = environment(root, nnUNet_extTrainer=shim, NNSSL_RECIPE=str(recipe))
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *WORDS], env=variables, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses(root)) == 20
    assert losses(root) == losses(root, "ours")
    assert (root / FOLDER / "fold_all" / "checkpoint_final.pth").exists()
    again = subprocess.run(
        [sys.executable, "-c", STOCK, *WORDS, "--c"], env=variables, capture_output=True, text=True, timeout=240
    )
    assert again.returncode == 0 and "Continuing at step 20 of 20" in again.stdout, again.stdout + again.stderr
