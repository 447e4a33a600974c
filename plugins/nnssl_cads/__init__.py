"""CADS: cross-modal alignment and deep self-distillation (Ye et al., IEEE TMI 2025). Names are resolved late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnssl_cads.method import CADS as CADS
    from nnssl_cads.trainer import CADSTrainer as CADSTrainer

PAPER = (
    "CADS: A Self-supervised Learner via Cross-modal Alignment and Deep Self-distillation for CT Volume Segmentation, "
    "IEEE Transactions on Medical Imaging 44(1):118-129, 2025, doi 10.1109/TMI.2024.3431916"
)


def __getattr__(name: str) -> object:
    if name == "CADSTrainer":
        from nnssl_cads.trainer import CADSTrainer

        return CADSTrainer
    if name == "CADS":
        from nnssl_cads.method import CADS

        return CADS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
