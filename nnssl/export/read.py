"""Reads weights files without pickle, and says in one sentence what is wrong with a file that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnssl.archive import FAULTS, damaged_member
from nnssl.compat import warn_of_old_torch
from nnssl.errors import DataError
from nnssl.export.numpy_scalars import numpy_numbers_allowed

_ZIP_START = b"PK\x03\x04"
_ADAPTATION = ("architecture_plans", "pretrain_plan", "pretrain_num_input_channels", "recommended_downstream_patchsize")
_PLAIN_NAME = re.compile(r"\w[\w.+ -]*")  # may become part of a file's name or of a printed command
_MOST_CHANNELS = 4096


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A pretrained weights file.

    Attributes:
        path: where it was read from.
        tensors: nnU-Net's tensor name -> value, on the CPU.
        adaptation: the `nnssl_adaptation_plan` block.
        provenance: what the file tells about its origin; empty for files of other makers.
        citations: what to cite.
        variants: {"student": tensors, ...}: other networks of the same run, each as complete as it was trained.
        heads: trained layers of the method's own, by its names; empty where there are none.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    adaptation: Mapping[str, Any]
    provenance: Mapping[str, Any]
    citations: tuple[Mapping[str, Any], ...]
    variants: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    heads: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def architecture(self) -> dict[str, Any]:
        """The network in the form of a plans file's `architecture` block."""
        block = self.adaptation["architecture_plans"]
        return {
            "network_class_name": block["arch_class_name"],
            "arch_kwargs": block["arch_kwargs"],
            "_kw_requires_import": block["arch_kwargs_requiring_import"],
        }

    @property
    def plans(self) -> Mapping[str, Any]:
        """The pretraining plans file, with the one configuration that was trained."""
        plans: Mapping[str, Any] = self.adaptation["pretrain_plan"]
        return plans

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The configuration that was trained."""
        found: Mapping[str, Any] = next(iter(self.plans["configurations"].values()))
        return found

    @property
    def channels(self) -> int:
        """Input channels of the network."""
        return int(self.adaptation["pretrain_num_input_channels"])


def read_weights(path: str | Path) -> Weights:
    """Read a file that `nnssl_pretrain` wrote. Never runs code from it.

    Raises:
        DataError: no such file, no torch file, cut short or damaged, needs pickle, or not from nnssl.
    """
    path = Path(path)
    content = load_content(path)
    if not isinstance(content, Mapping) or "network_weights" not in content:
        raise DataError(f"{path} is a torch file but holds no 'network_weights', so it is no weights file of nnssl.")
    adaptation = content.get("nnssl_adaptation_plan")
    adaptation = adaptation if isinstance(adaptation, Mapping) else {}
    missing = [key for key in _ADAPTATION if key not in adaptation]
    if missing:
        raise DataError(
            f"{path} holds network weights but not {missing[0]!r} in 'nnssl_adaptation_plan', which says what network "
            f"they are for. Give a file that nnssl_pretrain wrote (checkpoint_final.pth or pretrained_latest.pth)."
        )
    check_adaptation(path, adaptation)
    return assembled(path, content, adaptation, _mapping(content.get("provenance")))


def assembled(
    path: Path, content: Mapping[str, Any], adaptation: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Weights:
    """The weights of a file; what is not of the form that readers go by is left out."""
    citations, variants = content.get("citations"), _mapping(content.get("variants"))
    return Weights(
        path=path,
        tensors=_tensors(content.get("network_weights")),
        adaptation=adaptation,
        provenance=provenance,
        citations=tuple(each for each in citations if isinstance(each, Mapping))
        if isinstance(citations, list | tuple)
        else (),
        variants={str(name): _tensors(tensors) for name, tensors in variants.items()},
        heads=_tensors(content.get("heads")),
    )


def check_adaptation(path: Path, given: Mapping[str, Any]) -> None:
    """Refuse a block that does not say what is read from it later, or says it in a form that could do harm.

    What the block leaves out is not missed here but for the network, the configuration and the channels.

    Raises:
        DataError: naming the key.
    """
    plan, network = _mapping(given.get("pretrain_plan")), _mapping(given.get("architecture_plans"))
    configurations = _mapping(plan.get("configurations"))
    chosen = next(iter(configurations.values()), None)
    rules: list[tuple[str, Any, Callable[[Any], bool]]] = [
        ("arch_class_name", network.get("arch_class_name"), lambda found: isinstance(found, str)),
        ("arch_kwargs", network.get("arch_kwargs"), lambda found: isinstance(found, Mapping)),
        ("arch_kwargs_requiring_import", network.get("arch_kwargs_requiring_import"), _texts),
        ("pretrain_num_input_channels", given.get("pretrain_num_input_channels"), _count),
        ("configurations", chosen, lambda found: isinstance(found, Mapping)),
    ]
    rules += [(key, plan[key], _plain_name) for key in ("plans_name", "dataset_name") if key in plan]
    chosen = _mapping(chosen)
    rules += [(key, chosen[key], _per_axis) for key in ("spacing", "patch_size") if key in chosen]
    rules += [(key, chosen[key], _texts) for key in ("normalization_schemes",) if key in chosen]
    for key, found, holds in rules:
        if not holds(found):
            raise DataError(
                f"{path} lacks or garbles {key!r} in 'nnssl_adaptation_plan': {str(found)[:80]!r}. Give a file that "
                f"nnssl_pretrain wrote, or download it again."
            )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tensors(value: Any) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in _mapping(value).items() if isinstance(tensor, Tensor)}


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and 1 <= value <= _MOST_CHANNELS


def _plain_name(value: Any) -> bool:
    return isinstance(value, str) and _PLAIN_NAME.fullmatch(value) is not None


def _per_axis(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) in (2, 3)  # two: a 2D network, which is refused later and in other words
        and all(isinstance(each, int | float) and 0 < each < float("inf") for each in value)
    )


def load_content(path: Path) -> Any:
    """What a torch file holds, on the CPU. Never runs code from it; numpy numbers become Python's.

    Raises:
        DataError: no such file, no torch file, cut short or damaged, or needs pickle.
    """
    if not path.is_file():
        raise DataError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; a weights file (.pth) is needed.")
    with path.open("rb") as stream:
        start = stream.read(len(_ZIP_START))
    if start != _ZIP_START:
        raise DataError(f"{path} is no weights file: torch files begin with {_ZIP_START!r}, this one with {start!r}.")
    try:
        damaged = damaged_member(path, refusal=DataError)
    except FAULTS as error:
        raise DataError(
            f"{path} is cut short or damaged: it begins like a torch file, but its table of contents is missing. "
            f"Copy it again, or take pretrained_latest.pth of the same run."
        ) from error
    if damaged is not None:
        raise DataError(f"{path} is damaged: part {damaged} does not match its checksum. Copy it again.")
    warn_of_old_torch(path)
    try:
        with numpy_numbers_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"{path} cannot be read without running code from it, which nnssl never does (weights_only=True: "
            f"{_first_line(error)}). Give a file that nnssl_pretrain wrote."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].split(". ", 1)[0]
