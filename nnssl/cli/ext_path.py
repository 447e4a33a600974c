"""`nnssl_ext_path`: the folder for nnU-Net's `nnUNet_extTrainer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnssl.cli import _common

PROG = "nnssl_ext_path"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the folder that lets stock nnU-Net find every nnssl trainer."""
    parser = _common.parser(
        PROG,
        "Print the folder that lets stock nnUNetv2_train find every nnssl trainer.",
        examples=[
            "export nnUNet_extTrainer=$(nnssl_ext_path)",
            "nnUNetv2_train 745 3d_fullres all -p nnsslPlans -tr DeSDTrainer",
        ],
        workspace=False,
    )
    parser.parse_args(argv)
    print(Path(__file__).resolve().parents[1] / "nnunet_ext")
    return 0
