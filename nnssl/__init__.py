"""Self-supervised pretraining for 3D medical images on top of nnU-Net; every method is a plugin.

`nnssl.load_encoder(path)` and `nnssl.load_pyramid(path)` give pretrained networks as plain modules. They are imported
when first asked for: `import nnssl` loads neither torch nor nnU-Net.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnssl.export.load import load_encoder, load_pyramid

__all__ = ["load_encoder", "load_pyramid"]


def __getattr__(name: str) -> Any:
    """PEP 562: the two loaders, on demand."""
    if name not in __all__:
        raise AttributeError(f"module 'nnssl' has no attribute {name!r}")
    from nnssl.export import load

    return getattr(load, name)


def __dir__() -> list[str]:
    """Names for completion."""
    return sorted({*globals(), *__all__})
