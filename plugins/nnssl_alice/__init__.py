"""Alice: anatomical-invariant self-supervised learning (Jiang et al., ICCV 2023). Resolved late: listing is instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnssl_alice.method import Alice as Alice
    from nnssl_alice.trainer import AliceTrainer as AliceTrainer

PAPER = (
    "Jiang, Sun, Guo, et al.: Anatomical Invariance Modeling and Semantic Alignment for Self-supervised Learning in 3D "
    "Medical Image Analysis, ICCV 2023, arXiv:2302.05615"
)


def __getattr__(name: str) -> object:
    if name == "AliceTrainer":
        from nnssl_alice.trainer import AliceTrainer

        return AliceTrainer
    if name == "Alice":
        from nnssl_alice.method import Alice

        return Alice
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
