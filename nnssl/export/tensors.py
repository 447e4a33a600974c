"""Names and values of the tensors that go from a method's network into nnU-Net's.

A method's module may be wrapped (DDP, `torch.compile`, an EMA teacher, the factory's own classes); nnU-Net's names are
found inside whatever wraps them, and every one must be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nnssl.errors import ExportError

_WRAPPERS = frozenset({"module", "_orig_mod"})  # what DDP and torch.compile put between a name's parts
ENCODER, DECODER = "encoder.", "decoder."
_NOT_DECODER = ("decoder.encoder.", "decoder.seg_layers.")  # aliases of the encoder; layers of one target's classes


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under names without the parts that DDP and `torch.compile` add."""
    return {".".join(part for part in name.split(".") if part not in _WRAPPERS): t for name, t in state.items()}


def encoder_names(names: Iterable[str]) -> list[str]:
    """Of a full network's tensor names, the encoder's own: `encoder.*`, without nnU-Net's alias `decoder.encoder.*`."""
    return [name for name in names if name.startswith(ENCODER)]


def decoder_names(names: Iterable[str]) -> list[str]:
    """Of a full network's tensor names, the decoder's that a target can take: no encoder alias, no class layers."""
    return [name for name in names if name.startswith(DECODER) and not name.startswith(_NOT_DECODER)]


def take(module: nn.Module, wanted: Mapping[str, Tensor], *, part: str) -> dict[str, Tensor]:
    """The tensors of `module` that nnU-Net knows as `part`, under nnU-Net's names, on the CPU.

    Args:
        module: the method's network, wrapped or not.
        wanted: nnU-Net's tensors of this part by full name (`encoder.stages.0...`); only names and shapes are read.
        part: "encoder." or "decoder.", the prefix that all wanted names have.

    Raises:
        ExportError: a tensor is missing, has another shape, is not finite, or is there twice with two values; or the
            module holds more than nnU-Net's part has a place for.
    """
    state = unwrapped(module.state_dict())
    short = {name.removeprefix(part): tensor for name, tensor in wanted.items()}
    prefix = _prefix(state, short, part)
    taken: dict[str, Tensor] = {}
    for name, place in short.items():
        tensor = state[prefix + name].detach().cpu()
        if tensor.shape != place.shape:
            raise ExportError(
                f"nnU-Net's {part}{name} has shape {tuple(place.shape)}, the trained network's {tuple(tensor.shape)}: "
                f"the network was built from another plan. Export with the plan it was trained with."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ExportError(f"{part}{name} of the trained network holds values that are not finite; nothing to keep.")
        taken[part + name] = tensor
    _refuse_surplus(state, prefix, short, part)
    return taken


def _prefix(state: Mapping[str, Tensor], short: Mapping[str, Tensor], part: str) -> str:
    """Where in the module nnU-Net's part sits: the shortest prefix under which every wanted name exists."""
    if not short:
        raise ExportError(f"nnU-Net's network has no tensors called {part}*; only its U-Nets can be exported.")
    probe = next(iter(short))
    prefixes = sorted((name[: -len(probe)] for name in state if name.endswith(probe)), key=len)
    prefixes = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
    complete = [prefix for prefix in prefixes if all(prefix + name in state for name in short)]
    if not complete:
        best = prefixes[0] if prefixes else ""
        missing = [name for name in short if best + name not in state]
        raise ExportError(
            f"nnU-Net's {part[:-1]} has {len(short)} tensors; the trained network lacks {len(missing)} of them, "
            f"first {part}{missing[0]}. Export the network that the plan's factory built."
        )
    first = complete[0]
    for other in complete[1:]:
        differing = [name for name in short if not torch.equal(state[first + name].cpu(), state[other + name].cpu())]
        if differing:
            raise ExportError(
                f"The trained network holds nnU-Net's {part[:-1]} twice, under {first!r} and {other!r}, with different "
                f"values (first {differing[0]}). Hand over the one that shall be exported."
            )
    return first


def _refuse_surplus(state: Mapping[str, Tensor], prefix: str, short: Mapping[str, Tensor], part: str) -> None:
    """Refuse tensors inside nnU-Net's own submodules that nnU-Net has no name for: they would be lost in silence."""
    roots = {name.split(".", 1)[0] for name in short}
    surplus = [
        name
        for name in state
        if name.startswith(prefix)
        and name.removeprefix(prefix) not in short
        and name.removeprefix(prefix).split(".", 1)[0] in roots
    ]
    if surplus:
        raise ExportError(
            f"The trained {part[:-1]} has {len(surplus)} tensors that nnU-Net's has no place for, first {surplus[0]}; "
            f"they would be lost. Keep extra layers outside the encoder and decoder."
        )
