"""Primus, nnU-Net's vision transformer (Wald et al. 2025, arXiv:2503.01835), as an encoder of views of any size.

nnU-Net builds it for one patch: a learned table of positions with one row a token, and a rotary table for that grid.
Here every view size gets tables of its own, and the weights stay nnU-Net's:

- Rotary coordinates are tokens counted from the view's corner, whatever the view's size: attention always sees true
  distances. (timm's rotary embedding can also stretch a small grid over the coordinates of the large one; then a step
  between neighbours would mean another distance in every view.) A Primus that nnU-Net builds for a patch of that size
  has the same table.
- Learned positions are interpolated axis by axis from the plan's grid. Rows of register tokens stay.

Nothing here imports nnU-Net or timm before a network is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.encoders.other import OtherNetwork
from nnssl.errors import PlanError
from nnssl.nnunet import build_primus
from nnssl.views.spec import Size

TOKEN: Size = (8, 8, 8)  # voxels of a token in nnU-Net's Primus trainers; every view side must be a multiple
KEYS = ("key_to_encoder", "key_to_stem", "keys_to_in_proj", "key_to_lpe")
_MOST_TABLES = 16  # view sizes whose rotary tables are kept


class TokenEncoder(OtherNetwork):
    """Patch embedding and transformer of a Primus: a `Pyramid` of one map, the tokens behind the last norm.

    The state dict is nnU-Net's without the decoder (`up_projection.*`), and nothing else.

    Attributes:
        grid: tokens D H W of the patch that the tables were made for.
        keys: where nnU-Net's readers of pretrained weights find the parts, in nnU-Net's own words.
    """

    prefix = ""

    def __init__(self, primus: nn.Module, *, name: str, patch_size: Sequence[int]) -> None:
        """Take over the modules of nnU-Net's `primus`.

        Args:
            primus: dynamic_network_architectures' Primus; its stochastic depth is switched off, since nobody could
                repeat its draws sample by sample.
            name: "primus_s" and so on, kept in weights files.
            patch_size: D H W that it was built for.
        """
        super().__init__()
        parts: Any = primus
        self.name = name
        self.options: Mapping[str, Any] = {"patch_size": [int(side) for side in patch_size]}
        self.down_projection: nn.Module = parts.down_projection
        self.eva: Any = parts.eva
        self.register_tokens: nn.Parameter | None = parts.register_tokens
        self.mask_token: Tensor
        self.register_buffer("mask_token", parts.mask_token)
        depth, height, width = (int(side) for side in parts.down_projection.proj.stride)
        self.channels: tuple[int, ...] = (int(parts.embed_dim),)
        self.strides: tuple[Size, ...] = ((depth, height, width),)
        self.grid = self._grid(patch_size)
        self.keys = {key: getattr(parts, key) for key in KEYS}
        self._tables: dict[tuple[Any, ...], Tensor] = {}
        for module in self.eva.modules():
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0

    def forward(self, image: Tensor, *, hidden: Tensor | None = None, token: Tensor | None = None) -> list[Tensor]:
        """The (N, C, d, h, w) map of an (N, channels, D, H, W) image.

        Args:
            image: sides multiples of `strides[0]`.
            hidden: (N, d * h * w) bool, raster order: tokens of which the network sees `token` in place of the image.
            token: (C,) what stands there.

        Raises:
            PlanError: a side is no multiple.
        """
        grid = self._grid(image.shape[2:])
        x = self.down_projection(image).flatten(2).transpose(1, 2)
        if hidden is not None and token is not None:
            x = torch.where(hidden[..., None], token, x)
        registers = 0
        if self.register_tokens is not None:
            registers = self.register_tokens.shape[1]
            x = torch.cat((self.register_tokens.expand(len(x), -1, -1), x), dim=1)
        x = self.eva.pos_drop(x + resized(self.eva.pos_embed, self.grid, grid))
        rotary = self._rotary(grid)
        for block in self.eva.blocks:
            x = block(x, rope=rotary)
        x = self.eva.norm(x)[:, registers:]
        return [x.transpose(1, 2).reshape(len(x), -1, *grid)]

    def _grid(self, size: Sequence[int]) -> Size:
        """Tokens of an image; the patch embedding itself would leave out what is over, without a word."""
        return grid_of(size, self.strides[0])

    def _rotary(self, grid: Size) -> Tensor:
        """The table that Eva makes for a grid of its own, in the type and place of this one's; made once a size."""
        rope = self.eva.rope
        own: Tensor = rope.get_embed()
        if grid == self.grid:
            return own
        key = (grid, own.dtype, own.device)
        if key not in self._tables:
            if len(self._tables) >= _MOST_TABLES:
                self._tables.clear()
            # health and features may ask first: what inference mode makes could never be trained with
            with torch.inference_mode(False):
                made = type(rope)(rope.dim, in_pixels=False, feat_shape=grid, ref_feat_shape=grid)
                self._tables[key] = made.get_embed().to(own)
        return self._tables[key]


def grid_of(size: Sequence[int], token: Size = TOKEN) -> Size:
    """Tokens D H W of `size` voxels.

    Raises:
        PlanError: a side is no multiple of a token.
    """
    if len(size) != 3 or any(side % step or side < step for side, step in zip(size, token, strict=True)):
        good = tuple(max(step, side // step * step) for side, step in zip(size, token, strict=False))
        raise PlanError(
            f"Primus cuts images into tokens of {token} voxels, so every side must be a multiple; {tuple(size)} is "
            f"not. Use {good}."
        )
    depth, height, width = (int(side) // step for side, step in zip(size, token, strict=True))
    return depth, height, width


def resized(table: Tensor, old: Size, new: Size) -> Tensor:
    """Learned positions for another grid: linear along each axis between the centres of tokens, ends repeated.

    Three small matrix products, whose gradient is the same every time on a GPU too.

    Args:
        table: (1, r + d * h * w, C), the rows of r register tokens first.
        old: d, h, w that it is for.
        new: those wanted.

    Returns:
        (1, r + prod(new), C); `table` itself where the grids are equal.
    """
    if old == new:
        return table
    registers = table.shape[1] - prod(old)
    cells = table[:, registers:].reshape(1, *old, -1)
    with torch.autocast(table.device.type, enabled=False):
        for axis, (before, after) in enumerate(zip(old, new, strict=True), start=1):
            basis = torch.eye(before, dtype=table.dtype, device=table.device)
            share = F.interpolate(basis[None], size=after, mode="linear")[0]  # (before, after)
            cells = torch.tensordot(share, cells, dims=([0], [axis])).movedim(0, axis)
    return torch.cat((table[:, :registers], cells.flatten(1, 3)), dim=1)


def token_encoder(name: str, channels: int, *, patch_size: Sequence[int]) -> TokenEncoder:
    """nnU-Net's Primus of a size for a patch, freshly initialised as its trainer does."""
    grid_of(patch_size)
    network = build_primus(name.removeprefix("primus_"), patch_size=patch_size, channels=channels, classes=1)
    return TokenEncoder(network, name=name, patch_size=patch_size)


primus_s, primus_b, primus_m, primus_l = (partial(token_encoder, f"primus_{size}") for size in "sbml")
