"""The views of vox2vec (Goncharov et al. 2023): two exact crops that hold one body voxel, with own intensities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnssl.errors import PlanError
from nnssl.method import DataInfo, PlanInfo
from nnssl.views.intensity import GaussianBlur, GaussianNoise, IntensityOp, OneOf, PercentileWindow, Sharpen, Window
from nnssl.views.published import PublishedViews, plan_of_paper
from nnssl.views.spec import WHOLE_CASE, IntegerCrop, Intensity, Size, Source, ViewGroup, ViewSpec

if TYPE_CHECKING:
    from nnssl_vox2vec.method import Vox2VecConfig

GROUP = "crops"
PUBLISHED_SIZE: Size = (32, 128, 128)  # published as (128, 128, 32) in x y z
PUBLISHED = PublishedViews(
    run="vox2vec",
    sizes=(PUBLISHED_SIZE,),
    spacing_mm=(2.0, 1.0, 1.0),
    other_plan=plan_of_paper("Vox2VecTrainer", "Vox2VecPaper"),
)


def view_spec(config: Vox2VecConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two crops of one case, both with the same body voxel; bit-equal to the case before the intensity operations.

    Raises:
        PlanError: the plan or the data do not allow the views.
    """
    if config.network == "fpn3d" and not in_hounsfield(config, data.modality):
        raise PlanError(
            f"The network fpn3d is for CT in Hounsfield units, which its file tells how to window; the channels are "
            f"{data.modality} and method.values is {config.values}. Use --set method.network=plan, which takes any."
        )
    if config.published_views:
        PUBLISHED.check(plan, data)
        if config.values != "raw":
            raise PlanError("vox2vec's published views are of raw values. Use --set method.values=raw.")
        size = PUBLISHED_SIZE
    else:
        size = plan.fit_view(limit=data.shape_quantiles[10], most_voxels=config.view_voxels)
    group = ViewGroup(
        name=GROUP,
        count=2,
        size=size,
        place="around_anchor",
        geometry=IntegerCrop(),
        intensity=Intensity(ops=_intensity(config, data)),
    )
    return ViewSpec(sources=(Source(anchor="body", size=WHOLE_CASE),), groups=(group,))


def usual_window(config: Vox2VecConfig, modality: tuple[str, ...]) -> IntensityOp:
    """The window without chance, to [0, 1]: what the network sees outside of training."""
    return _window(config, modality, chance=0.0)


def _intensity(config: Vox2VecConfig, data: DataInfo) -> tuple[IntensityOp, ...]:
    """Blur or sharpening, noise, window, as published for CT; noise is in HU, hence after the window elsewhere."""
    shape = OneOf(
        (GaussianBlur(config.blur_sigma, in_plane=True), Sharpen(config.sharpen_sigma, config.sharpen, in_plane=True)),
        probability=config.shape_probability,
    )
    window = _window(config, data.modality, chance=config.window_probability)
    noise = GaussianNoise((0.0, config.noise), probability=config.noise_probability)
    if in_hounsfield(config, data.modality):
        width = config.window[1] - config.window[0]
        return shape, GaussianNoise((0.0, config.noise * width), probability=config.noise_probability), window
    return shape, window, noise


def _window(config: Vox2VecConfig, modality: tuple[str, ...], *, chance: float) -> IntensityOp:
    """HU windows for CT, windows between percentiles for everything else."""
    if in_hounsfield(config, modality):
        return Window(config.window_low, config.window_high, config.window, jitter_probability=chance)
    return PercentileWindow(config.percentiles, jitter=config.percentile_jitter, jitter_probability=chance)


def in_hounsfield(config: Vox2VecConfig, modality: tuple[str, ...]) -> bool:
    """Whether every channel comes in Hounsfield units."""
    return config.values == "raw" and all(name == "ct" for name in modality)
