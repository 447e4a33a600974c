"""The projector of DINO (Caron et al. 2021, section 3 and appendix C), on pooled feature maps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.losses import wide
from nnssl.blocks.pooling import Pooling, pool

HeadNorm = Literal["none", "hidden", "ends", "everywhere"]
"""Where a `DINOHead` has batch norm; configurations list those of the four that they allow."""


class Prototypes(nn.Module):
    """A linear layer with weight norm whose gain is frozen at 1: every logit is a cosine in [-1, 1].

    The normalisation is written out: torch's old `weight_norm` cannot be deep-copied, and a gain that never moves
    needs no parameter.

    Attributes:
        weight: (K, d) directions; only their direction matters.
    """

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Linear(width, prototypes, bias=False).weight  # torch's own initialisation, as published

    def effective_weight(self) -> Tensor:
        """(K, d) rows of length 1."""
        return F.normalize(self.weight, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) cosines of (N, d) unit vectors."""
        return F.linear(x, self.effective_weight())


class DINOHead(nn.Module):
    """MLP, projection to the unit sphere, prototypes.

    Attributes:
        mlp: [BN] Linear [BN] GELU Linear [BN] GELU Linear [BN]; those at the ends without gain and shift.
        last_layer: the prototypes.
    """

    def __init__(
        self,
        width: int,
        prototypes: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        norm: HeadNorm = "none",
    ) -> None:
        """A head on (N, width) vectors.

        Args:
            width: length of the pooled vectors.
            prototypes: K.
            hidden: width of the two hidden layers.
            bottleneck: d, dimension of the sphere.
            norm: batch norm over the samples of all ranks: in both `hidden` layers; at both `ends`, where it gives
                every dimension of the input and of the bottleneck mean 0 and variance 1; or `everywhere`. Behind
                instance norm and global pooling, inputs are nearly equal (cosine .99) and self-distillation falls to a
                uniform answer; so standardised, samples cannot all sit at one point.
        """
        super().__init__()
        batch_norm, standardise = norm in ("hidden", "everywhere"), norm in ("ends", "everywhere")
        layers: list[nn.Module] = [BatchNorm(width, affine=False)] if standardise else []
        for size in (width, hidden):
            layers.append(nn.Linear(size, hidden))
            if batch_norm:
                layers.append(BatchNorm(hidden))
            layers.append(nn.GELU())
        layers.append(nn.Linear(hidden, bottleneck))
        if standardise:
            layers.append(BatchNorm(bottleneck, affine=False))
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(*layers)
        self.last_layer = Prototypes(bottleneck, prototypes)

    def forward(self, vectors: Tensor, counted: Tensor | None = None) -> Tensor:
        """(N, K) logits in [-1, 1] of (N, width) vectors.

        Args:
            vectors: of crops, or of cells.
            counted: (N,) bool, those that batch norm counts; None: all.
        """
        x = vectors
        for layer in self.mlp:
            x = layer(x, counted) if isinstance(layer, BatchNorm) else layer(x)
        # float32: the norm of a vector of 256 near-zero numbers is lost in half precision
        logits: Tensor = self.last_layer(F.normalize(wide(x), dim=-1))
        return logits


def hold(layers: Iterable[Prototypes]) -> None:
    """Keep prototypes as they are in this step: without a gradient, neither decay nor momentum moves them.

    For `Method.edit_gradients` in the first epochs (Caron et al. 2021, appendix: the last layer is frozen).
    """
    for layer in layers:
        layer.weight.grad = None


class Branch(nn.Module):
    """Encoder, deepest pooling, projector: what the teacher is an average of.

    Attributes:
        encoder: nnU-Net's.
        head: the deepest stage's projector.
    """

    def __init__(self, encoder: nn.Module, head: DINOHead, pooling: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.pooling = pooling

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """(N, K) logits of (N, C, D, H, W)."""
        logits: Tensor = self.head(pool(self.encoder(image)[-1], self.pooling, valid=valid))
        return logits
