"""One DICOM volume: pixels by SimpleITK (GDCM), headers by pydicom, geometry from every slice's own place."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.ingest.multi_frame import check_frames
from nnssl.ingest.repair import right_angled
from nnssl.planning.reading import Affine, from_itk, itk_name, last_line
from nnssl.planning.refusal import Refused

Notes = tuple[str, ...]
_ROUNDING_MM = 0.11  # scanners round places to 0.1 mm
_UNEVEN = 0.05  # share of the median distance that distances may differ by besides
_SAME_MM = 0.01
# groups of tags that GDCM makes an image of: geometry, pixels, slopes, frames; and what kind of object it is
_IMAGE_GROUPS = frozenset({0x0020, 0x0028, 0x5200, 0x7FE0})
_IMAGE_TAGS = frozenset({0x00080016, 0x00080018, 0x00080060})


@dataclass(frozen=True)
class _Slice:
    pixels: npt.NDArray[np.float32]
    position: npt.NDArray[np.float64]


def read_series(
    files: Sequence[Path], accepted: Collection[str]
) -> tuple[npt.NDArray[np.float32], Affine, bool, Notes]:
    """(D, H, W) voxels with slope and intercept applied, the affine to mm in LPS, False, and what was done.

    Args:
        files: one a slice, or one multi-frame file.
        accepted: names of reasons for which the volume is repaired in place of refused.

    Raises:
        Refused: a slice is truncated or unreadable, or the slices make no even stack.
    """
    headers = [_checked_header(file) for file in files]
    if len(files) == 1:
        return _one_file(files[0], headers[0])
    across, down, sides = _plane(files[0], headers[0])
    normal = np.cross(across, down)
    both = zip(files, headers, strict=True)
    slices = [_Slice(_pixels(file, header), _position(file, header)) for file, header in both]
    shapes = {each.pixels.shape for each in slices}
    if len(shapes) > 1:
        raise Refused("sizes_differ", f"The slices in {files[0].parent} have several sizes: {sorted(shapes)}.")
    slices.sort(key=lambda each: float(each.position @ normal))
    slices, notes = _one_each(files[0], slices, normal, accepted)
    voxels = np.stack([each.pixels for each in slices])
    places = np.array([each.position @ normal for each in slices])
    voxels, more = _even(files[0], voxels, places, accepted)
    step = (slices[-1].position - slices[0].position) / max(1, len(voxels) - 1)
    to_world = np.eye(4)
    to_world[:3, 0], to_world[:3, 1], to_world[:3, 2] = step, down * sides[0], across * sides[1]
    to_world[:3, 3] = slices[0].position
    upright, turned, last = right_angled(files[0].parent, voxels, to_world, accepted)
    return upright, turned, False, (*notes, *more, *last)


def _checked_header(file: Path) -> Any:
    """The header, after a look whether all pixels are there: GDCM fills what is missing without a word."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, force=True)
            pixels = header.get("PixelData")
            compressed = header.file_meta.TransferSyntaxUID.is_encapsulated if "file_meta" in dir(header) else False
            bits = int(header.get("BitsAllocated", 16))
            numbers = int(header.get("SamplesPerPixel", 1)) * int(header.get("NumberOfFrames", 1) or 1)
            needed = int(header.Rows) * int(header.Columns) * numbers * bits // 8
    except EOFError as error:
        raise Refused("truncated", f"{file.name} is truncated: its DICOM data end early. Copy it again.") from error
    except Exception as error:  # a damaged file raises whatever its values meet in the library
        raise Refused("damaged", f"The DICOM header of {file.name} is damaged ({type(error).__name__}).") from error
    if pixels is None:
        raise Refused("truncated", f"{file.name} has no pixels. Copy it again.")
    if not compressed and len(pixels) < needed:
        raise Refused(
            "truncated", f"{file.name} is truncated: its header needs {needed} bytes of pixels, it has {len(pixels)}."
        )
    return header


def _pixels(file: Path, header: Any) -> npt.NDArray[np.float32]:
    voxels = _volume(file, header)[0]
    if voxels.shape[0] != 1:
        raise Refused("multi_frame", f"{file.name} holds {voxels.shape[0]} frames among single slices.")
    pixels: npt.NDArray[np.float32] = voxels[0]
    return pixels


