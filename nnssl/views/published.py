"""The views of a published run, refused where a plan or the data would make something else of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnssl.errors import PlanError
from nnssl.method import DataInfo, PlanInfo
from nnssl.views.spec import Size

SPACING_TOLERANCE_MM = 0.05


@dataclass(frozen=True, kw_only=True)
class PublishedViews:
    """What the views of a published run were: CT in Hounsfield units, of a fixed size, mostly of fixed voxels.

    Attributes:
        run: whose views they are, as a sentence says it ("DeSD").
        sizes: D H W voxels of every kind of view that the encoder sees.
        spacing_mm: voxel size D H W; None: views are of whatever voxels the plan has.
        other_plan: how to get a plan that holds them; it follows "Use --preset default, or".
    """

    run: str
    sizes: tuple[Size, ...]
    spacing_mm: tuple[float, float, float] | None = None
    other_plan: str

    def check(self, plan: PlanInfo, data: DataInfo) -> None:
        """Refuse a plan and data whose views would not be what was published.

        Raises:
            PlanError: a channel is not CT, voxels have another size, the encoder's stride does not divide the views, or
                leaves too few cells of them.
        """
        if any(name != "ct" for name in data.modality):
            raise PlanError(
                f"{self.run}'s published views are CT in Hounsfield units; the channels are {data.modality}. "
                "Use --preset default."
            )
        if self.spacing_mm is not None and not _near(plan.spacing_mm, self.spacing_mm):
            raise PlanError(
                f"{self.run}'s published views have voxels of {self.spacing_mm} mm (D H W); the plan's are "
                f"{plan.spacing_mm} mm. Use --preset default, or {self.other_plan}."
            )
        for size in self.sizes:
            if any(side % stride for side, stride in zip(size, plan.total_stride, strict=True)):
                raise PlanError(
                    f"{self.run}'s published views of {size} voxels must be divisible by the encoder's total stride, "
                    f"which is {plan.total_stride}. Use --preset default, or {self.other_plan}."
                )
            plan.fit_view(limit=size, wanted=size)


def plan_of_paper(trainer: str, plan: str) -> str:
    """The way to the plan that the preset `paper` of `trainer` brings, for `PublishedViews.other_plan`.

    Args:
        trainer: class name.
        plan: name of the preset's `PlanWish`.
    """
    return (
        f"make the published plan with nnssl_plan_and_preprocess -d ID --for {trainer} --preset paper and pretrain "
        f"with -p nnsslPlans{plan}"
    )


def _near(found: Sequence[float], published: Sequence[float]) -> bool:
    return all(abs(a - b) <= SPACING_TOLERANCE_MM for a, b in zip(found, published, strict=True))
