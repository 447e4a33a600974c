"""The method contract. A self-supervised method is one class that sees views and returns losses; nothing else.

The engine (`nnssl.trainer.SSLTrainer`) makes the views, runs backward, clips, steps, moves teachers and centres, saves
and resumes. A method promises: no `.to(device)`, no backward, no rank test, no file access, no module globals, and no
state outside modules and buffers. `nnssl.testing.check_method` tests these promises. Imports torch only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from nnssl.errors import PlanError
from nnssl.needs import Match, Needs, RawCase, Sidecar, Table
from nnssl.views.spec import Size, ViewSpec

__all__ = [
    "Batch", "DataInfo", "Exported", "Features", "Losses", "Match", "Method", "Needs", "Networks", "PlanInfo",
    "ProbeBox", "Pyramid", "RawCase", "Sidecar", "SourceInfo", "Step", "Table", "View", "ViewSpec",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlanInfo:
    """The plan, as far as a method may look at it.

    Attributes:
        patch_size: the plan's patch, D H W voxels (or the recipe's `patch_size`).
        spacing_mm: voxel size D H W.
        strides: cumulative stride of every encoder stage, D H W.
        features: channels of every encoder stage.
        channels: input channels.
    """

    patch_size: Size
    spacing_mm: tuple[float, float, float]
    strides: tuple[Size, ...]
    features: tuple[int, ...]
    channels: int

    @property
    def total_stride(self) -> Size:
        """Cumulative stride of the deepest stage: every view side must be a multiple of it."""
        return self.strides[-1]

    def fit_view(
        self,
        *,
        limit: Sequence[float],
        wanted: Sequence[int] | None = None,
        min_cells: int = 8,
        most_voxels: int | None = None,
    ) -> Size:
        """The largest legal view size: `wanted` (or the patch) bounded by `limit`, snapped down to the total stride.

        A side that is no multiple of the stride would make residual shortcuts and maps disagree, in part silently.

        Args:
            limit: D H W bound in voxels, usually a quantile of case shapes over the parent-to-view ratio.
            wanted: D H W; the plan's patch if None.
            min_cells: fewest bottleneck cells (instance norm needs more than one; statistics need some more).
            most_voxels: bound on the volume; what is too much is taken off the axis with the most bottleneck cells, one
                cell at a time.

        Raises:
            PlanError: even the bounded size leaves fewer than `min_cells` bottleneck cells.
        """
        bounded = [min(float(w), b) for w, b in zip(wanted or self.patch_size, limit, strict=True)]
        cells = [max(1, int(side // stride)) for side, stride in zip(bounded, self.total_stride, strict=True)]
        while most_voxels and prod(cells) * prod(self.total_stride) > most_voxels and max(cells) > 2:
            cells[cells.index(max(cells))] -= 1
        size = (cells[0] * self.total_stride[0], cells[1] * self.total_stride[1], cells[2] * self.total_stride[2])
        if cells[0] * cells[1] * cells[2] < min_cells:
            raise PlanError(
                f"A view needs at least {min_cells} cells at the encoder's deepest stage (total stride "
                f"{self.total_stride}); the cases allow {tuple(round(b, 1) for b in bounded)} voxels, that is "
                f"{size} or {cells[0] * cells[1] * cells[2]} cells. Plan with fewer stages or a finer spacing "
                f"(-overwrite_target_spacing), or pretrain on larger scans."
            )
        return size


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """The data, as far as a method may look at it.

    Attributes:
        modality: per channel, dataset.json's channel name in lower case; "ct" is Hounsfield units.
        cases: number of training cases.
        shape_quantiles: {percent: D H W} of preprocessed case shapes, for 0, 10, 50, 90, 100.
        batch_size: samples per optimizer step over all ranks and micro-batches.
        steps_per_epoch: optimizer steps per epoch (for schedules that count epochs).
    """

    modality: tuple[str, ...]
    cases: int
    shape_quantiles: Mapping[int, Size]
    batch_size: int
    steps_per_epoch: int


@dataclass(frozen=True, kw_only=True)
class View:
    """Views of one group. B samples, V views each, C channels.

    Attributes:
        image: (B, V, C, D, H, W) float32, after the intensity operations.
        clean: the same before them, if `keep_clean`; else None.
        valid: (B, V, 1, D, H, W) bool; False where the view left the case. Nothing there may count in a loss.
        mask: (B, V, 1, D, H, W) bool, True where hidden; None without a `BlockMask`.
        draws: parameters by name: "flip" (B, V, 3) bool, "rot90" (B, V) int64 quarter turns in the H-W plane,
            "scale" (B, V, 3), "rotation_deg" (B, V, 3), "origin" (B, V, 3) voxel corner of the unrotated region.
        source: name of the source all views of this group come from.
        to_source: (B, V, 4, 4) float64 from view voxel index (d, h, w, 1) to voxel index of the stored case.
    """

    image: Tensor
    clean: Tensor | None
    valid: Tensor
    mask: Tensor | None
    draws: Mapping[str, Tensor]
    source: str
    to_source: Tensor


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """Where the boxes of one source lie.

    Attributes:
        case_ids: B case names.
        subjects: B subject names.
        to_world: (B, 4, 4) float64 from voxel index of the stored case to mm in LPS.
        spacing_mm: (B, 3) voxel size.
        box: (B, 2, 3) int64, first voxel and size of the source box in the stored case.
        anchor_mm: (B, 3) float64 world point the box was anchored on.
        sidecars: {sidecar name: B mappings of arrays as tensors}.
    """

    case_ids: tuple[str, ...]
    subjects: tuple[str, ...]
    to_world: Tensor
    spacing_mm: Tensor
    box: Tensor
    anchor_mm: Tensor
    sidecars: Mapping[str, Sequence[Mapping[str, Tensor]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch: `views` by group name, `sources` by source name, `keys` (B,) int64 on the CPU.

    A key names a sample of the run: every random number about it is a function of (seed, key, name).
    """

    views: Mapping[str, View]
    sources: Mapping[str, SourceInfo]
    keys: Tensor


