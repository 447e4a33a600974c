"""Engine step against the bare loop: what do gate, journal, keyed seeds, deferred state and the contract cost?

    python benchmarks/engine.py [--side 48] [--steps 30] [--threads 1] [--device cpu]

Both sides train the same network with the same mathematics (a student encoder, an EMA teacher, AdamW, clipping) on
one ready batch, taking turns step by step, so that other work on the machine hits both alike. Their losses are checked
to be equal, bit for bit, before anything is printed. Mark: engine / bare <= 1.05 (median of the ratios of neighbours).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from nnssl.blocks.ema import CosineMomentum
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.gate import Gate
from nnssl.engine.journal import Journal
from nnssl.engine.optim import Schedule
from nnssl.engine.recipe import Global, Optimizer, Recipe
from nnssl.engine.step import StepRunner
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, Networks, PlanInfo, Step
from nnssl.testing_world import noise_batch, small_networks
from nnssl.views.spec import Source, ViewGroup, ViewSpec

MARK = 1.05
SETTINGS = Optimizer(lr=1e-3, warmup_epochs=0, weight_decay=0.05, clip=Global(1.0))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Side of a view, in voxels."""

    side: int = 48


class Distillation(Method):
    """The least that has a teacher: pooled features of one view predict the teacher's of the other."""

    PAPER: ClassVar[str] = "none: a benchmark"
    Config = Config

    @classmethod
    def needs(cls, config: Config) -> Needs:
        return Needs()

    @classmethod
    def views(cls, config: Config, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        size = (config.side, config.side, config.side)
        source = Source(size=((config.side,) * 2,) * 3)  # type: ignore[arg-type]
        return ViewSpec(sources=(source,), groups=(ViewGroup(name="pair", count=2, size=size),))

    def __init__(self, config: Config, networks: Networks) -> None:
        super().__init__(config, networks)
        self.student = networks.encoder()
        self.teacher = networks.teacher(self.student, momentum=CosineMomentum(0.99))

    def forward(self, batch: Batch, step: Step) -> Losses:
        image = batch.views["pair"].image
        return Losses(total=loss(self.student, self.teacher, image[:, 0], image[:, 1]))

    def features(self, image: Tensor) -> Features:
        maps = self.student(image)
        return Features(pyramid=tuple(maps), vector=maps[-1].mean((2, 3, 4)))

    def export_network(self) -> Exported:
        return Exported(encoder=self.student)


def loss(student: nn.Module, teacher: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of pooled features, without gradient to the teacher."""
    with torch.no_grad():
        target = teacher(second)[-1].mean((2, 3, 4))
    difference: Tensor = student(first)[-1].mean((2, 3, 4)) - target
    return difference.square().mean()


def engine_side(networks: PlanNetworks, batch: Batch, recipe: Recipe, folder: Path) -> Callable[[int], Tensor]:
    """A step as the trainer takes it, journal and gate included."""
    torch.manual_seed(0)
    device = batch.views["pair"].image.device
    method = Distillation(recipe.method, networks).to(device)
    runner = StepRunner(method, recipe=recipe, schedule=Schedule(recipe), device=device)
    gate = Gate(device)
    journal = Journal(folder, total_steps=recipe.total_steps, steps_per_epoch=recipe.steps_per_epoch)

    def step(index: int) -> Tensor:
        began = time.perf_counter()
        outcome = runner(index, lambda micro: batch)
        seconds = time.perf_counter() - began
        scalars = {**outcome.losses, **outcome.rates, "gradient_norm": outcome.gradient_norm}
        journal.step(index, scalars, seconds=seconds, waited_seconds=0.0)
        gate.put(index, applied=outcome.applied, stop=outcome.stop, losses=outcome.losses, cases=outcome.cases)
        return outcome.losses["loss"]

    return step


def bare_side(networks: PlanNetworks, batch: Batch, recipe: Recipe) -> Callable[[int], Tensor]:
    """The loop one would write by hand."""
    torch.manual_seed(0)
    first, second = batch.views["pair"].image.unbind(1)
    student = networks.encoder().to(first.device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    decayed = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": SETTINGS.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS.lr, fused=True)
    schedule, momentum = Schedule(recipe), CosineMomentum(0.99)

    def step(index: int) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(index)
        value = loss(student, teacher, first, second)
        value.backward()
        torch.nn.utils.clip_grad_norm_(decayed + plain, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        followed, m = list(student.parameters()), momentum(index, recipe.total_steps)
        with torch.no_grad():
            torch._foreach_mul_(list(teacher.parameters()), m)
            torch._foreach_add_(list(teacher.parameters()), followed, alpha=1 - m)
        return value.detach()

    return step


def timed(step: Callable[[int], Tensor], index: int) -> tuple[float, Tensor]:
    """Seconds and loss of one step, the device's work included."""
    began = time.perf_counter()
    value = step(index)
    if value.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, value


def measure(side: int, steps: int, device: str) -> dict[str, object]:
    """Medians of both sides and of the ratio of neighbouring steps, after three steps of warm-up."""
    networks = small_networks(
        patch_size=(side,) * 3, case_shape=(2 * side,) * 3, features=(16, 32, 64, 128), batch_size=2
    )
    recipe = Recipe(epochs=1, steps_per_epoch=steps + 3, batch_size=2, optimizer=SETTINGS, method=Config(side=side))
    views = Distillation.views(recipe.method, networks.plan, networks.data)
    batch = noise_batch(views, networks, keys=(0, 1))
    pair = batch.views["pair"]
    batch = replace(batch, views={"pair": replace(pair, image=pair.image.to(device))})
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_side(networks, batch, recipe, Path(folder))
        bare = bare_side(networks, batch, recipe)
        rows = []
        for index in range(steps + 3):
            order = (engine, bare) if index % 2 else (bare, engine)
            taken = {side: timed(side, index) for side in order}
            if not torch.equal(taken[engine][1], taken[bare][1]):
                raise SystemExit(f"step {index}: engine {taken[engine][1]} and bare loop {taken[bare][1]} differ")
            rows.append((taken[engine][0], taken[bare][0]))
    ours, theirs = zip(*rows[3:], strict=True)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "benchmark": "engine",
        "side": side,
        "steps": steps,
        "device": device,
        "threads": torch.get_num_threads(),
        "engine_ms": round(1000 * statistics.median(ours), 2),
        "bare_ms": round(1000 * statistics.median(theirs), 2),
        "ratio": round(ratio, 4),
        "mark": MARK,
        "losses_equal": True,
    }


def main() -> int:
    """Print a table and a JSON line; 1 if the mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=48, help="voxels a side of a view")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.side < 16 or arguments.side % 8:
        parser.error("--side must be a multiple of 8, at least 16")
    torch.set_num_threads(arguments.threads)
    found = measure(arguments.side, arguments.steps, arguments.device)
    print(f"{'':10}{'ms a step':>12}")
    print(f"{'bare loop':10}{found['bare_ms']:>12}")
    print(f"{'engine':10}{found['engine_ms']:>12}")
    print(f"{'ratio':10}{found['ratio']:>12}   mark {MARK}, losses equal bit for bit")
    print(json.dumps(found))
    return 0 if float(str(found["ratio"])) <= MARK else 1


if __name__ == "__main__":
    sys.exit(main())
