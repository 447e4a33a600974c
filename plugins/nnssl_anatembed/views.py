"""The views of AnatEmbed (Yan et al. 2022): two crops of one case that hold one body voxel, each zoomed on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnssl.method import DataInfo, PlanInfo
from nnssl.views.intensity import (
    BrightnessAdd,
    BrightnessMultiply,
    Contrast,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    IntensityOp,
    Window,
)
from nnssl.views.published import PublishedViews, plan_of_paper
from nnssl.views.spec import WHOLE_CASE, Geometry, Intensity, Size, Source, ViewGroup, ViewSpec

if TYPE_CHECKING:
    from nnssl_anatembed.method import AnatEmbedConfig

GROUP = "pair"
PUBLISHED_SIZE: Size = (32, 96, 96)  # published as 96 x 96 x 32 in y x z
PUBLISHED = PublishedViews(
    run="SAM",
    sizes=(PUBLISHED_SIZE,),
    spacing_mm=(2.0, 2.0, 2.0),
    other_plan=plan_of_paper("AnatEmbedTrainer", "AnatEmbedPaper"),
)
PUBLISHED_HU = (-1024.0, 3071.0)
PUBLISHED_NOISE = 0.25 / 255  # largest standard deviation, on the published scale of 0 to 255


def view_spec(config: AnatEmbedConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two crops of one case around one body voxel.

    Raises:
        PlanError: the plan or the data do not allow the views.
    """
    if config.published_views:
        PUBLISHED.check(plan, data)
        size = PUBLISHED_SIZE
    else:
        limit = [side / config.scale[1] for side in data.shape_quantiles[10]]
        size = plan.fit_view(limit=limit, most_voxels=config.view_voxels)
    group = ViewGroup(
        name=GROUP,
        count=2,
        size=size,
        place="around_anchor",
        geometry=Geometry(scale=config.scale, rotation_deg=config.rotation_deg),
        intensity=Intensity(ops=_intensity(config, data)),
        min_overlap=config.min_overlap,
    )
    return ViewSpec(sources=(Source(anchor="body", size=WHOLE_CASE),), groups=(group,))


def published_window() -> IntensityOp:
    """HU as published, to [0, 1] in place of -50 to 205: the first layer's norm makes no difference of it."""
    return Window.fixed(PUBLISHED_HU)


def _intensity(config: AnatEmbedConfig, data: DataInfo) -> tuple[IntensityOp, ...]:
    """Published: hardly any noise. Ours: mild for CT, whose values mean the same everywhere, strong for the rest."""
    if config.values == "raw":
        return published_window(), GaussianNoise((0.0, PUBLISHED_NOISE))
    if all(name == "ct" for name in data.modality):
        return (
            GaussianBlur((0.5, 1.0), probability=0.2),
            Contrast((0.75, 1.25), probability=0.5),
            BrightnessAdd(0.1, probability=0.5),
            GaussianNoise((0.0, 0.1), probability=0.5),
        )
    return (
        GaussianBlur((0.5, 1.5), probability=0.3),
        BrightnessMultiply((0.7, 1.3), probability=0.5),
        Contrast((0.65, 1.5), probability=0.5),
        Gamma((0.6, 1.7), probability=0.5),
        BrightnessAdd(0.3, probability=0.5),
        GaussianNoise((0.0, 0.15), probability=0.5),
    )
