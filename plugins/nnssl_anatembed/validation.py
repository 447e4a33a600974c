"""How well embeddings match, without labels: within a case, where the truth is known; to another case and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnssl.blocks.sampling import transform_points
from nnssl.method import ProbeBox
from nnssl.views.spec import Size
from nnssl_anatembed.contrast import upsampled

BOXES = 16  # of the probe set
POINTS = 128  # a box

Embed = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class _Seen:
    """One view's cells: (N, 2 * width) vectors whose products are Eq. 5's S, (N, 3) centres in mm."""

    vectors: Tensor
    mm: Tensor


def match_errors(embed: Embed, boxes: Sequence[ProbeBox], stride: Size) -> Mapping[str, Tensor]:
    """Label-free errors of matching.

    Args:
        embed: (N, C, D, H, W) to the fine and the coarse map, cells of length 1.
        boxes: two views of each.
        stride: of the fine map.

    Returns:
        "match_mm" median error between the two views of a box, "match_within_cell" share of errors below the fine
        cell's diagonal; "cycle_mm" median distance between a point and where one comes back from the nearest box
        of another case, "cycle_chance_mm" the same for a return by lot. With one case there are no cycles.
    """
    boxes = boxes[:BOXES]
    if not boxes:
        return {}
    seen = [[_seen(embed, box, view, stride) for view in range(2)] for box in boxes]
    errors, near, cycles, lots = [], [], [], []
    for number, box in enumerate(boxes):
        first, second = seen[number]
        truth = box.points_mm[:: max(1, len(box.points_mm) // POINTS)][:POINTS]
        if len(truth) == 0:
            continue
        start = torch.cdist(truth, first.mm).argmin(1)
        error = (second.mm[_match(first.vectors[start], second)] - truth).norm(dim=1)
        errors.append(error)
        near.append(error <= _cell_mm(box, stride))
        other = _nearest_of_another_case(boxes, number)
        if other is None:
            continue
        there = _match(first.vectors[start], seen[other][0])
        back = _match(seen[other][0].vectors[there], first)
        cycles.append((first.mm[back] - first.mm[start]).norm(dim=1))
        lots.append(torch.cdist(first.mm[start], first.mm).flatten())
    found: dict[str, Tensor] = {}
    if errors:
        found |= {"match_mm": torch.cat(errors).median(), "match_within_cell": torch.cat(near).double().mean()}
    if cycles:
        found |= {"cycle_mm": torch.cat(cycles).median(), "cycle_chance_mm": torch.cat(lots).median()}
    return found


def _seen(embed: Embed, box: ProbeBox, view: int, stride: Size) -> _Seen:
    fine, coarse = embed(box.images[view : view + 1])
    size = (fine.shape[2], fine.shape[3], fine.shape[4])
    # Eq. 5: S = (F(u) . F'(v) + C(u) . C'(v)) / 2, C between coarse cells and of length 1 again
    both = torch.cat((fine, upsampled(coarse, size)), dim=1) / 2**0.5
    axes = [
        box.to_world.new_tensor(range(side)) * step + (step - 1) / 2 for side, step in zip(size, stride, strict=True)
    ]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    return _Seen(both[0].flatten(1).T, transform_points(box.to_world[view], centres))


def _match(vectors: Tensor, there: _Seen) -> Tensor:
    """(P,) index of the most similar cell."""
    return (vectors @ there.vectors.T).argmax(1)


def _cell_mm(box: ProbeBox, stride: Size) -> Tensor:
    """Diagonal of a fine cell of the second view."""
    diagonal: Tensor = (box.to_world[1, :3, :3] * box.to_world.new_tensor(stride)).norm()
    return diagonal


def _nearest_of_another_case(boxes: Sequence[ProbeBox], number: int) -> int | None:
    """The box of another case at the most similar place of its case."""
    own = boxes[number]
    others = [index for index, box in enumerate(boxes) if box.case_id != own.case_id]
    if not others:
        return None
    apart = torch.stack([(boxes[index].position_mm - own.position_mm).norm() for index in others])
    return others[int(apart.argmin())]
