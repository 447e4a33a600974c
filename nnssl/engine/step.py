"""One optimizer step: micro-batches through the method, then unscale, clip, edit, step, commit. Nothing waits.

The order is fixed, and everything that a dropped step must not touch hangs on one flag that stays on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnssl.blocks import collectives
from nnssl.blocks.deferred import Commit, commit_all
from nnssl.engine import optim, precision, randomness
from nnssl.engine.recipe import Recipe
from nnssl.method import Batch, Losses, Method


@dataclass(kw_only=True)
class KeyedStep:
    """Where the run stands, and keyed randomness: what a method sees as `Step`."""

    index: int
    total: int
    epoch: int
    epochs: int
    micro: int
    micros: int
    seed: int
    device: torch.device
    dtype: torch.dtype = torch.float32

    def uniform(self, name: str, keys: Tensor, shape: Sequence[int]) -> Tensor:
        """(B, *shape) in [0, 1) on the device, a function of (seed, key, name) alone."""
        return randomness.uniform(self.seed, keys, name, shape, device=self.device, dtype=self.dtype)

    def normal(self, name: str, keys: Tensor, shape: Sequence[int]) -> Tensor:
        """(B, *shape) standard normal."""
        return randomness.normal(self.seed, keys, name, shape, device=self.device, dtype=self.dtype)

    def permutation(self, name: str, keys: Tensor, n: int) -> Tensor:
        """(B, n) int64, a random order of 0..n-1 for each sample."""
        return randomness.permutation(self.seed, keys, name, n, device=self.device)

    def gather(self, x: Tensor) -> Tensor:
        """(R*B, ...) the tensors of all ranks in rank order, with gradient."""
        return collectives.gather(x)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step leaves behind, all on the device.

    Attributes:
        applied: scalar bool; false where the step changed nothing.
        stop: scalar, over 0 where some rank was asked to stop.
        losses: "loss" and "loss/PART", means over micro-batches and ranks.
        gradient_norm: L2 norm before clipping.
        cases: this rank's cases.
        watched: what the observer made of every micro-batch's `Losses.watch`, means.
        rates: learning rate and weight decay.
    """

    applied: Tensor
    stop: Tensor
    losses: dict[str, Tensor]
    gradient_norm: Tensor
    cases: tuple[str, ...]
    watched: dict[str, Tensor] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)


class StepRunner:
    """Takes optimizer steps.

    Attributes:
        method: the method itself.
        model: the method, or what wraps it for several ranks; the one thing whose forward is called.
        optimizer: a fused optimizer of `engine.optim`.
        schedule: its learning rate and weight decay.
        scale: the loss scale; part of the state.
    """

    def __init__(self, method: Method, *, recipe: Recipe, schedule: optim.Schedule, device: torch.device) -> None:
        self.method = method
        self.recipe = recipe
        self.device = device
        self.precision = precision.settled(recipe, device).precision
        self.scale = precision.LossScale(enabled=self.precision == "fp16").to(device)
        self.optimizer = optim.build_optimizer(method.parameter_groups(), recipe.optimizer)
        self.schedule = schedule
        self.model: nn.Module = distributed(method)

    def __call__(
        self,
        index: int,
        micro_batch: Callable[[int], Batch],
        *,
        stop: bool = False,
        observe: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> Outcome:
        """Take optimizer step `index`.

        Args:
            index: 0-based.
            micro_batch: this rank's part of the m-th micro-batch.
            stop: whether this process was asked to stop; told to all ranks along with the losses.
            observe: turns `Losses.watch` into scalars for the journal.
        """
        rates = self.schedule.apply(self.optimizer, index)
        seen: list[Losses] = []
        cases: list[str] = []
        watched: list[dict[str, Tensor]] = []
        for micro in range(self.recipe.accumulate):
            batch = micro_batch(micro)
            step = self._step(index, micro)
            seen.append(self._backward(batch, step))
            if observe is not None:
                watched.append(observe(seen[-1].watch))
            cases += [case for source in batch.sources.values() for case in source.case_ids]
        losses, stopping = _common(seen, stop)
        grads = optim.gradients(self.optimizer)
        self.scale.unscale(grads)
        norm = optim.clip(grads, self.recipe.optimizer.clip)
        applied = torch.isfinite(norm) & torch.isfinite(losses["loss"])
        self.method.edit_gradients(step)
        optim.gated_step(self.optimizer, applied)
        self.scale.update(applied)
        commit_all(
            self.method,
            Commit(index=index, total=step.total, applied=applied, sum_over_ranks=collectives.sum_over_ranks),
        )
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(
            applied=applied,
            stop=stopping,
            losses=losses,
            gradient_norm=norm,
            cases=tuple(cases),
            watched={name: torch.stack([one[name] for one in watched]).mean() for name in (watched or [{}])[0]},
            rates=rates,
        )

    def _step(self, index: int, micro: int) -> KeyedStep:
        return KeyedStep(
            index=index,
            total=self.recipe.total_steps,
            epoch=index // self.recipe.steps_per_epoch,
            epochs=self.recipe.epochs,
            micro=micro,
            micros=self.recipe.accumulate,
            seed=self.recipe.seed,
            device=self.device,
            dtype=torch.float64 if self.precision == "fp64" else torch.float32,
        )

    def _backward(self, batch: Batch, step: KeyedStep) -> Losses:
        # Dropout and the like draw from torch's global generator: seeded by place, so that resuming resumes them too.
        words = randomness.digest(step.seed, step.index, ("torch", step.micro, collectives.rank()))
        seed_globally(int.from_bytes(words[:7], "little"), self.device)
        with self._without_reduction(last=step.micro == step.micros - 1):
            with precision.autocast(self.precision, self.device):
                losses: Losses = self.model(batch, step)
            torch.autograd.backward(self.scale.scaled(losses.total / step.micros))
        return losses

    def _without_reduction(self, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged over ranks once per step, with the last micro-batch."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


def seed_globally(seed: int, device: torch.device) -> None:
    """Seed the generators that a forward pass on `device` may draw from; `torch.manual_seed` costs 0.7 ms a call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def distributed(method: Method) -> nn.Module:
    """The method, wrapped so that gradients are averaged over ranks; itself without a process group.

    Buffers are not broadcast: deferred state is reduced by its own commit and would be overwritten. Parameters without
    a gradient are allowed, because a method may leave out a head for some steps.
    """
    if collectives.world_size() == 1:
        return method
    return DistributedDataParallel(method, broadcast_buffers=False, find_unused_parameters=True)


def _common(seen: Sequence[Losses], stop: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Means of all losses over micro-batches and ranks, and whether any rank must stop; one small all-reduce."""
    names = list(seen[0].parts)
    dtype = torch.float64 if seen[0].total.dtype == torch.float64 else torch.float32
    rows = [torch.stack([x.detach().to(dtype) for x in (one.total, *one.parts.values())]) for one in seen]
    mean = torch.stack(rows).mean(0)
    asked = torch.full((1,), float(stop), device=mean.device, dtype=dtype)
    total = collectives.sum_over_ranks(torch.cat((mean, asked)))
    mean, stopping = total[:-1] / collectives.world_size(), total[-1]
    return {"loss": mean[0]} | {f"loss/{name}": mean[1 + i] for i, name in enumerate(names)}, stopping
