"""DINO in 3D (3DMedDINO, SPIE 2024; terms of DINOv2 and 3DINO). Names are resolved late: listing is instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnssl_dino3d.method import DINO3D as DINO3D
    from nnssl_dino3d.trainer import DINO3DTrainer as DINO3DTrainer

PAPER = (
    "3DMedDINO, Proc. SPIE 12926 (Medical Imaging 2024), doi 10.1117/12.3000850, after Caron et al.: Emerging "
    "Properties in Self-Supervised Vision Transformers (DINO), ICCV 2021, arXiv:2104.14294"
)


def __getattr__(name: str) -> object:
    if name == "DINO3DTrainer":
        from nnssl_dino3d.trainer import DINO3DTrainer

        return DINO3DTrainer
    if name == "DINO3D":
        from nnssl_dino3d.method import DINO3D

        return DINO3D
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
