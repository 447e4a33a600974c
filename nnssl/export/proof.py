"""Loads a written weights file back the way its readers will, and compares every tensor it promises."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nnssl.errors import ExportError
from nnssl.nnunet import build_network


def prove(path: Path, promised: Mapping[str, Tensor], *, architecture: Mapping[str, Any], channels: int) -> int:
    """Load `path` with nnU-Net's own loader into a fresh network of another class count, and compare.

    Args:
        path: the file as it will be published.
        promised: nnU-Net's tensor name -> the value a fine-tuning must start from, on the CPU.
        architecture: the plan's architecture block.
        channels: input channels.

    Returns:
        How many tensors were compared and found equal: each promised one, under each name nnU-Net has for it.

    Raises:
        ExportError: the file needs pickle, nnU-Net refuses it, or a tensor differs.
    """
    # not the class count in the file, so that nothing of the segmentation layers can be relied on
    network = fresh_network(architecture, channels=channels, classes=3, seed=0)
    expected = {**promised, **{f"decoder.{name}": t for name, t in promised.items() if name.startswith("encoder.")}}
    return prove_in(network, path, expected)


def prove_in(network: nn.Module, path: Path, expected: Mapping[str, Tensor]) -> int:
    """The same into a fresh network that is at hand.

    Args:
        network: nnU-Net's, with values that are not those of the file.
        path: the file as it will be published.
        expected: name in `network` -> value.

    Raises:
        ExportError: as `prove`.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ExportError(f"The weights file cannot be read without pickle ({error}); nothing was written.") from error
    load_like_nnunet(network, path)
    loaded = network.state_dict()
    differing = [name for name, tensor in expected.items() if not torch.equal(loaded[name], tensor.to(loaded[name]))]
    if differing:
        raise ExportError(
            f"nnU-Net loaded {len(expected) - len(differing)} of {len(expected)} promised tensors from the weights "
            f"file; {differing[0]} differs from the trained one. Nothing was written."
        )
    return len(expected)


def fresh_network(architecture: Mapping[str, Any], *, channels: int, classes: int, seed: int) -> nn.Module:
    """nnU-Net's network with initial values of the seed alone; the run's own randomness stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(architecture, channels=channels, classes=classes, deep_supervision=True)


def load_like_nnunet(network: nn.Module, path: Path) -> None:
    """`nnUNetv2_train -pretrained_weights`: the very function that command calls.

    Raises:
        ExportError: nnU-Net does not take the file.
    """
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    try:
        with _without_process_group(), contextlib.redirect_stdout(io.StringIO()):
            load_pretrained_weights(network, str(path))
    except (AssertionError, KeyError, RuntimeError) as error:
        raise ExportError(
            f"nnU-Net's own loader refuses the weights file: {_reason(error)} Nothing was written."
        ) from error


def _reason(error: Exception) -> str:
    """nnU-Net's message without the values of a whole tensor, which it prints where shapes differ."""
    return " ".join(str(error).split("; your network:", 1)[0].split())[:300].rstrip(".") + "."


@contextlib.contextmanager
def _without_process_group() -> Iterator[None]:
    """Hide a running process group from nnU-Net's loader, which would map the file to `cuda:RANK`, also on a CPU."""
    import nnunetv2.run.load_pretrained_weights as loader

    original = loader.dist
    loader.dist = SimpleNamespace(is_initialized=lambda: False)
    try:
        yield
    finally:
        loader.dist = original
