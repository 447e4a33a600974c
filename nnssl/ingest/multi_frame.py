"""Enhanced multi-frame DICOM: whether its frames are one even stack in the order in which GDCM hands them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.planning.reading import Affine
from nnssl.planning.refusal import Refused

_OFF_MM = 0.11  # scanners round places to 0.1 mm
_INSTEAD = "Convert it with dcm2niix and ingest what that writes"


def check_frames(file: Path, header: Any, to_world: Affine) -> None:
    """Refuse a file of which GDCM's reading is not what its frames say.

    Args:
        file: for the message.
        header: of pydicom, whole.
        to_world: 4x4 from voxel index (d, h, w, 1) to mm in LPS, as GDCM gives it.

    Raises:
        Refused: several volumes or orders in one file, slopes that vary, or frames without a place.
    """
    try:
        frames = [_frame(header, each) for each in header.PerFrameFunctionalGroupsSequence]
    except (AttributeError, IndexError, TypeError, ValueError, KeyError) as error:
        raise Refused("no_spacing", f"{file.name} does not say where its frames lie. {_INSTEAD}.") from error
    places = np.array([place for place, _ in frames])
    if len({rest for _, rest in frames}) > 1:
        raise Refused("multi_frame", f"{file.name} holds frames of several directions, sizes or slopes. {_INSTEAD}.")
    ours = np.array([(to_world @ [number, 0, 0, 1])[:3] for number in range(len(places))])
    off_mm = float(np.abs(ours - places).max()) if np.isfinite(places).all() else np.inf
    if off_mm > _OFF_MM:
        raise Refused(
            "multi_frame",
            f"{file.name} holds frames that are no even stack in this order (up to {off_mm:.1f} mm away from it), "
            f"perhaps several volumes. {_INSTEAD}.",
        )


def _frame(header: Any, own: Any) -> tuple[npt.NDArray[np.float64], tuple[object, ...]]:
    """Where a frame lies, and what must be the same for all."""
    place = np.array([float(each) for each in _group(header, own, "PlanePositionSequence").ImagePositionPatient])
    axes = _group(header, own, "PlaneOrientationSequence").ImageOrientationPatient
    sides = _group(header, own, "PixelMeasuresSequence").PixelSpacing
    try:
        values = _group(header, own, "PixelValueTransformationSequence")
        scaled = (float(values.RescaleSlope), float(values.RescaleIntercept))
    except (AttributeError, IndexError):
        scaled = (1.0, 0.0)
    if place.shape != (3,):
        raise ValueError("a place needs three numbers")
    return place, (*(round(float(each), 4) for each in (*axes, *sides)), scaled)


def _group(header: Any, own: Any, name: str) -> Any:
    """A functional group: of the frame, else of all frames."""
    if name in own:
        return getattr(own, name)[0]
    return getattr(header.SharedFunctionalGroupsSequence[0], name)[0]
