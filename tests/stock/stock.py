"""Runs stock nnU-Net's console commands on small labelled data sets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK
import torch
from torch import Tensor

TRAINER, PRIMUS_TRAINER = "TinyStockTrainer", "TinyPrimusTrainer"
CONFIGURATION = "3d_fullres"


@dataclass(frozen=True)
class Stock:
    """A workspace with nnU-Net's three folders, and nnU-Net's commands run in it."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "nnUNet_results"

    def environment(self) -> dict[str, str]:
        folders = {name: str(self.root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        small = {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
        return {**os.environ, **folders, **small, "nnUNet_extTrainer": str(Path(__file__).parent / "trainers")}

    def run(self, command: str, *arguments: str | Path) -> str:
        """Run a console command of this environment; its output, or a failed test that shows it."""
        program = Path(sys.executable).with_name(command)
        done = subprocess.run(
            [str(program), *map(str, arguments)],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{command} {arguments} failed:\n{output[-4000:]}"
        return output

    def preprocess(self, dataset: str, plans_name: str) -> None:
        self.run(
            "nnUNetv2_preprocess", "-d", number(dataset), "-plans_name", plans_name, "-c", CONFIGURATION, "-np", "1"
        )

    def train(self, dataset: str, plans_name: str, weights: Path, trainer: str = TRAINER) -> Path:
        """Fine-tune fold 0; the trainer's output folder."""
        self.run(
            "nnUNetv2_train", number(dataset), CONFIGURATION, "0", "-p", plans_name, "-tr", trainer,
            "-pretrained_weights", weights, "-device", "cpu",
        )  # fmt: skip
        return self.results / dataset / f"{trainer}__{plans_name}__{CONFIGURATION}" / "fold_0"

    def predict(self, dataset: str, plans_name: str, case: str) -> Path:
        """Predict one training case; the segmentation."""
        inputs, outputs = self.root / f"in_{plans_name}", self.root / f"out_{plans_name}"
        inputs.mkdir()
        for image in (self.raw / dataset / "imagesTr").glob(f"{case}_*.nii.gz"):
            shutil.copy(image, inputs)
        self.run(
            "nnUNetv2_predict", "-i", inputs, "-o", outputs, "-d", number(dataset), "-c", CONFIGURATION,
            "-p", plans_name, "-tr", TRAINER, "-f", "0", "-chk", "checkpoint_final.pth", "-device", "cpu",
            "-npp", "0", "-nps", "0", "--disable_tta",
        )  # fmt: skip
        return outputs / f"{case}.nii.gz"


def number(dataset: str) -> str:
    """`Dataset004_X` -> `4`."""
    return str(int(dataset[7:10]))


def copy_labelled(stock: Stock, source: Path, dataset: str, cases: Sequence[str], about: dict[str, Any]) -> None:
    """Copy the middle of real labelled cases into the workspace, the last one for validation.

    No more than 40 voxels an axis: nnU-Net's sliding window over a whole CT takes minutes on the CPU.
    """
    folder = stock.raw / dataset
    for part, suffix in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (folder / part).mkdir(parents=True)
        for case in cases:
            whole = SimpleITK.ReadImage(str(source / part / f"{case}{suffix}"))
            middle = tuple(slice(max(0, side // 2 - 20), side // 2 + 20) for side in whole.GetSize())
            SimpleITK.WriteImage(whole[middle], str(folder / part / f"{case}{suffix}"))
    dataset_json = {**about, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    write_split(folder, cases)


def write_split(folder: Path, cases: Sequence[str]) -> None:
    """One fold, the last case for validation; nnU-Net's planner copies it."""
    (folder / "splits_final.json").write_text(json.dumps([{"train": list(cases[:-1]), "val": [cases[-1]]}]))


def differing(fold: Path, weights: Path, promised: Sequence[str]) -> list[str]:
    """Promised tensors that training did not start from, each under all names nnU-Net has for it."""
    start: dict[str, Tensor] = torch.load(fold / "at_train_start.pth", weights_only=True)
    file: dict[str, Tensor] = torch.load(weights, weights_only=True)["network_weights"]
    names = [*promised, *(f"decoder.{name}" for name in promised if name.startswith("encoder."))]
    return [name for name in names if not torch.equal(start[name], file[name])]