class Step(Protocol):
    """Where the run stands, and keyed randomness. One per micro-batch."""

    index: int  # optimizer step, 0-based
    total: int  # optimizer steps of the whole run
    epoch: int
    micro: int  # which micro-batch of the step
    micros: int
    epochs: int  # epochs of the whole run

    def uniform(self, name: str, keys: Tensor, shape: Sequence[int]) -> Tensor:
        """(B, *shape) in [0, 1) on the device, a function of (seed, key, name) alone."""

    def normal(self, name: str, keys: Tensor, shape: Sequence[int]) -> Tensor:
        """(B, *shape) standard normal."""

    def permutation(self, name: str, keys: Tensor, n: int) -> Tensor:
        """(B, n) int64, a random order of 0..n-1 for each sample."""

    def gather(self, x: Tensor) -> Tensor:
        """(R*B, ...) the tensors of all ranks in rank order, with gradient; x itself without a process group."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What `forward` returns.

    Attributes:
        total: scalar to be minimised, mean over the samples of this micro-batch, float32.
        parts: scalars to be logged, by name; detached.
        watch: tensors the engine derives health from, detached; recognised names: "teacher_probs" (N, K) after
            centring and temperature, "student_log_probs" (N, K) of the paired views, "vectors" (N, d).
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    watch: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a frozen network says about images.

    Attributes:
        pyramid: feature maps (N, C_k, D_k, H_k, W_k), finest first, whatever the export will carry.
        vector: (N, d), one per image.
    """

    pyramid: tuple[Tensor, ...]
    vector: Tensor


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The networks to hand to nnU-Net.

    Attributes:
        encoder: an encoder from `networks.encoder()` or the one inside `networks.unet()` or a teacher of either; or a
            network from `networks.other()`, which nnU-Net cannot take and `nnssl.load_pyramid` reads.
        decoder: the U-Net from `networks.unet()` if its decoder was trained and transfers; else None.
        variants: further choices for `nnssl_export --which`, by name: {"student": (encoder, decoder or None)}.
        heads: trained layers that nnU-Net has no place for, but that tools need to use the method's answers (the
            embeddings of AnatEmbed for `nnssl_match`); kept in the weights file beside the networks.
        raw_window: (low, high) where the networks saw raw values clipped to these ends and mapped to [0, 1] in place of
            the plan's normalised ones; kept in the weights file.
    """

    encoder: nn.Module
    decoder: nn.Module | None = None
    variants: Mapping[str, tuple[nn.Module, nn.Module | None]] = field(default_factory=dict)
    heads: nn.Module | None = None
    raw_window: tuple[float, float] | None = None

    @classmethod
    def distilled(cls, *, teacher: nn.Module, student: nn.Module) -> Exported:
        """What self-distillation hands on: the teacher's encoder, and the student's as a choice."""
        return cls(encoder=teacher, variants={"student": (student, None), "teacher": (teacher, None)})


class ProbeBox(Protocol):
    """A held-out box seen twice, with the places that both views show; tensors are where the method is."""

    @property
    def case_id(self) -> str:
        """Name of its case."""

    @property
    def images(self) -> Tensor:
        """(2, C, D, H, W) two views."""

    @property
    def points(self) -> Tensor:
        """(2, P, 3) voxel indices of the same P places in both views."""

    @property
    def points_mm(self) -> Tensor:
        """(P, 3) those places."""

    @property
    def to_world(self) -> Tensor:
        """(2, 4, 4) float64 from voxel index of each view to mm in LPS."""

    @property
    def position_mm(self) -> Tensor:
        """(3,) centre of the box from the centre of its case."""


class Pyramid(Protocol):
    """A network that turns (N, C, D, H, W) into feature maps, finest first.

    `channels[k]` and `strides[k]` (cumulative, D H W) belong to the k-th map.
    """

    channels: tuple[int, ...]
    strides: tuple[Size, ...]

    def __call__(self, image: Tensor) -> list[Tensor]: ...


class Networks(Protocol):
    """Builds networks from the plan. Segmentation layers are never built."""

    plan: PlanInfo
    data: DataInfo

    def encoder(self) -> Any:
        """nnU-Net's encoder of this plan: a module and a `Pyramid` over its stages."""

    def unet(self) -> Any:
        """nnU-Net's whole U-Net without segmentation layers: a module and a `Pyramid` over decoder levels, finest
        first, with the bottleneck last; has `.encoder`, itself a `Pyramid`."""

    def teacher(self, student: nn.Module, *, momentum: Callable[[int, int], float]) -> Any:
        """An exponential moving average of `student`: a `Deferred` module, called like the student, without
        gradient, moved once per step by m(index, total)."""

    def other(self, name: str, **options: Any) -> Any:
        """A network that is not the plan's, by name; raises PluginError with the list of known names."""


