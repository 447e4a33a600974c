"""A pretrained method with its heads, rebuilt from its weights file, as a pyramid of its own embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.plan import plan_info
from nnssl.engine.recipe import resolve
from nnssl.engine.weights import load_weights
from nnssl.errors import DataError, StateError
from nnssl.export.load import Described
from nnssl.export.read import Weights
from nnssl.export.sources import read_any
from nnssl.method import DataInfo, Method
from nnssl.registry import find_trainer
from nnssl.views.spec import Size


class EmbeddingPyramid(Described, nn.Module):
    """The maps of `Method.features`, finest first, and an empty one where the encoder goes deeper than they do.

    Attributes:
        method: in eval mode.
        embeddings: how many of the maps are embeddings.
        raw: the method wants raw values, not normalised ones.
    """

    def __init__(self, method: Method, weights: Weights, *, deepest: Size, raw: bool) -> None:
        super().__init__()
        self.method, self.weights, self.raw = method.eval(), weights, raw
        size = [2 * side for side in deepest]  # the smallest image with more than one deepest cell
        with torch.no_grad():
            maps = method.features(torch.zeros(1, weights.channels, *size)).pyramid
        strides = [tuple(n // m for n, m in zip(size, one.shape[2:], strict=True)) for one in maps]
        self.embeddings = len(maps)
        self.channels = (*(one.shape[1] for one in maps), 1)
        self.strides = (*((d, h, w) for d, h, w in strides), deepest)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps of (N, C, D, H, W), whose sides are multiples of the deepest stride."""
        maps = self.method.features(image).pyramid
        empty = [n // s for n, s in zip(image.shape[2:], self.strides[-1], strict=True)]
        return [*maps, image.new_zeros(len(image), 1, *empty)]

    @property
    def orientation(self) -> str | None:
        """How most scans of the pretraining lay, as `nnssl.planning.orientation.codes`; None: not recorded."""
        data = self.weights.provenance.get("data")
        found = data.get("orientation") if isinstance(data, Mapping) else None
        return str(found) if found else None


def load_embeddings(path: Path) -> EmbeddingPyramid:
    """A method with its heads from a weights file of `nnssl_pretrain`.

    Raises:
        DataError: the file cannot be read, holds no heads, or heads of another network.
        PluginError: its trainer is not installed.
    """
    weights = read_any(path)
    if not weights.heads:
        trainer = weights.provenance.get("trainer", "another tool")
        raise DataError(
            f"{weights.path} is of {trainer} and holds no embedding heads; matching needs checkpoint_final.pth or "
            f"pretrained_latest.pth of AnatEmbedTrainer."
        )
    about: Mapping[str, Any] = weights.provenance
    trainer = find_trainer(str(about.get("trainer")))
    recipe = resolve(trainer, "default", about.get("recipe", {}))
    plan = plan_info(weights.configuration, channels=weights.channels, patch_size=recipe.patch_size)
    names = about.get("channel_names", {})
    modality = tuple(str(name).lower() for name in names.values()) or ("unknown",) * weights.channels
    data = DataInfo(
        modality=modality,
        cases=1,
        shape_quantiles=dict.fromkeys((0, 10, 50, 90, 100), plan.patch_size),
        batch_size=recipe.batch_size,
        steps_per_epoch=recipe.steps_per_epoch,
    )
    method: Method = trainer.method(recipe.method, PlanNetworks(weights.architecture, plan, data))
    try:
        load_weights(method, weights.path)
        heads = method.export_network().heads
        if heads is None:
            raise DataError(f"{trainer.__name__} has no embedding heads, but {weights.path} holds some.")
        heads.load_state_dict(dict(weights.heads))
    except (RuntimeError, StateError) as error:
        raise DataError(f"{weights.path} does not hold what its own recipe says ({error}).") from error
    raw = trainer.method.needs(recipe.method).values == "raw"
    return EmbeddingPyramid(method, weights, deepest=plan.total_stride, raw=raw)
