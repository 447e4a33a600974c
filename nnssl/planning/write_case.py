"""One case from its files to the store: voxels, raw voxels, sidecars and the index entry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.data.case import CaseEntry, Matrix
from nnssl.data.sidecar import sidecar_file, stored_version, write_sidecar
from nnssl.data.store import smallest_dtype, write_array
from nnssl.errors import NnsslError, PluginError
from nnssl.needs import RawCase, Sidecar
from nnssl.planning.cases import RawFiles
from nnssl.planning.checks import check_values
from nnssl.planning.grid import CasePlan
from nnssl.planning.preprocess import OnGrid, onto_grid
from nnssl.planning.reading import Affine, Image, read_image, source_stamp
from nnssl.planning.requirements import Required


@dataclass(frozen=True, kw_only=True)
class CaseWriter:
    """Preprocesses cases of one data set and configuration into one folder.

    Attributes:
        dataset: "Dataset745_Thorax".
        modality: per channel, lower case.
        plan: what decides the voxels.
        folder: where to write.
        required: what else to write.
    """

    dataset: str
    modality: tuple[str, ...]
    plan: CasePlan
    folder: Path
    required: Required

    def still_good(self, case: RawFiles, entry: CaseEntry | None) -> CaseEntry | None:
        """`entry` brought up to date if its files are all there and made from the files of `case`; else None."""
        if entry is None or not all(file.is_file() for file in case.files):
            return None
        if entry.source_stamp != source_stamp(case.files) or not entry.path.is_file():
            return None
        if self.required.raw and (entry.raw_path is None or not entry.raw_path.is_file()):
            return None
        for sidecar in self.required.sidecars:
            if stored_version(self.folder / sidecar_file(case.case_id, sidecar)) != sidecar.version:
                return None
        return replace(entry, subject=case.subject, modality=self.modality)

    def write(self, case: RawFiles, previous: CaseEntry | None) -> CaseEntry:
        """Preprocess one case; what earlier runs made of the same source for other trainers stays listed.

        Raises:
            DataError: the case cannot be used.
            PluginError: a sidecar failed.
        """
        stamp = source_stamp(case.files) if all(file.is_file() for file in case.files) else ""
        image = read_image(case.files, self.plan.reader)
        check_values(case.case_id, image.data, self.modality, case.accepted)
        keep_raw = self.required.raw or bool(self.required.sidecars)
        whole_numbers = keep_raw and _is_hounsfield(image, self.modality)
        on_grid = onto_grid(image, self.plan, keep_raw=keep_raw)
        sidecars: dict[str, str] = {}
        raw_file = None
        if on_grid.raw is not None:
            seen = self._seen(case, image, on_grid, on_grid.raw)
            sidecars = {each.name: self._write_sidecar(each, seen) for each in self.required.sidecars}
        if on_grid.raw is not None and self.required.raw:
            raw_file = f"{case.case_id}_raw.b2nd"
            raw = _as_int16(on_grid.raw) if whole_numbers else on_grid.raw
            write_array(self.folder / raw_file, raw, self.plan.patch_size)
        # the voxels come last: their presence says that the rest is there
        stored = smallest_dtype(on_grid.data)
        write_array(self.folder / f"{case.case_id}.b2nd", stored, self.plan.patch_size)
        if previous is not None and previous.source_hash == image.source_hash:
            sidecars = {**previous.sidecars, **sidecars}
            raw_file = raw_file or previous.raw_file
        return self._entry(case, image, on_grid, stamp, str(stored.dtype), raw_file, sidecars)

    def _entry(
        self,
        case: RawFiles,
        image: Image,
        on_grid: OnGrid,
        stamp: str,
        dtype: str,
        raw_file: str | None,
        sidecars: dict[str, str],
    ) -> CaseEntry:
        channels, d, h, w = on_grid.data.shape
        sides = np.linalg.norm(on_grid.to_world[:3, :3], axis=0)
        return CaseEntry(
            case_id=case.case_id,
            dataset=self.dataset,
            folder=self.folder,
            file=f"{case.case_id}.b2nd",
            raw_file=raw_file,
            shape=(d, h, w),
            channels=channels,
            dtype=dtype,
            spacing_mm=(float(sides[0]), float(sides[1]), float(sides[2])),
            to_world=_matrix(on_grid.to_world),
            subject=case.subject,
            modality=self.modality,
            source_hash=image.source_hash,
            source_stamp=stamp,
            bbox=on_grid.box,
            constants=on_grid.constants,
            sidecars=sidecars,
        )

    def _seen(self, case: RawFiles, image: Image, on_grid: OnGrid, raw: npt.NDArray[np.float32]) -> RawCase:
        return RawCase(
            case_id=case.case_id,
            modality=self.modality,
            image=raw,
            to_world=on_grid.to_world,
            original=image.data,
            original_to_world=image.to_world,
        )

    def _write_sidecar(self, sidecar: type[Sidecar], seen: RawCase) -> str:
        try:
            arrays = sidecar.compute(seen)
        except NnsslError:
            raise
        except Exception as error:  # a plugin's code may raise anything; the user must learn whose it was
            raise PluginError(
                f"The sidecar {sidecar.__module__}.{sidecar.__name__} failed on case {seen.case_id}: {error!r}. This "
                f"is a fault of that plugin, not of the scan."
            ) from error
        name = sidecar_file(seen.case_id, sidecar)
        write_sidecar(self.folder / name, sidecar, arrays)
        return name


def _is_hounsfield(image: Image, modality: tuple[str, ...]) -> bool:
    """Whether all channels are CT in whole numbers that fit int16, so that int16 costs half a HU at most."""
    if any(name != "ct" for name in modality):
        return False
    limits = np.iinfo(np.int16)
    inside = float(image.data.min()) >= limits.min and float(image.data.max()) <= limits.max
    return inside and all(np.array_equal(plane, np.rint(plane)) for channel in image.data for plane in channel)


def _as_int16(raw: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    return np.rint(raw).astype(np.int16)


def _matrix(affine: Affine) -> Matrix:
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