class Method(nn.Module, ABC):
    """A self-supervised method.

    Subclasses define `PAPER` (one line: authors, title, venue, arXiv id), `Config` (a frozen dataclass with a default
    and a cited source for every number) and the abstract methods.
    """

    PAPER: ClassVar[str]
    Config: ClassVar[type[Any]]

    @classmethod
    @abstractmethod
    def needs(cls, config: Any) -> Needs:
        """What must be on disk and in a batch."""

    @classmethod
    @abstractmethod
    def views(cls, config: Any, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        """What to see of a sample. Pure: the same arguments give the same answer.

        Raises:
            PlanError: the plan or the data do not allow the views.
        """

    @abstractmethod
    def __init__(self, config: Any, networks: Networks) -> None:
        """Build all modules. Subclasses must call `super().__init__(config, networks)` first."""
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, batch: Batch, step: Step) -> Losses:
        """The losses of one micro-batch; the one call that DDP wraps."""

    @abstractmethod
    def features(self, image: Tensor) -> Features:
        """Features of (N, C, D, H, W) images, for health and probes; called in eval mode without gradient.

        Health is measured on rank 0 alone: nothing here may talk to other ranks, as `BatchNorm` of our heads does.
        """

    @abstractmethod
    def export_network(self) -> Exported:
        """The trained networks that nnU-Net should start from."""

    def validate(self, boxes: Sequence[ProbeBox]) -> Mapping[str, Tensor]:
        """Label-free numbers of the method's own about held-out boxes, logged with the health signals. Optional.

        Called as `features` is: in eval mode, without gradient, on rank 0 alone.
        """
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their own factors: {"params", "lr_factor": 1.0, "weight_decay_factor": 1.0}.

        By default 1-D tensors (biases, norm gains) get no weight decay.
        """
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in self.parameters():
            if parameter.requires_grad:
                (plain if parameter.ndim <= 1 else decayed).append(parameter)
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay_factor": 0.0}]
        return [group for group in groups if group["params"]]

    def edit_gradients(self, step: Step) -> None:
        """Change gradients after clipping, before the optimizer (DINO's frozen last layer). Optional."""
