"""KoLeo: spreads vectors over the sphere (Sablayrolles et al. 2019, section 3; as in DINOv2, Oquab et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.blocks import collectives
from nnssl.blocks.losses import wide

EPSILON = 1e-8  # on distances: two equal vectors give 18.4 and not infinity


def koleo(vectors: Tensor, *, gather: Callable[[Tensor], Tensor] = collectives.gather) -> Tensor:
    """-mean_i log |x_i - x_n(i)| with x the L2-normalised vectors and n(i) the nearest other one on any rank.

    The mean over ranks of what they return is the value of the whole batch, and so is that of the gradients. In few
    vectors nearest neighbours are far whatever the network does: it wants 8 at least.

    Args:
        vectors: (n, d) of this rank, of which there are two at least on all ranks together.
        gather: tensors of all ranks in rank order, with gradient.
    """
    with torch.autocast(vectors.device.type, enabled=False):  # half precision cannot tell neighbours apart
        x = F.normalize(wide(vectors), dim=1)
        everyone = gather(x)
        offset = collectives.rank() * len(x) if len(everyone) > len(x) else 0
        itself = torch.arange(len(x), device=x.device) + offset
        likeness = (x @ everyone.T).detach()
        nearest = likeness.scatter(1, itself[:, None], -2.0).argmax(1)
        distance = torch.linalg.vector_norm(x - everyone[nearest] + EPSILON, dim=1)
        spread: Tensor = -(distance + EPSILON).log().mean()
        return spread
