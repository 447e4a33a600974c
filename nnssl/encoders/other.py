"""Networks that are not a plan's own: `Networks.other(name)`, and how a weights file names them.

FPN3d is one that nnU-Net cannot build, so its weights cannot start one of its trainings; `nnssl.load_pyramid` reads
them. Primus is nnU-Net's own transformer, which its Primus trainers build for any plan's patch.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from nnssl.errors import PluginError
from nnssl.views.spec import Size

# name: module and class, imported when asked for
KNOWN = {
    "fpn3d": ("nnssl.encoders.fpn3d", "FPN3d"),
    **{f"primus_{size}": ("nnssl.encoders.tokens", f"primus_{size}") for size in "sbml"},
}


class OtherNetwork(nn.Module):
    """A network beside the plan's: a module and a `Pyramid`.

    Attributes:
        prefix: what its tensors' names begin with in a weights file, besides their own names.
        name: its name in `KNOWN`.
        options: what it was built with, besides the number of input channels; plain values.
        channels: channels of every map, finest first.
        strides: cumulative stride of every map, D H W.
    """

    prefix: ClassVar[str] = "encoder."
    name: str
    options: Mapping[str, Any]
    channels: tuple[int, ...]
    strides: tuple[Size, ...]

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of (N, C, D, H, W), finest first."""


def build_other(name: str, *, channels: int, options: Mapping[str, Any]) -> OtherNetwork:
    """A fresh network by name.

    Args:
        name: one of `KNOWN`.
        channels: of the image.
        options: keyword arguments of its class.

    Raises:
        PluginError: no such name, or options it does not take.
    """
    if name not in KNOWN:
        raise PluginError(
            f"No network {name!r} (options {sorted(options)}); known besides the plan's own: {', '.join(KNOWN)}. "
            "Use one of them, encoder() or unet(), or build a module of your own in the method."
        )
    module, kind = KNOWN[name]
    try:
        made: OtherNetwork = getattr(importlib.import_module(module), kind)(channels, **options)
    except TypeError as error:
        raise PluginError(f"The network {name!r} does not take the options {dict(options)}: {error}.") from error
    return made
