"""Files made to do harm, and the commands that read weights."""

from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def bombs(mark: Path) -> dict[str, Callable[[Path], object]]:
    """{kind: writer} of files that make `mark` where anybody runs what is in them."""
    inside = {"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(1)}, "bomb": Bomb(mark)}
    return {
        "torch zip": lambda file: torch.save(inside, file),
        "torch file of before 1.6": lambda file: torch.save(inside, file, _use_new_zipfile_serialization=False),
        "bare pickle": lambda file: file.write_bytes(pickle.dumps(Bomb(mark))),
        "zip of a pickle": lambda file: _zip(file, {"archive/data.pkl": pickle.dumps(Bomb(mark))}),
        "zip that leads out": lambda file: _zip(file, {"../../leads/out": b"x", f"/{mark.name}": b"x"}),
        "zip that grows": lambda file: _zip(file, {"archive/data.pkl": bytes(20_000_000)}),
        "tar": _tar,
    }


def _zip(file: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _tar(file: Path) -> None:
    with tarfile.open(file, "w:gz") as archive:
        archive.add(__file__, "../../leads/out")


def readers(root: Path, weights: Path) -> dict[str, Sequence[str]]:
    """{command: its words} of every command that reads weights, in a workspace with data set 4 and scans of it."""
    place = ["--workspace", str(root)]
    file, out = str(weights), str(root / "out")
    image = str(root / "nnUNet_raw" / "Dataset004_Tiny" / "imagesTr" / "case_00_0000.nii.gz")
    compared = ["4", "3d_fullres", "-w", file, "-p", "nnsslPlans", "-device", "cpu", "-o", out, "--dry_run", *place]
    return {
        "doctor": [file, "-d", "4", "-p", "nnsslPlans", *place],
        "export": [file, "-d", "4", "-p", "nnsslPlans", "-o", str(root / "fitted.pth"), *place],
        "plan_like": [file, "-d", "4", *place],
        "finetune": ["4", "3d_fullres", "0", "-w", file, "-p", "nnsslPlans", "-device", "cpu", *place],
        "compare": compared,
        "features": [file, image, "-o", out],
        "probe": [file, "-d", "4", "-p", "nnsslPlans", "-device", "cpu", "-o", out, *place],
        "classify": [file, "--csv", str(root / "classes.csv"), "-device", "cpu", "-o", out],
        "match": [file, "-d", "4", "--matcher", "sam", "--case", "case_00", "--points", "0,0,0", "-o", out, *place],
        "pretrain": ["745", "3d_fullres", "-tr", "MAETrainer", "-device", "cpu", "-pretrained_weights", file, *place],
    }
