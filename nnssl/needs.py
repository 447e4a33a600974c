"""What a method needs on disk before it can train: values, sidecars, tables. Part of the method contract.

Sidecars and tables are made by `nnssl_plan_and_preprocess --for TRAINER` and read by the loader. Imports numpy only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

CELL_MM = 4.0  # the body mask's cell: the chest wall is some cells thick, and a chest has 10^5 cells


@dataclass(frozen=True, kw_only=True)
class RawCase:
    """One case as a sidecar sees it: raw values (HU for CT), before clipping and normalisation.

    Attributes:
        case_id: the case's name in the data set.
        modality: per channel, dataset.json's channel name in lower case ("ct", "t1", ...).
        image: (C, D, H, W) float32, cropped and resampled to the plan's grid.
        to_world: (4, 4) from voxel index (d, h, w, 1) of `image` to mm in LPS.
        original: (C, D', H', W') float32, the whole image as read.
        original_to_world: (4, 4), the same for `original`.
    """

    case_id: str
    modality: tuple[str, ...]
    image: npt.NDArray[np.float32]
    to_world: npt.NDArray[np.float64]
    original: npt.NDArray[np.float32]
    original_to_world: npt.NDArray[np.float64]


class Sidecar(ABC):
    """Arrays computed once per case from the raw image and stored beside it (`CASE.NAME.npz`, no pickle)."""

    name: ClassVar[str]
    version: ClassVar[int] = 1

    @classmethod
    @abstractmethod
    def compute(cls, case: RawCase) -> Mapping[str, npt.NDArray[np.generic]]:
        """Named arrays of plain numeric dtype; the same case must always give the same arrays."""

    @classmethod
    def picture(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.uint8] | None:
        """(h, w) grey picture of what `compute` gave, written beside it as `CASE.NAME.png`; None: there is none."""
        return None


class BodyMask(Sidecar):
    """Body voxels on a coarse lattice of about 4 mm, for `Source(anchor="body")`: the one sidecar of our own.

    Arrays: `mask` (d, h, w) bool; `first` and `stride` (3,) int64: lattice point i is voxel first + stride * i, and
    `mask` says whether that voxel belongs to the body.
    """

    name = "body"
    version = 2  # 2: crops of MR without air are body as a whole

    @classmethod
    def compute(cls, case: RawCase) -> Mapping[str, npt.NDArray[np.generic]]:
        """The body of `case`; see `nnssl.planning.bodymask.body` for what that is."""
        from nnssl.planning.bodymask import body

        columns = np.asarray(case.to_world)[:3, :3]
        spacing_mm = np.linalg.norm(columns, axis=0)
        shape = np.array(case.image.shape[1:])
        stride = np.clip(np.round(CELL_MM / spacing_mm), 1, shape).astype(np.int64)
        first = (stride - 1) // 2
        lattice = tuple(slice(int(start), None, int(step)) for start, step in zip(first, stride, strict=True))
        # LPS: the third world axis runs from feet to head; the voxel axis most along it is the vertical one
        vertical = int(np.argmax(np.abs(columns[2]) / spacing_mm))
        mask = body(case.image[(slice(None), *lattice)], case.modality, vertical=vertical)
        return {"mask": mask, "first": first, "stride": stride}


@dataclass(frozen=True, kw_only=True)
class Match:
    """A point of one case and the same anatomy in another, in mm (LPS).

    Attributes:
        case_a, point_a_mm: the point.
        case_b, point_b_mm: the same anatomy.
        score: the matcher's; higher is surer. Scores of different matchers do not compare.
        cycle_mm: how far from the point one comes back from `point_b_mm`; None: not known.
        matcher: what found it, "name:fingerprint"; "user" for a table without this column.
    """

    case_a: str
    point_a_mm: tuple[float, float, float]
    case_b: str
    point_b_mm: tuple[float, float, float]
    score: float
    cycle_mm: float | None = None
    matcher: str = "user"


class Table(ABC):
    """Matched points of a data set, stored as `TABLE_NAME.csv` in the configuration's folder."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def compute(cls, case_ids: Sequence[str], folder: str) -> Sequence[Match]:
        """The table's rows for the preprocessed cases in `folder`."""


class MatchedPoints(Table):
    """Body points of every case and the same anatomy in others, as `nnssl_match --table` writes them.

    The one table of our own. Made at preprocessing it is the registration's (matcher `auto` without weights); one that
    lies there already, of another matcher or the user's own, is used as it is.
    """

    name = "matches"

    @classmethod
    def compute(cls, case_ids: Sequence[str], folder: str) -> Sequence[Match]:
        """Matches of the raw scans of `folder`'s data set; see `nnssl.match.table`."""
        from nnssl.match.table import of_preprocessed

        return of_preprocessed(case_ids, folder)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What must be there before a method can train.

    Attributes:
        values: `plan` the normalised voxels that nnU-Net would train on; `raw` the resampled raw ones (HU).
        sidecars: computed per case at preprocessing.
        tables: computed per data set at preprocessing.
        min_cases: fewest cases in a batch that give the loss a meaning.
        samples_per_case: boxes drawn from each case of a batch; batch_size must be a multiple.
        batch_coupled: the loss mixes samples (NT-Xent, KoLeo, batch norm in a head), so that gradient accumulation
            would change it; accumulation is then refused.
    """

    values: Literal["plan", "raw"] = "plan"
    sidecars: tuple[type[Sidecar], ...] = ()
    tables: tuple[type[Table], ...] = ()
    min_cases: int = 1
    samples_per_case: int = 1
    batch_coupled: bool = False
