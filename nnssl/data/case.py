"""What is known about one preprocessed case: where its voxels lie, on the disk and in the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Matrix = tuple[tuple[float, float, float, float], ...]
Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Constants:
    """How one channel was normalised: stored = (clip(raw, lower, upper) - offset) / scale.

    Attributes:
        scheme: nnU-Net's class name ("CTNormalization").
        offset: mean of CT or z-score, minimum of a rescaling, 0 without normalisation; in the image's units.
        scale: the standard deviation, the range, or 1.
        lower: values below were raised to it; None: not clipped.
        upper: values above were lowered to it; None: not clipped.
        masked: only nonzero voxels were normalised, the others are 0.
    """

    scheme: str
    offset: float
    scale: float
    lower: float | None = None
    upper: float | None = None
    masked: bool = False


@dataclass(frozen=True, kw_only=True)
class CaseEntry:
    """One preprocessed case.

    Attributes:
        case_id: file name without channel and ending.
        dataset: "Dataset745_Thorax".
        folder: the configuration's folder; not stored, so that folders can be moved.
        file: the normalised voxels, relative to `folder`.
        raw_file: the resampled raw voxels (HU for CT), or None where no method asked for them.
        shape: D H W voxels of the stored array.
        channels: C.
        dtype: of `file`, "float16" or "float32".
        spacing_mm: voxel size D H W of the stored grid, as `to_world` has it.
        to_world: 4x4 from stored voxel index (d, h, w, 1), voxel centres at whole numbers, to mm in LPS.
        subject: the person; the case itself unless dataset.json has `subjects`.
        modality: per channel, dataset.json's channel name in lower case.
        source_hash: sha256 of the source image files' content, after decompression, channels in order.
        source_stamp: names, sizes and modification times of the source files: decides what a rerun may skip.
        bbox: ((first, last + 1), ...) per axis D H W: the nonzero box in the transposed source.
        constants: one per channel.
        sidecars: {name: file relative to `folder`}.
    """

    case_id: str
    dataset: str
    folder: Path
    file: str
    raw_file: str | None = None
    shape: Size
    channels: int
    dtype: str
    spacing_mm: tuple[float, float, float]
    to_world: Matrix
    subject: str
    modality: tuple[str, ...]
    source_hash: str = ""
    source_stamp: str = ""
    bbox: tuple[tuple[int, int], ...] = ()
    constants: tuple[Constants, ...] = ()
    sidecars: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file of the normalised voxels."""
        return self.folder / self.file

    @property
    def raw_path(self) -> Path | None:
        """The file of the raw voxels, if there is one."""
        return None if self.raw_file is None else self.folder / self.raw_file
