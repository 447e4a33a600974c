"""Where views are made, and batches on the way to the device that trains on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from nnssl.method import Batch

T = TypeVar("T")


def making_device(device: torch.device) -> torch.device:
    """Where the views for `device` are made: there, but on the CPU for Apple's MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def placed(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; what is exact (float64: grids, millimetres) and the keys stay where they are."""
    return replace(
        batch,
        views={name: _placed(view, device) for name, view in batch.views.items()},
        sources={name: _placed(source, device) for name, source in batch.sources.items()},
    )


def _placed(value: T, device: torch.device) -> T:
    """The same dataclass with its tensors on `device`."""
    moved: dict[str, Any] = {
        each.name: _moved(getattr(value, each.name), device)
        for each in fields(value)  # type: ignore[arg-type]
    }
    return replace(value, **moved)  # type: ignore[type-var]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value if value.dtype == torch.float64 else value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(each, device) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(each, device) for each in value)
    return value
