"""Label-free numbers about features, as pure functions. A health check, not a prediction of Dice.

No published study of 3D medical images shows that any of them selects the better network; they tell a network that has
collapsed, or whose dense features decay, from one that has not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.blocks.losses import entropy, wide

RANKME_EPS = 1e-7  # Garrido et al. 2023, eq. 1


def feature_std(vectors: Tensor) -> Tensor:
    """Standard deviation of the L2-normalised vectors over that of an isotropic distribution, 1/sqrt(d).

    1 for directions spread evenly, 0 for a constant; near sqrt(1 - c) where all pairs have the cosine c. An untrained
    nnU-Net encoder, pooled, has about 0.08. The measure is that of Chen and He 2021, "Exploring simple siamese
    representation learning", figure 2.

    Args:
        vectors: (N, d), N > 1.
    """
    normalised = F.normalize(wide(vectors), dim=1)
    spread: Tensor = normalised.std(dim=0).mean() * vectors.shape[1] ** 0.5
    return spread


def rankme(vectors: Tensor) -> Tensor:
    """Effective number of dimensions: exp(-sum p ln p), p = s / sum s + 1e-7 (Garrido et al. 2023, "RankMe", eq. 1).

    s are the singular values of the vectors as they are. Not centred: after centring, a constant with a little noise
    looks perfect (313 of 320 dimensions; uncentred 1.2).

    Args:
        vectors: (N, d); the value lies between 1 and min(N, d).
    """
    singular = torch.linalg.svdvals(vectors.double())
    share = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny) + RANKME_EPS
    return torch.exp(-(share * share.log()).sum())


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """(N, M) cosines of (N, d) with (M, d)."""
    return F.normalize(wide(first), dim=1) @ F.normalize(wide(second), dim=1).T


def retrieval_recall(first: Tensor, second: Tensor) -> Tensor:
    """Share of boxes whose second view is, of all second views, the one most like their first view; 0 to 1.

    Args:
        first: (N, d) vectors of the boxes' first views.
        second: (N, d) of their second views.
    """
    nearest = similarity(first, second).argmax(dim=1)
    return (nearest == torch.arange(len(first), device=first.device)).float().mean()


def cosine_gap(first: Tensor, second: Tensor) -> Tensor:
    """Mean cosine between two views of a box minus that between views of different boxes; -2 to 2."""
    cosines = similarity(first, second)
    same = torch.eye(len(first), dtype=torch.bool, device=first.device)
    return cosines[same].mean() - cosines[~same].mean()


def position_error_mm(first: Tensor, second: Tensor, positions_mm: Tensor, allowed: Tensor) -> Tensor:
    """How far from each other in the body the most similar crops of different boxes lie: mean distance in mm.

    Args:
        first: (N, d) vectors of first views, the queries.
        second: (N, d) vectors of second views, to be found.
        positions_mm: (N, 3) place of each box in body coordinates that the cases share.
        allowed: (N, N) bool, whether box j may be the answer for box i (never itself).

    Returns:
        Scalar; NaN if no box has an allowed answer.
    """
    queries = allowed.any(dim=1)
    nearest = similarity(first, second).masked_fill(~allowed, -math.inf).argmax(dim=1)
    error: Tensor = (positions_mm - positions_mm[nearest]).norm(dim=1)[queries].mean()
    return error


def position_chance_mm(positions_mm: Tensor, allowed: Tensor) -> Tensor:
    """What `position_error_mm` is on average when the answers are drawn at random."""
    distance = torch.cdist(positions_mm, positions_mm)
    answers = allowed.sum(dim=1)
    expected = (distance * allowed).sum(dim=1) / answers.clamp(min=1)
    return expected[answers > 0].mean()


def correspondence_error_mm(query: Tensor, candidates: Tensor, query_mm: Tensor, candidates_mm: Tensor) -> Tensor:
    """For each voxel of one view, how far off the most similar voxel of the other view lies, in mm.

    Args:
        query: (P, d) vectors of voxels of the first view.
        candidates: (Q, d) vectors of voxels of the second.
        query_mm: (P, 3) true places of the queries.
        candidates_mm: (Q, 3) true places of the candidates.

    Returns:
        (P,) errors.
    """
    nearest = similarity(query, candidates).argmax(dim=1)
    error: Tensor = (query_mm - candidates_mm[nearest]).norm(dim=1)
    return error


def effective_share(probabilities: Tensor) -> Tensor:
    """exp(H(p)) / K of one distribution (K,): the share of prototypes in use, 1/K to 1."""
    return torch.exp(entropy(probabilities)) / probabilities.shape[-1]


def watch_scalars(watch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scalars, still on the device, of what a method lets the engine watch (`Losses.watch`).

    "teacher_entropy" H(p)/ln K (0: point collapse, 1: uniform), "teacher_kl" CE(p, q) - H(p) in nats, "prototype_use"
    exp(H(mean p))/K within this batch, "vector_std" as `feature_std`. What was not watched is left out.
    """
    scalars: dict[str, Tensor] = {}
    if (teacher := watch.get("teacher_probs")) is not None:
        certain = entropy(teacher)
        scalars["teacher_entropy"] = certain / math.log(teacher.shape[-1])
        scalars["prototype_use"] = effective_share(wide(teacher).mean(dim=0))
        if (student_log := watch.get("student_log_probs")) is not None:
            scalars["teacher_kl"] = -(wide(teacher) * wide(student_log)).sum(dim=-1).mean() - certain
    if (vectors := watch.get("vectors")) is not None and len(vectors) > 1:
        scalars["vector_std"] = feature_std(vectors)
    return {name: scalar.detach() for name, scalar in scalars.items()}
