"""Images and label maps as the files hold them, for measuring and drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.errors import DataError
from nnssl.nnunet import read_images


def read_volume(file: Path, reader: str) -> tuple[npt.NDArray[Any], tuple[float, float, float]]:
    """(D, H, W) and the voxel size D H W in mm.

    Args:
        file: image or label map with one channel.
        reader: nnU-Net's reader class as the plans file names it.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    if not file.is_file():
        raise DataError(f"{file} is not there.")
    try:
        data, properties = read_images(reader, [file])
    except Exception as error:  # readers raise whatever their library raises; all of it means an unreadable file
        raise DataError(f"nnU-Net's reader {reader} cannot read {file} ({error!r}).") from error
    depth, height, width = (float(side) for side in properties["spacing"])
    return data[0], (depth, height, width)


def read_labels(file: Path, reader: str) -> tuple[npt.NDArray[np.int32], tuple[float, float, float]]:
    """As `read_volume`, of a label map."""
    data, spacing = read_volume(file, reader)
    return np.rint(data).astype(np.int32), spacing
