"""AnatEmbed: every place of the body gets an embedding that is the same in all views, and unlike that of other places.

Yan, Cai, Jin, Miao, Guo, Harrison, Tang, Xiao, Lu, Lu: "SAM: Self-supervised Learning of Pixel-wise Anatomical
Embeddings in Radiological Images", IEEE TMI 2022, arXiv:2012.02383. Written from the published formulas; the equations
are numbered here and in README.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from nnssl.blocks import collectives
from nnssl.blocks.losses import wide
from nnssl.blocks.pooling import pool
from nnssl.errors import RecipeError
from nnssl.method import (
    Batch,
    DataInfo,
    Exported,
    Features,
    Losses,
    Method,
    Needs,
    Networks,
    PlanInfo,
    ProbeBox,
    Step,
    ViewSpec,
)
from nnssl.needs import BodyMask
from nnssl.views.intensity.apply import apply_fixed
from nnssl_anatembed import PAPER
from nnssl_anatembed.cells import Cells, cells_of, in_body, nearest_cells
from nnssl_anatembed.contrast import chosen, hard_and_diverse, info_nce, upsampled
from nnssl_anatembed.heads import PyramidHead, choose_stages
from nnssl_anatembed.validation import match_errors
from nnssl_anatembed.views import GROUP, published_window, view_spec

FINE_CELL_MM = 4.0  # of the published fine map
COARSE_CELL_MM = (8.0 * 32.0 * 32.0) ** (1 / 3)  # geometric mean of the published coarse map's
COARSE_HEIGHT_MM = 8.0


@dataclass(frozen=True, kw_only=True)
class AnatEmbedConfig:
    """Numbers of AnatEmbed. "Published" is the code's NIH configuration; where we differ, README.md says why.

    Attributes:
        width: channels of both embeddings; published 128.
        temperature: tau; published 0.5.
        positives: most queries a view and level; published 100 (fine).
        positive_mm: d_pos, a fine positive is closer; published 2.
        ignore_mm: d_ign, fine cells up to so far from a query are no negatives; published 20.
        hard, diverse: fine negatives looked at and taken; published 2000 and 500.
        coarse_positive_mm, coarse_height_mm: a coarse positive is closer, and closer across slices; published 25, 8.
        coarse_ignore_mm: published 5.
        coarse_hard, coarse_diverse: published 250 and 200.
        strangers: most coarse cells of other volumes as negatives; published 1000.
        scale_lengths: all lengths above are for cells of 4 mm and 8 x 32 x 32 mm, and follow the plan's cells; without
            it (published) they are mm.
        body_only: queries are cells in the body.
        scale: zoom of a view; published.
        rotation_deg: published 0.
        min_overlap: smallest share of a view that both show, besides the voxel they always share.
        view_voxels: most voxels of a view; published 32 x 96 x 96.
        values: `plan` nnU-Net's normalised voxels; `raw` HU from -1024 to 3071 (published).
        published_views: 32 x 96 x 96 voxels of 2 mm whatever the plan's patch is.
    """

    width: int = 128
    temperature: float = 0.5
    positives: int = 100
    positive_mm: float = 2.0
    ignore_mm: float = 20.0
    hard: int = 2000
    diverse: int = 500
    coarse_positive_mm: float = 25.0
    coarse_height_mm: float = COARSE_HEIGHT_MM
    coarse_ignore_mm: float = 5.0
    coarse_hard: int = 250
    coarse_diverse: int = 200
    strangers: int = 1000
    scale_lengths: bool = True
    body_only: bool = True
    scale: tuple[float, float] = (0.8, 1.2)
    rotation_deg: float = 10.0
    min_overlap: float = 0.2
    view_voxels: int = 64 * 96 * 96
    values: Literal["plan", "raw"] = "plan"
    published_views: bool = False

    def __post_init__(self) -> None:
        counts = (self.width, self.positives, self.diverse, self.coarse_diverse, self.strangers, self.view_voxels)
        if min(counts) < 1 or self.hard < self.diverse or self.coarse_hard < self.coarse_diverse:
            raise RecipeError(
                "method.width, positives, diverse, coarse_diverse, strangers and view_voxels must be at least 1, and "
                "hard and coarse_hard no smaller than diverse and coarse_diverse."
            )
        if self.temperature <= 0 or not 0 < self.scale[0] <= self.scale[1]:
            raise RecipeError(
                f"method.temperature and scale must be above 0, scale as low,high; they are {self.temperature} and "
                f"{self.scale}."
            )


@dataclass(frozen=True)
class Level:
    """One head's answers to both views of B samples.

    Attributes:
        vectors: (B, 2N, width) of length 1, the first view's cells before the second's.
        cells: where they lie.
        queries, keys: (B, 2Q) index into the 2N cells: a cell and the same place in the other view.
        counted: (B, 2Q) bool, false in places left over.
    """

    vectors: Tensor
    cells: Cells
    queries: Tensor
    keys: Tensor
    counted: Tensor


class AnatEmbed(Method):
    """Contrastive learning of anatomical places; the encoder transfers, the heads serve `nnssl_match`."""

    PAPER = PAPER
    Config = AnatEmbedConfig
    config: AnatEmbedConfig

    @classmethod
    def needs(cls, config: AnatEmbedConfig) -> Needs:
        """Where the body is, and at least three volumes at a time, since negatives come from the others."""
        return Needs(values=config.values, sidecars=(BodyMask,), min_cases=3, batch_coupled=True)

    @classmethod
    def views(cls, config: AnatEmbedConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        """See `nnssl_anatembed.views`."""
        return view_spec(config, plan, data)

    def __init__(self, config: AnatEmbedConfig, networks: Networks) -> None:
        super().__init__(config, networks)
        self.encoder = networks.encoder()
        self.stages = choose_stages(self.encoder.strides)
        heads = [PyramidHead([self.encoder.channels[k] for k in stages], config.width) for stages in self.stages]
        self.heads = torch.nn.ModuleDict({"fine": heads[0], "coarse": heads[1]})
        self.strides = [self.encoder.strides[stages[0]] for stages in self.stages]
        spacing = networks.plan.spacing_mm
        sides = [[s * mm for s, mm in zip(stride, spacing, strict=True)] for stride in self.strides]
        scales = (prod(sides[0]) ** (1 / 3) / FINE_CELL_MM, prod(sides[1]) ** (1 / 3) / COARSE_CELL_MM)
        self.unit = scales if config.scale_lengths else (1.0, 1.0)
        self.height_unit = sides[1][0] / COARSE_HEIGHT_MM if config.scale_lengths else 1.0

    def embed(self, image: Tensor) -> list[Tensor]:
        """The fine and the coarse map of (N, C, D, H, W) images, cells of length 1."""
        if self.config.values == "raw" and not self.training:  # in training the views do it
            image = apply_fixed(published_window(), image)
        maps = self.encoder(image)
        return [head([maps[k] for k in stages]) for head, stages in zip(self.heads.values(), self.stages, strict=True)]

    def forward(self, batch: Batch, step: Step) -> Losses:
        """InfoNCE of the fine and of the coarse embeddings."""
        view = batch.views[GROUP]
        to_world = batch.sources[view.source].to_world[:, None] @ view.to_source
        maps = [one.reshape(*view.image.shape[:2], *one.shape[1:]) for one in self.embed(view.image.flatten(0, 1))]
        fine = self._level(0, maps[0], batch, step, to_world)
        coarse = self._level(1, maps[1], batch, step, to_world)
        strangers = self._strangers(coarse, batch, step)
        found = [
            (self._fine(fine, maps[1][i].detach(), step, batch, i), self._coarse(coarse, strangers[i], step, batch, i))
            for i in range(len(to_world))
        ]
        parts = {name: torch.stack([pair[k][0] for pair in found]).mean() for k, name in enumerate(("fine", "coarse"))}
        # Eq. 4: L = L_fine + L_coarse
        total = parts["fine"] + parts["coarse"]
        logged = {name: value.detach() for name, value in parts.items()}
        for k, (name, level) in enumerate((("fine", fine), ("coarse", coarse))):
            logged[f"{name}_retrieval"] = torch.stack([pair[k][1] for pair in found]).mean()
            logged[f"{name}_positives"] = level.counted.sum(1).to(total.dtype).mean()
        queries = fine.vectors.gather(1, fine.queries[..., None].expand(-1, -1, self.config.width))
        return Losses(total=total, parts=logged, watch={"vectors": queries.detach().flatten(0, 1)})

    def _level(self, k: int, maps: Tensor, batch: Batch, step: Step, to_world: Tensor) -> Level:
        """Eq. 1: P = up to 100 cells a view whose nearest cell of the other view is closer than d_pos."""
        config, view = self.config, batch.views[GROUP]
        source = batch.sources[view.source]
        cells = cells_of(view.valid, to_world, self.strides[k], maps.dtype)
        body = in_body(source.sidecars[BodyMask.name], view.to_source, cells) if config.body_only else cells.usable
        across = source.to_world[:, None, :3, 0] / source.to_world[:, None, :3, 0].norm(dim=-1, keepdim=True)
        count, chose = cells.mm.shape[2], []
        for side in range(2):
            near = nearest_cells(cells, to_world, side)
            limit = (config.positive_mm, config.coarse_positive_mm)[k] * self.unit[k]
            allowed = near.inside & body[:, side] & (near.apart_mm.norm(dim=-1) < limit)
            if k == 1:
                height = (near.apart_mm * across.to(near.apart_mm.dtype)).sum(-1).abs()
                allowed = allowed & (height < config.coarse_height_mm * self.height_unit)
            query, counted = chosen(
                allowed, step.uniform(f"queries {k} {side}", batch.keys, (count,)), config.positives
            )
            chose.append((query + side * count, near.index.gather(1, query) + (1 - side) * count, counted))
        queries, keys, counted = (torch.cat(three, dim=1) for three in zip(*chose, strict=True))
        return Level(maps.flatten(3).transpose(2, 3).flatten(1, 2), cells, queries, keys, counted)

    def _fine(self, level: Level, coarse: Tensor, step: Step, batch: Batch, sample: int) -> tuple[Tensor, Tensor]:
        """Eq. 2: negatives are 500 of the 2000 cells beyond d_ign in both views with the largest s_fine + s_coarse."""
        config = self.config
        with torch.no_grad():
            guide = upsampled(wide(coarse), level.cells.size).flatten(2).transpose(1, 2).flatten(0, 1)
            vectors, queries = level.vectors[sample], level.queries[sample]
            rank = vectors[queries] @ vectors.T + guide[queries] @ guide.T
            rank = self._without_ignored(rank, level, sample, config.ignore_mm * self.unit[0])
            draw = step.uniform("diverse fine", batch.keys[sample : sample + 1], (len(queries), config.hard))[0]
            index, taken = hard_and_diverse(rank, draw, hard=config.hard, diverse=config.diverse)
        return self._loss(level, sample, index, taken, None, None)

    def _coarse(
        self, level: Level, strangers: tuple[Tensor, Tensor], step: Step, batch: Batch, sample: int
    ) -> tuple[Tensor, Tensor]:
        """Eq. 3: negatives are 200 of the 250 most similar cells of both views, and 1000 of other volumes."""
        config = self.config
        with torch.no_grad():
            vectors, queries = level.vectors[sample], level.queries[sample]
            rank = vectors[queries] @ vectors.T
            rank = self._without_ignored(rank, level, sample, config.coarse_ignore_mm * self.unit[1])
            draw = step.uniform("diverse coarse", batch.keys[sample : sample + 1], (len(queries), config.coarse_hard))[
                0
            ]
            index, taken = hard_and_diverse(rank, draw, hard=config.coarse_hard, diverse=config.coarse_diverse)
        return self._loss(level, sample, index, taken, *strangers)

    @staticmethod
    def _without_ignored(rank: Tensor, level: Level, sample: int, ignore_mm: float) -> Tensor:
        """(2Q, 2N) similarities with -inf for cells that are too near to the query, or partly outside the case."""
        mm = level.cells.mm[sample].flatten(0, 1)
        # by differences: torch's default expands the square, which loses what is small
        apart = torch.cdist(mm[level.queries[sample]], mm, compute_mode="donot_use_mm_for_euclid_dist")
        usable = level.cells.usable[sample].flatten()
        return rank.masked_fill((apart <= ignore_mm) | ~usable, -torch.inf)

    def _strangers(self, level: Level, batch: Batch, step: Step) -> list[tuple[Tensor, Tensor]]:
        """For every sample up to 1000 coarse vectors of the other samples of all ranks, and which of them count."""
        everyone = step.gather(level.vectors)
        usable = step.gather(level.cells.usable.flatten(1).to(everyone.dtype)) > 0
        samples, total = len(level.vectors), len(everyone)
        offset = collectives.rank() * samples if total > samples else 0
        owner = torch.arange(total, device=usable.device)[:, None].expand_as(usable).flatten()
        draw = step.uniform("strangers", batch.keys, (owner.numel(),))
        flat, answers = everyone.flatten(0, 1), []
        for sample in range(samples):
            allowed = usable.flatten() & (owner != offset + sample)
            index, taken = chosen(allowed, draw[sample], self.config.strangers)
            answers.append((flat[index], taken))
        return answers

    def _loss(
        self, level: Level, sample: int, index: Tensor, taken: Tensor, others: Tensor | None, counted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean loss over a sample's queries, and how often a positive is more similar than all negatives."""
        vectors, real = level.vectors[sample], level.counted[sample]
        query = vectors[level.queries[sample]]
        positive = (query * vectors[level.keys[sample]]).sum(1)
        negatives = (vectors[index] @ query[:, :, None])[..., 0]
        if others is not None and counted is not None:
            negatives = torch.cat((negatives, query @ others.T), dim=1)
            taken = torch.cat((taken, counted.expand(len(query), -1)), dim=1)
        each = info_nce(positive, negatives, taken, temperature=self.config.temperature)
        share = real.to(each.dtype) / real.sum().clamp(min=1)
        right = positive > torch.where(taken, negatives, -2.0).amax(1)
        return (each * share).sum(), (right * share).sum().detach()

    def features(self, image: Tensor) -> Features:
        """Both embedding maps; the means of both side by side."""
        maps = self.embed(image)
        return Features(pyramid=tuple(maps), vector=torch.cat([pool(one) for one in maps], dim=1))

    def validate(self, boxes: Sequence[ProbeBox]) -> Mapping[str, Tensor]:
        """Matches within a case, and from case to case and back; Eq. 5 is in `nnssl_anatembed.validation`."""
        return match_errors(self.embed, boxes, self.strides[0])

    def export_network(self) -> Exported:
        """The encoder; the heads stay in the file for `nnssl_match`."""
        return Exported(encoder=self.encoder, heads=self.heads)
