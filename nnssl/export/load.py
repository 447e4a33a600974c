"""Pretrained networks as plain modules, for other people's code: `nnssl.load_encoder`, `nnssl.load_pyramid`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nnssl.encoders.factory import SUPPORTED
from nnssl.encoders.other import OtherNetwork
from nnssl.encoders.pyramid import PlanEncoder, PlanUNet
from nnssl.errors import DataError, ExportError, PlanError
from nnssl.export.fit import fit
from nnssl.export.fitted import has_decoder
from nnssl.export.other import NOTE, is_other, is_primus, load_other
from nnssl.export.primus import load_primus
from nnssl.export.proof import fresh_network
from nnssl.export.read import Weights
from nnssl.export.sources import read_any
from nnssl.export.tensors import DECODER, ENCODER
from nnssl.views.spec import Size

Number = TypeVar("Number", int, float)


class Described:
    """What a pretrained network expects of an image, and what it gives. Mixed into the networks below.

    Attributes:
        channels: channels of every map, finest first.
        strides: cumulative stride of every map, D H W.
        weights: all the file tells (plans, provenance, citations).
    """

    channels: tuple[int, ...]
    strides: tuple[Size, ...]
    weights: Weights

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """The same as `channels`."""
        return self.channels

    @property
    def input_channels(self) -> int:
        """Channels of the image."""
        return self.weights.channels

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the image's channels showed in pretraining; empty where the file does not say."""
        names = self.weights.provenance.get("channel_names", {})
        return tuple(str(name) for name in (names.values() if isinstance(names, Mapping) else names))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size D H W that images must be resampled to."""
        return _per_axis(float, self.weights, "spacing")

    @property
    def patch_size(self) -> Size:
        """Voxels D H W of the patch in pretraining."""
        return _per_axis(int, self.weights, "patch_size")

    @property
    def normalisation(self) -> tuple[str, ...]:
        """nnU-Net's normalisation class of every channel ("CTNormalization")."""
        return tuple(_said(self.weights, "normalization_schemes"))

    @property
    def intensities(self) -> tuple[Mapping[str, float], ...]:
        """Per channel mean, std, percentile_00_5 and percentile_99_5, for CT in HU; what `normalisation` works with."""
        found = self.weights.plans.get("foreground_intensity_properties_per_channel", {})
        return tuple(found[key] for key in sorted(found, key=int))


class PretrainedEncoder(Described, PlanEncoder):
    """An encoder: (N, C, D, H, W) to one map a stage, finest first; sides must be multiples of `strides[-1]`."""


class PretrainedPyramid(Described, PlanUNet):
    """A U-Net without segmentation layers: (N, C, D, H, W) to decoder maps, finest first, the bottleneck last."""


class PretrainedOther(Described, nn.Module):
    """A network that no plan describes, vox2vec's FPN3d or Primus: (N, C, D, H, W) to its maps, finest first."""

    def __init__(self, network: OtherNetwork) -> None:
        super().__init__()
        self.network = network
        self.channels = network.channels
        self.strides = network.strides

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of (N, C, D, H, W), finest first."""
        maps: list[Tensor] = self.network(image)
        return maps


def load_encoder(path: str | Path, *, which: str = "default") -> PretrainedEncoder | PretrainedOther:
    """The pretrained encoder, in eval mode on the CPU; its parameters can be trained.

    That of a Primus gives one map, its tokens, for sides that are multiples of 8.

    Args:
        path: checkpoint_final.pth, encoder.safetensors, a stock nnU-Net checkpoint, or the peer's file or folder.
        which: "default", or "student" or "teacher" where the file has both.

    Raises:
        DataError: the file cannot be read.
        ExportError: it is not one of nnU-Net's networks, or not complete.

    Example:
        encoder = nnssl.load_encoder("checkpoint_final.pth")
        maps = encoder(torch.zeros(1, encoder.input_channels, *encoder.patch_size))
    """
    weights = read_any(path, which=which)
    if is_primus(weights):
        tokens = PretrainedOther(load_primus(weights))
        tokens.weights = weights
        return tokens.eval()
    made = PretrainedEncoder(_loaded(weights, (ENCODER,)).get_submodule("encoder"))
    made.weights = weights
    return made.eval()


def load_pyramid(path: str | Path, *, which: str = "default") -> PretrainedPyramid | PretrainedOther:
    """The pretrained U-Net up to its segmentation layers, or the network that is none, in eval mode on the CPU.

    Raises:
        DataError: the file cannot be read, or holds no trained decoder.
        ExportError: it is not one of nnU-Net's convolutional U-Nets, or not complete.
    """
    weights = read_any(path, which=which)
    if is_other(weights):
        other = PretrainedOther(load_other(weights))
        other.weights = weights
        return other.eval()
    if is_primus(weights) or not has_decoder(weights):
        raise DataError(
            f"{weights.path} holds no trained decoder. Use nnssl.load_encoder, which gives the stages' maps."
        )
    made = PretrainedPyramid(_loaded(weights, (ENCODER, DECODER)))
    made.weights = weights
    return made.eval()


def _loaded(weights: Weights, parts: tuple[str, ...]) -> nn.Module:
    """nnU-Net's whole network with every tensor of `parts` from the file."""
    architecture = weights.architecture
    name = str(architecture["network_class_name"])
    if name.rsplit(".", 1)[-1] not in SUPPORTED:
        more = f" {NOTE}." if is_other(weights) else ""
        raise ExportError(f"{weights.path} holds a {name}; only {' and '.join(SUPPORTED)} can be loaded.{more}")
    try:
        network = fresh_network(architecture, channels=weights.channels, classes=1, seed=0)
    except PlanError as error:
        raise ExportError(f"The network of {weights.path} ({name}) is not built: {error}") from error
    fitted = fit(weights.tensors, network, decoder=DECODER in parts)
    lacking = [one for one in fitted.moved if one.name.startswith(parts) and one.how != "exact"]
    if lacking:
        raise ExportError(
            f"{weights.path} does not hold what its own plan says: {len(lacking)} tensors, first {lacking[0].name} "
            f"({lacking[0].why})."
        )
    state = network.state_dict()
    with torch.no_grad():
        for key, value in fitted.tensors.items():
            state[key].copy_(value)
    return network


def _per_axis(kind: Callable[[Any], Number], weights: Weights, key: str) -> tuple[Number, Number, Number]:
    """What the configuration says under `key`, D H W."""
    depth, height, width = map(kind, _said(weights, key))
    return depth, height, width


def _said(weights: Weights, key: str) -> Any:
    found = weights.configuration.get(key)
    if not isinstance(found, list | tuple):
        raise DataError(f"{weights.path} does not say its {key}; files of nnssl and of stock nnU-Net do.")
    return found
