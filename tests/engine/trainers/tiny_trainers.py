"""A test-only method that has everything the engine must keep: teacher, centre, batch norm, dropout, keyed noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nnssl.blocks.center import Center
from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.ema import CosineMomentum
from nnssl.engine.recipe import Global, Optimizer, PerTensor, Recipe
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, Networks, PlanInfo, Step
from nnssl.trainer import SSLTrainer
from nnssl.views.spec import Geometry, Source, ViewGroup, ViewSpec

PAPER = "The test suite of nnssl, not published"


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Numbers of the test method; `poison_step` makes one loss not finite."""

    prototypes: int = 16
    dropout: float = 0.2
    coupled: bool = True
    poison_step: int = -1


class Tiny(Method):
    """Self-distillation on two views of 16 voxels."""

    PAPER: ClassVar[str] = PAPER
    Config = TinyConfig

    @classmethod
    def needs(cls, config: TinyConfig) -> Needs:
        return Needs(batch_coupled=config.coupled)

    @classmethod
    def views(cls, config: TinyConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        group = ViewGroup(name="pair", count=2, size=(16, 16, 16), geometry=Geometry(flip=(0.5, 0.5, 0.5)))
        return ViewSpec(sources=(Source(size=((20, 20), (20, 20), (20, 20))),), groups=(group,))

    def __init__(self, config: TinyConfig, networks: Networks) -> None:
        super().__init__(config, networks)
        width = networks.plan.features[-1]
        self.encoder = networks.encoder()
        self.norm = BatchNorm(width) if config.coupled else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.last_layer = nn.Linear(width, config.prototypes)
        self.teacher = networks.teacher(self.encoder, momentum=CosineMomentum(0.9))
        self.center = Center(config.prototypes)

    def forward(self, batch: Batch, step: Step) -> Losses:
        image = batch.views["pair"].image
        first, second = image[:, 0], image[:, 1]
        noise = step.normal("noise", batch.keys, first.shape[1:])
        student = self.last_layer(self.dropout(self.norm(self._pooled(self.encoder, first + 0.1 * noise))))
        with torch.no_grad():
            teacher = self.last_layer(self._pooled(self.teacher, second))
        self.center.observe(teacher)
        target = ((teacher - self.center.value) / 0.1).softmax(-1)
        total = -(target * student.log_softmax(-1)).sum(-1).mean()
        if step.index == self.config.poison_step:
            total = total * torch.nan
        probabilities = {"teacher_probs": target.detach(), "student_log_probs": student.detach().log_softmax(-1)}
        return Losses(total=total, parts={"pair": total.detach()}, watch=probabilities)

    @staticmethod
    def _pooled(network: nn.Module, image: Tensor) -> Tensor:
        pooled: Tensor = network(image)[-1].flatten(2).amax(-1)
        return pooled

    def features(self, image: Tensor) -> Features:
        maps = self.encoder(image)
        return Features(pyramid=tuple(maps), vector=maps[-1].flatten(2).mean(-1))

    def export_network(self) -> Exported:
        variants = {"student": (self.encoder, None), "teacher": (self.teacher, None)}
        return Exported(encoder=self.encoder, variants=variants)

    def edit_gradients(self, step: Step) -> None:
        if step.index == 0:
            for parameter in self.last_layer.parameters():
                parameter.grad = None


SHORT = Recipe(
    epochs=2,
    steps_per_epoch=3,
    batch_size=4,
    threads=1,
    save_every_minutes=0.0,
    optimizer=Optimizer(lr=1e-2, warmup_epochs=1, weight_decay=0.1, weight_decay_end=0.2, clip=PerTensor(0.3)),
    method=TinyConfig(),
)


class TinyTrainer(SSLTrainer):
    """AdamW by default, momentum SGD as the second preset."""

    method = Tiny
    recipe = SHORT
    presets: ClassVar[dict[str, Recipe]] = {
        "sgd": Recipe(
            epochs=2,
            steps_per_epoch=3,
            batch_size=4,
            threads=1,
            optimizer=Optimizer(name="sgd", lr=0.1, warmup_epochs=0, weight_decay=1e-4, clip=Global(1.0)),
            method=TinyConfig(),
        )
    }
