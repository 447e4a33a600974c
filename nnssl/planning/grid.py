"""What determines the voxels of a preprocessed case: the part of a plan that preprocessing reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnssl.errors import PlanError
from nnssl.planning.planner import resolved


@dataclass(frozen=True, kw_only=True)
class CasePlan:
    """One configuration of a plans file, as far as preprocessing looks at it.

    Attributes:
        data_identifier: name of the folder in nnUNet_preprocessed/DATASET.
        reader: nnU-Net's reader class name.
        transpose: axis order: stored axis a is axis transpose[a] of the image as read.
        spacing_mm: D H W of the stored grid (transposed).
        patch_size: D H W; decides chunk sizes only.
        schemes: nnU-Net's normalisation class per channel.
        masked: per channel, whether only nonzero voxels are normalised.
        intensities: per channel, the fingerprint's intensity properties.
        resampling: name of nnU-Net's resampling function.
        resampling_options: its keyword arguments.
    """

    data_identifier: str
    reader: str
    transpose: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    intensities: tuple[Mapping[str, float], ...]
    resampling: str
    resampling_options: Mapping[str, Any]

    def made_from(self) -> dict[str, Any]:
        """Everything that changes a stored voxel, as JSON values: data with another answer are other data."""
        uses_intensities = [scheme == "CTNormalization" for scheme in self.schemes]
        return {
            "reader": self.reader,
            "transpose_forward": list(self.transpose),
            "spacing": list(self.spacing_mm),
            "normalization_schemes": list(self.schemes),
            "use_mask_for_norm": list(self.masked),
            "resampling_fn_data": self.resampling,
            "resampling_fn_data_kwargs": dict(self.resampling_options),
            "intensity_properties": [
                dict(properties) if used else {}
                for properties, used in zip(self.intensities, uses_intensities, strict=True)
            ],
        }


def case_plan(plans: Mapping[str, Any], configuration: str) -> CasePlan:
    """The part of `plans` that decides the voxels of `configuration`.

    Raises:
        UsageError: the configuration is unknown or not 3D.
        PlanError: the plan lacks something or asks for a preprocessor that is not nnU-Net's default.
    """
    chosen = resolved(plans, configuration)
    preprocessor = chosen.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise PlanError(
            f"The plan {plans['plans_name']} asks for the preprocessor {preprocessor!r}; nnssl reproduces nnU-Net's "
            f"DefaultPreprocessor only. Plan with a planner that uses it."
        )
    try:
        properties = plans["foreground_intensity_properties_per_channel"]
        schemes = tuple(str(scheme) for scheme in chosen["normalization_schemes"])
        t0, t1, t2 = (int(axis) for axis in plans["transpose_forward"])
        s0, s1, s2 = (float(side) for side in chosen["spacing"])
        p0, p1, p2 = (int(side) for side in chosen["patch_size"])
        return CasePlan(
            data_identifier=str(chosen["data_identifier"]),
            reader=str(plans["image_reader_writer"]),
            transpose=(t0, t1, t2),
            spacing_mm=(s0, s1, s2),
            patch_size=(p0, p1, p2),
            schemes=schemes,
            masked=tuple(bool(masked) for masked in chosen["use_mask_for_norm"]),
            intensities=tuple(properties[str(channel)] for channel in range(len(schemes))),
            resampling=str(chosen["resampling_fn_data"]),
            resampling_options=dict(chosen["resampling_fn_data_kwargs"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise PlanError(
            f"Configuration {configuration} of the plans {plans['plans_name']} lacks or garbles something ({error!r}). "
            f"Plan again, or correct the plans file."
        ) from error