def _volume(file: Path, header: Any) -> tuple[npt.NDArray[np.float32], Any]:
    """Stored values with slope and intercept applied, and the image that GDCM makes of the file."""
    import SimpleITK

    try:
        with _as_stored(file, header) as readable:
            image = SimpleITK.ReadImage(itk_name(readable), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise Refused("unreadable", f"GDCM cannot read {file.name} ({last_line(error)}). Copy it again.") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise Refused("colour", f"{file.name} is coloured; one number per voxel is needed.")
    return SimpleITK.GetArrayFromImage(image).astype(np.float32), image


@contextmanager
def _as_stored(file: Path, header: Any) -> Iterator[Path]:
    """A file of which GDCM takes the values as they are stored.

    MONOCHROME1 says that small values are shown bright, which is no business of the values, but GDCM turns them round.
    So it is given a passing copy of what it needs, without the patient, that says MONOCHROME2.

    Raises:
        Refused: no such copy can be made.
    """
    if str(header.get("PhotometricInterpretation", "")).strip() != "MONOCHROME1":
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "slice.dcm"
        try:
            _write_plain(copy, header)
        except Exception as error:  # a damaged file raises whatever its values meet in the library
            raise Refused("damaged", f"The DICOM header of {file.name} is damaged ({type(error).__name__}).") from error
        yield copy


def _write_plain(copy: Path, header: Any) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    tags = [*header.keys()]  # a dataset itself would give its elements, and parse them all
    plain = Dataset({tag: header[tag] for tag in tags if tag.group in _IMAGE_GROUPS or tag in _IMAGE_TAGS})
    plain.PhotometricInterpretation = "MONOCHROME2"
    implicit, little = header.original_encoding
    usual = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", usual)
    plain.save_as(copy, enforce_file_format=True)


def _one_file(file: Path, header: Any) -> tuple[npt.NDArray[np.float32], Affine, bool, Notes]:
    voxels, image = _volume(file, header)
    if len(voxels) < 2:
        raise Refused("single_slice", f"{file.name} is the only slice of its geometry; 3D volumes are needed.")
    _, to_world = from_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    check_frames(file, header, to_world)
    return voxels, to_world, False, ("a multi-frame file, with the geometry that GDCM gives it",)


def _plane(file: Path, header: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], tuple[float, float]]:
    """Directions across columns and down rows, and the sides of a pixel down and across in mm."""
    try:
        cosines = np.array([float(each) for each in header.ImageOrientationPatient]).reshape(2, 3)
        down_mm, across_mm = (float(each) for each in header.PixelSpacing)
    except (AttributeError, TypeError, ValueError) as error:
        raise Refused("no_spacing", f"{file.name} does not say how its pixels lie.") from error
    lengths = np.linalg.norm(cosines, axis=1)
    sound = np.isfinite(cosines).all() and np.allclose(lengths, 1, atol=1e-2) and abs(cosines[0] @ cosines[1]) < 1e-2
    if not sound or not 0 < min(down_mm, across_mm) < np.inf:
        raise Refused("damaged", f"{file.name} has directions or pixel sizes that cannot be.")
    return cosines[0] / lengths[0], cosines[1] / lengths[1], (down_mm, across_mm)


def _position(file: Path, header: Any) -> npt.NDArray[np.float64]:
    try:
        position = np.array([float(each) for each in header.ImagePositionPatient])
    except (AttributeError, TypeError, ValueError) as error:
        raise Refused("no_spacing", f"{file.name} does not say where it lies.") from error
    if position.shape != (3,) or not np.isfinite(position).all():
        raise Refused("damaged", f"{file.name} has a place that cannot be.")
    return position


def _one_each(
    file: Path, slices: list[_Slice], normal: npt.NDArray[np.float64], accepted: Collection[str]
) -> tuple[list[_Slice], Notes]:
    kept = [slices[0]]
    for each in slices[1:]:
        if float((each.position - kept[-1].position) @ normal) >= _SAME_MM:
            kept.append(each)
    extra = len(slices) - len(kept)
    if not extra:
        return slices, ()
    if "duplicate_slices" not in accepted:
        raise Refused("duplicate_slices", f"{extra} of the slices in {file.parent} lie where another one lies.")
    if len(kept) < 2:
        raise Refused("single_slice", f"All slices in {file.parent} lie in one place.")
    return kept, (f"{extra} slices that lay where another one lies were left out",)


def _even(
    file: Path, voxels: npt.NDArray[np.float32], places: npt.NDArray[np.float64], accepted: Collection[str]
) -> tuple[npt.NDArray[np.float32], Notes]:
    """The stack on even distances: as it is, or interpolated if that is accepted."""
    gaps = np.diff(places)
    median = float(np.median(gaps))
    off = np.abs(gaps - median)
    if off.max() <= max(_UNEVEN * median, min(_ROUNDING_MM, 0.3 * median)):
        return voxels, ()
    if "uneven_slices" not in accepted:
        missing = int(np.rint(gaps / median - 1).clip(0).sum())
        said = f"; about {missing} are missing" if missing else ""
        raise Refused(
            "uneven_slices",
            f"The slices in {file.parent} are {gaps.min():.2f} to {gaps.max():.2f} mm apart{said}. Complete it.",
        )
    count = max(2, round(float(places[-1] - places[0]) / median) + 1)
    wanted = np.linspace(places[0], places[-1], count)
    below = np.clip(np.searchsorted(places, wanted, "right") - 1, 0, len(places) - 2)
    share = ((wanted - places[below]) / gaps[below])[:, None, None].astype(np.float32)
    even = voxels[below] * (1 - share) + voxels[below + 1] * share
    return even, (
        f"{len(voxels)} slices, {gaps.min():.2f} to {gaps.max():.2f} mm apart, became {count} at even distances",
    )
