"""Small scans of every format for the tests of ingest: generated, seeded, each with a texture of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from nnssl.ingest.ledger import Ledger

NAME, NUMBER = "Mustermann^Erika", "PAT-4711-0815"


def texture(seed: int, shape: tuple[int, int, int] = (10, 12, 14), *, ct: bool = False) -> npt.NDArray[np.int16]:
    """(D, H, W) noise that is no label map; as CT with air around a body."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(50, 1200, shape)
    if ct:
        voxels = voxels - 500
        voxels[:, :3] = -1000 + rng.integers(0, 20, voxels[:, :3].shape)
    return voxels.astype(np.int16)


def write(path: Path, voxels: npt.NDArray[Any], spacing_mm: tuple[float, ...] = (2.5, 1.5, 1.0)) -> Path:
    """Any format of SimpleITK; spacing D H W."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(tuple(float(side) for side in reversed(spacing_mm)))
    image.SetOrigin((-20.0, 15.0, 100.0))
    SimpleITK.WriteImage(image, str(path), useCompression=not path.name.endswith((".mhd", ".nii")))
    return path


def write_nifti(
    path: Path, voxels: npt.NDArray[Any], affine: npt.NDArray[Any] | None = None, *, lost: bool = False, **header: Any
) -> Path:
    """With nibabel: any header; `lost` says nothing of how it lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(
        voxels.T, None if lost else np.diag([-1.0, -1.5, 2.5, 1.0]) if affine is None else affine
    )
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def write_series(
    folder: Path,
    voxels: npt.NDArray[np.int16],
    *,
    places_mm: list[float] | None = None,
    modality: str = "CT",
    uid: str = "",
    tilt_mm: float = 0.0,
    intercept: float = -1024.0,
    **tags: Any,
) -> Path:
    """One DICOM file a slice, of a patient with a name; pixels 1 x 1.5 mm, slices 2.5 mm apart."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid(entropy_srcs=[str(folder)])[:50]
    for number, pixels in enumerate(voxels):
        place = places_mm[number] if places_mm else 2.5 * number
        dataset = _slice(folder / f"IM{number:04d}", pixels, uid, intercept)
        dataset.Modality = modality
        dataset.ImagePositionPatient = [-20.0, 15.0 + tilt_mm * number, 100.0 + place]
        dataset.InstanceNumber = len(voxels) - number  # against the places: order must come from these
        for key, value in tags.items():
            setattr(dataset, key, value)
        dataset.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


def _slice(path: Path, pixels: npt.NDArray[np.int16], uid: str, intercept: float) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{uid}.1", f"{uid}.2"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, NUMBER, "19641231"
    dataset.InstitutionName, dataset.AccessionNumber = "Klinik am Berg", "ACC998877"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [1.5, 1.0]
    dataset.SliceThickness = 2.5
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, intercept
    dataset.PixelData = (pixels - int(intercept)).astype("<i2").tobytes()
    return dataset


@contextmanager
def interrupted(count: int) -> Iterator[None]:
    """Ctrl-C when the ledger takes its `count`-th record; it must end what runs."""
    original, calls = Ledger.put, []

    def put(self: Ledger, key: Any, record: Any) -> None:
        calls.append(key)
        if len(calls) == count:
            raise KeyboardInterrupt
        original(self, key, record)

    with patch.object(Ledger, "put", put), pytest.raises(KeyboardInterrupt):
        yield
