"""AnatEmbed: anatomical embeddings after SAM (Yan et al., TMI 2022). Names are resolved late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnssl_anatembed.method import AnatEmbed as AnatEmbed
    from nnssl_anatembed.trainer import AnatEmbedTrainer as AnatEmbedTrainer

PAPER = (
    "Yan, Cai, Jin, Miao, Guo, Harrison, Tang, Xiao, Lu, Lu: SAM: Self-supervised Learning of Pixel-wise Anatomical "
    "Embeddings in Radiological Images, IEEE TMI 2022, arXiv:2012.02383"
)


def __getattr__(name: str) -> object:
    if name == "AnatEmbedTrainer":
        from nnssl_anatembed.trainer import AnatEmbedTrainer

        return AnatEmbedTrainer
    if name == "AnatEmbed":
        from nnssl_anatembed.method import AnatEmbed

        return AnatEmbed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
