"""DeSD: deep self-distillation (Ye et al., MICCAI 2022). Names are resolved late: listing is instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnssl_desd.method import DeSD as DeSD
    from nnssl_desd.trainer import DeSDTrainer as DeSDTrainer

PAPER = (
    "Ye, Zhang, Chen, Xia: DeSD: Self-Supervised Learning with Deep Self-Distillation for 3D Medical Image "
    "Segmentation, MICCAI 2022"
)


def __getattr__(name: str) -> object:
    if name == "DeSDTrainer":
        from nnssl_desd.trainer import DeSDTrainer

        return DeSDTrainer
    if name == "DeSD":
        from nnssl_desd.method import DeSD

        return DeSD
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
