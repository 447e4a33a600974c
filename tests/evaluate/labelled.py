"""Small labelled cases on the disk, as nnU-Net's preprocessing leaves them, and pyramids to look at them with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.data.store import write_array


def write_case(folder: Path, name: str, image: npt.NDArray[np.float32], numbers: npt.NDArray[np.int16]) -> None:
    """CASE.b2nd and CASE_seg.b2nd from (D, H, W) values and numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_array(folder / f"{name}.b2nd", image[None].astype(np.float32), (8, 8, 8))
    write_array(folder / f"{name}_seg.b2nd", numbers[None].astype(np.int16), (8, 8, 8))


def blocks(
    seed: int, size: tuple[int, int, int] = (12, 16, 10)
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16]]:
    """Blocks of the numbers 0, 1 and 2; the image tells them by its value, not in order, with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, tuple(side // 2 for side in size))
    numbers = np.kron(coarse, np.ones((2, 2, 2))).astype(np.int16)
    image = np.array([0.0, 3.0, -2.0])[numbers] + 0.1 * rng.standard_normal(size)
    return image.astype(np.float32), numbers


class Values(nn.Module):
    """A pyramid of the image and its square, pooled; or of nothing at all."""

    channels = (2, 2)
    strides = ((1, 1, 1), (2, 4, 2))
    patch_size = (8, 8, 8)

    def __init__(self, *, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind
        self.norm = nn.BatchNorm3d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 1, D, H, W) to two maps."""
        values = F.pad(image, (0, 0) * 3 + (0, 1)) + F.pad(image.square(), (0, 0) * 3 + (1, 0))
        values = self.norm(values * 0 if self.blind else values)
        return [F.avg_pool3d(values, step) for step in self.strides]
