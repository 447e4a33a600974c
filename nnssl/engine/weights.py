"""Starting a method from weights that an earlier pretraining exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nnssl.blocks.ema import EMATeacher
from nnssl.compat import warn_of_old_torch
from nnssl.engine.checkpoint import read_checked
from nnssl.errors import StateError
from nnssl.method import Method


def load_weights(method: Method, path: Path) -> str:
    """Copy encoder (and decoder, where the method exports one) from an exported file; a sentence with the count.

    A teacher is a copy of its student at the start of a run, and is again after this, whichever of them is exported.

    Args:
        method: its `export_network()` says which of its networks nnU-Net's names belong to.
        path: `checkpoint_final.pth` or `pretrained_latest.pth`.

    Raises:
        StateError: no such file, damaged, another kind of file, or tensors that are missing or of another shape.
    """
    if not path.is_file():
        raise StateError(f"-pretrained_weights {path}: there is no such file.")
    warn_of_old_torch(path)
    weights = read_checked(path).get("network_weights")
    if not isinstance(weights, Mapping):
        raise StateError(
            f"{path} holds no `network_weights`. Give a checkpoint_final.pth or pretrained_latest.pth of "
            f"nnssl_pretrain; a state_latest.pth is continued with --c."
        )
    exported = method.export_network()
    targets = [(exported.encoder, exported.decoder), *exported.variants.values()]
    counts = {"encoder": 0, "decoder": 0}
    for encoder, decoder in targets:
        encoder = getattr(encoder, "network", encoder)  # inside an EMA teacher
        counts["encoder"] = _copy(encoder, weights, getattr(encoder, "prefix", "encoder."), path)
        if decoder is not None:
            unet = getattr(decoder, "network", decoder)
            counts["decoder"] = _copy(getattr(unet, "decoder", unet), weights, "decoder.", path)
    loaded = {
        id(p) for encoder, decoder in targets for m in (encoder, decoder) if m is not None for p in m.parameters()
    }
    for teacher in (module for module in method.modules() if isinstance(module, EMATeacher)):
        teacher.agree(on_teacher=any(id(p) in loaded for p in teacher.network.parameters()))
    parts = " and ".join(f"{count} {part} tensors" for part, count in counts.items() if count)
    return f"Starting from {path}: {parts} loaded, every one that the method exports."


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _copy(module: nn.Module, weights: Mapping[str, Tensor], prefix: str, path: Path) -> int:
    state = module.state_dict()
    bad = [
        prefix + name
        for name in state
        if prefix + name in weights
        and not (isinstance(weights[prefix + name], Tensor) and _finite(weights[prefix + name]))
    ]
    if bad:
        raise StateError(
            f"{path}: {bad[0]} is no tensor of finite numbers ({len(bad)} of {len(state)} are not). Give another "
            f"checkpoint."
        )
    missing = [name for name in state if prefix + name not in weights]
    misfits = [
        f"{prefix}{name} {tuple(weights[prefix + name].shape)} -> {tuple(value.shape)}"
        for name, value in state.items()
        if prefix + name in weights and weights[prefix + name].shape != value.shape
    ]
    if missing or misfits:
        wrong = [*(f"{prefix}{name} is missing" for name in missing), *misfits]
        raise StateError(
            f"{path} does not fit this plan's network: {'; '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''} "
            f"({len(wrong)} of {len(state)} tensors). Plan with the architecture of these weights (nnssl_plan_like)."
        )
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(weights[prefix + name])
    return len(state)
