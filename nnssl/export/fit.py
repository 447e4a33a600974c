"""Fits the tensors of one U-Net to another: which goes where, which must be adapted, which stays fresh.

Stages are matched from the finest: stage k of both sees the same number of down-samplings. Decoder levels are matched
by the stage they join, so a target with fewer stages takes the upper part of the U, one with more starts its deepest
part fresh. Counted are tensors, once each, not under nnU-Net's aliases; segmentation layers belong to one target's
classes and are not counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nnssl.errors import ExportError
from nnssl.export.rules import channel_mixing, mix_channels, refit_kernel, refit_upsampling
from nnssl.export.tensors import DECODER, ENCODER, decoder_names, encoder_names, unwrapped

How = Literal["exact", "adapted", "fresh"]
_ALIAS = "decoder.encoder."
_LEVEL = re.compile(r"decoder\.(stages|transpconvs)\.(\d+)\.")
_STAGE = re.compile(r"encoder\.stages\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What became of one tensor of the target.

    Attributes:
        name: the target's name of it.
        how: as it was, adapted, or left at its initial value.
        why: what was adapted or missing; "" where it is exact.
        aliases: all names nnU-Net has for it, without those under `decoder.encoder.`.
    """

    name: str
    how: How
    why: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Count:
    """Tensors of one part: exact + adapted + fresh = all."""

    exact: int
    adapted: int
    fresh: int

    @property
    def share(self) -> float:
        """Transferred (exact or adapted) of all, 0 to 1."""
        total = self.exact + self.adapted + self.fresh
        return (self.exact + self.adapted) / total if total else 0.0

    def __str__(self) -> str:
        """For tables."""
        total = self.exact + self.adapted + self.fresh
        return f"{100 * self.share:.0f} % of {total} ({self.exact} exact, {self.adapted} adapted, {self.fresh} fresh)"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Tensors for a target.

    Attributes:
        tensors: target name (each alias) -> value, only those that transfer.
        moved: one entry a tensor of the target.
        encoder: beginnings of the names of the encoder's tensors.
        decoder: of the decoder's.
    """

    tensors: Mapping[str, Tensor]
    moved: tuple[Moved, ...]
    encoder: tuple[str, ...] = (ENCODER,)
    decoder: tuple[str, ...] = (DECODER,)

    def count(self, *part: str) -> Count:
        """Of the `encoder` or the `decoder`."""
        found = Counter(one.how for one in self.moved if one.name.startswith(part))
        return Count(found["exact"], found["adapted"], found["fresh"])

    def reasons(self, *parts: str) -> dict[tuple[str, str], int]:
        """{(how, why): number of tensors} of what is not exact in `encoder`, `decoder` or both, most frequent first."""
        found = (one for one in self.moved if one.how != "exact" and one.name.startswith(parts))
        return dict(Counter((one.how, one.why) for one in found).most_common())


def fit(
    source: Mapping[str, Tensor],
    network: nn.Module,
    *,
    decoder: bool,
    channels: Sequence[int] | None = None,
) -> Fit:
    """Fit `source` to `network`, which is not changed.

    Args:
        source: nnU-Net's tensor names -> values, aliases or not, wrapped or not.
        network: nnU-Net's network of the target's plan.
        decoder: whether the source's decoder was trained.
        channels: for every input channel of the target the source channel it takes; None: repeat or add up.

    Raises:
        ExportError: the source has no encoder under nnU-Net's names, or a value is not finite.
        UsageError: `channels` does not suit the two.
    """
    given = _canonical(source)
    state = network.state_dict()
    shift = _stages(given) - _stages(state)
    inputs = {f"{name}.weight" for name in getattr(network, "keys_to_in_proj", ())}
    tensors: dict[str, Tensor] = {}
    moved = []
    for names in _unique(state):
        wanted = state[names[0]]
        value = None if names[0].startswith(DECODER) and not decoder else _find(given, names, shift)
        made, how, why = _fitted(value, wanted, names[0], channels, is_input=not inputs.isdisjoint(names))
        if not decoder and names[0].startswith(DECODER):
            why = "the weights hold no trained decoder"
        if made is not None:
            if not bool(torch.isfinite(made).all()):
                raise ExportError(f"{names[0]} of the weights holds values that are not finite.")
            tensors.update(dict.fromkeys(names, made))
        moved.append(Moved(name=names[0], how=how, why=why, aliases=names))
    return Fit(tensors=tensors, moved=tuple(moved))


def _canonical(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The source without wrappers; an encoder that is there only under the decoder's alias is found too."""
    given = unwrapped(source)
    if not any(name.startswith(ENCODER) for name in given):
        given |= {name.removeprefix(DECODER): tensor for name, tensor in given.items() if name.startswith(_ALIAS)}
    if not any(_STAGE.match(name) for name in given):
        raise ExportError(
            f"The weights hold no tensor called encoder.stages.*, as nnU-Net's U-Nets do (first: "
            f"{next(iter(given), 'none')}). Only those can be fitted."
        )
    return given


def _stages(state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(found.group(1)) for found in map(_STAGE.match, state) if found)


def _unique(state: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Names of the target's tensors, aliases of one tensor together."""
    groups: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name in (*encoder_names(state), *decoder_names(state)):
        groups.setdefault((state[name].data_ptr(), tuple(state[name].shape)), []).append(name)
    return [tuple(names) for names in groups.values()]


def _find(given: Mapping[str, Tensor], names: Sequence[str], shift: int) -> Tensor | None:
    for name in names:
        shifted = _LEVEL.sub(lambda found: f"decoder.{found.group(1)}.{int(found.group(2)) + shift}.", name)
        # a shortcut's convolution stands behind a pooling where the stage has a stride, alone where it has none
        for other in (shifted, shifted.replace(".skip.0.", ".skip.1."), shifted.replace(".skip.1.", ".skip.0.")):
            if other in given:
                return given[other]
    return None


def _fitted(
    value: Tensor | None, wanted: Tensor, name: str, keep: Sequence[int] | None, *, is_input: bool
) -> tuple[Tensor | None, How, str]:
    """The value for a place of the shape of `wanted`, how it came about, and why it is not exact."""
    if value is None:
        return None, "fresh", f"the weights have no such layer in {_place(name)}"
    value = value.detach().cpu().to(wanted.dtype)
    notes = []
    if is_input and value.ndim == 5 and (keep is not None or value.shape[1] != wanted.shape[1]):
        notes.append(f"{value.shape[1]} -> {wanted.shape[1]} input channels")
        value = mix_channels(value, channel_mixing(value.shape[1], wanted.shape[1], keep))
    if value.ndim == 5 == wanted.ndim and value.shape[2:] != wanted.shape[2:]:
        depth, height, width = wanted.shape[2:]
        size = (depth, height, width)
        up = ".transpconvs." in name
        notes.append(f"{'up-sampling' if up else 'kernel'} {_by(value.shape[2:])} -> {_by(size)}")
        refitted = refit_upsampling(value, size) if up else refit_kernel(value, size)
        if refitted is None:
            return None, "fresh", notes[-1] + " (an even kernel has no centre)"
        value = refitted
    if value.shape != wanted.shape:
        axis = int(value.shape[0] == wanted.shape[0] and value.ndim == wanted.ndim > 1)
        return None, "fresh", f"{value.shape[axis]} -> {wanted.shape[axis]} features in {_place(name)}"
    return value, "adapted" if notes else "exact", ", ".join(notes)


def _place(name: str) -> str:
    return ".".join(name.split(".")[:3])


def _by(sides: Sequence[int]) -> str:
    return "x".join(str(side) for side in sides)
