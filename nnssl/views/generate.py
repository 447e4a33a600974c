"""Makes the views that were drawn: cut, then change intensities, then mask.

Runs on any device that has float64. Nothing is random here but the noise fields, and they are keyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnssl.method import View
from nnssl.views.draws import ViewDraw, intensity_of
from nnssl.views.geometry import cut
from nnssl.views.intensity.apply import apply_chain
from nnssl.views.masks import render
from nnssl.views.spec import ViewGroup


@dataclass(frozen=True)
class ViewInput:
    """What one view is made from.

    Attributes:
        draw: how.
        box: (C, d, h, w) part of the case, in the stored dtype, on the target device.
        lower: (3,) first voxel of the box in the case.
        case_shape: D H W of the case.
    """

    draw: ViewDraw
    box: Tensor
    lower: npt.NDArray[np.int64]
    case_shape: tuple[int, int, int]


def make_view(
    group: ViewGroup, keys: Sequence[int], inputs: Sequence[Sequence[ViewInput]], *, seed: int, dtype: torch.dtype
) -> View:
    """The views of one group.

    Args:
        group: the description.
        keys: B sample keys.
        inputs: B times V.
        seed: the run's seed, for noise fields.
        dtype: of the images; float32, or float64 where exactness is tested.
    """
    box = inputs[0][0].box
    lead = (len(keys), group.count)
    image = torch.empty((*lead, len(box), *group.size), dtype=dtype, device=box.device)
    valid = torch.empty((*lead, 1, *group.size), dtype=torch.bool, device=box.device)
    for row, sample in enumerate(inputs):
        for view, one in enumerate(sample):
            made = cut(one.box, one.lower, one.draw.to_case, group.size, one.case_shape, one.draw.scale, dtype)
            image[row, view], valid[row, view] = made.image, made.valid
    draws = [[one.draw for one in sample] for sample in inputs]
    clean = image.clone() if group.keep_clean and group.intensity is not None else image
    _change_intensities(group, image, keys, draws, seed)
    return View(
        image=image,
        clean=clean if group.keep_clean else None,
        valid=valid,
        mask=_mask(group, draws, box.device),
        draws=_draw_tensors(draws, box.device),
        source=group.source,
        to_source=_tensor([[draw.to_case for draw in sample] for sample in draws], torch.float64, box.device),
    )


def _change_intensities(
    group: ViewGroup, image: Tensor, keys: Sequence[int], draws: Sequence[Sequence[ViewDraw]], seed: int
) -> None:
    """Apply the intensity operations to (B, V, C, D, H, W) in place: all views at once if they share them."""
    shared = not isinstance(group.intensity, tuple)
    parts = [range(group.count)] if shared else [range(view, view + 1) for view in range(group.count)]
    for views in parts:
        intensity = intensity_of(group, views[0])
        if intensity is None:
            continue
        part = image[:, views.start : views.stop].view(-1, *image.shape[2:])
        names = [(key, group.name, view) for key in keys for view in views]
        apply_chain(part, intensity, [sample[view].chain for sample in draws for view in views], seed, names)


def _mask(group: ViewGroup, draws: Sequence[Sequence[ViewDraw]], device: torch.device) -> Tensor | None:
    """(B, V, 1, D, H, W) bool, or None without a mask."""
    if group.mask is None:
        return None
    hidden = [draw.hidden for sample in draws for draw in sample if draw.hidden is not None]
    return render(hidden, group.mask, group.size, device).reshape(len(draws), group.count, 1, *group.size)


def _draw_tensors(draws: Sequence[Sequence[ViewDraw]], device: torch.device) -> dict[str, Tensor]:
    """The draws a method may learn from, by name."""
    kinds = {
        "flip": torch.bool,
        "rot90": torch.int64,
        "scale": torch.float64,
        "rotation_deg": torch.float64,
        "origin": torch.float64,
    }
    return {
        name: _tensor([[getattr(draw, name) for draw in sample] for sample in draws], kind, device)
        for name, kind in kinds.items()
    }


def _tensor(values: object, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Nested arrays as a tensor."""
    return torch.from_numpy(np.asarray(values)).to(device=device, dtype=dtype)
