"""Two-dimensional images through a three-dimensional encoder, as tensors of depth 1. Imports torch only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def depth_one(encoder: nn.Module) -> Iterator[None]:
    """Within it, `encoder` takes (N, C, 1, H, W), and every map keeps the depth 1.

    A convolution of odd depth with half as much padding sees its central plane alone then, a stride along the depth
    changes nothing, and instance norm is that of the plane. Only average pooling, in residual shortcuts, has too little
    depth; it is shown the plane as often as its window is deep, whose mean is the plane.
    """

    def deep_enough(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        """The hook: what pooling sees."""
        window: Any = module.kernel_size
        depth = window if isinstance(window, int) else window[0]
        image: Tensor = inputs[0]
        return None if image.shape[2] != 1 or depth == 1 else (image.expand(-1, -1, depth, -1, -1),)

    pools = [module for module in encoder.modules() if isinstance(module, nn.AvgPool3d)]
    hooks = [module.register_forward_pre_hook(deep_enough) for module in pools]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
