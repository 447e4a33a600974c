"""MAE: masked autoencoding of volumes with a U-Net. Names are resolved late: listing is instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnssl_mae.method import MAE as MAE
    from nnssl_mae.trainer import MAETrainer as MAETrainer

PAPER = (
    "He, Chen, Xie, Li, Dollar, Girshick: Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, arXiv:2111.06377"
)


def __getattr__(name: str) -> object:
    if name == "MAETrainer":
        from nnssl_mae.trainer import MAETrainer

        return MAETrainer
    if name == "MAE":
        from nnssl_mae.method import MAE

        return MAE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
