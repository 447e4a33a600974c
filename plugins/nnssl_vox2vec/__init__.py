"""vox2vec: contrastive learning of voxels (Goncharov et al., MICCAI 2023). Names are resolved late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnssl_vox2vec.method import Vox2Vec as Vox2Vec
    from nnssl_vox2vec.trainer import Vox2VecTrainer as Vox2VecTrainer

PAPER = (
    "Goncharov, Soboleva, Kurmukov, Pisov, Belyaev: vox2vec: A Framework for Self-supervised Contrastive Learning of "
    "Voxel-Level Representations in Medical Images, MICCAI 2023, arXiv:2307.14725"
)


def __getattr__(name: str) -> object:
    if name == "Vox2VecTrainer":
        from nnssl_vox2vec.trainer import Vox2VecTrainer

        return Vox2VecTrainer
    if name == "Vox2Vec":
        from nnssl_vox2vec.method import Vox2Vec

        return Vox2Vec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
