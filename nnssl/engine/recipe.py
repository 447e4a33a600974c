"""How long, how fast and with which numbers: everything about a run that is a number and not an equation.

A trainer class holds recipes; the command line changes single keys; the run's folder holds the resolved one. Plugins
import this file in their `trainer.py`. No torch, so that listing and checking recipes is instant.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nnssl.engine.typed import NO_KEY, closest, flatten, replaced, to_plain
from nnssl.errors import RecipeError
from nnssl.planning.wish import PlanWish as PlanWish  # part of what trainer.py of a plugin imports from here

Precision = Literal["auto", "bf16", "fp16", "fp32", "fp64"]

# Keys that a continued run may change: they decide when it stops and saves, not what a step computes.
FREE_ON_CONTINUE = ("epochs", "save_every_minutes")


def _positive(key: str, value: float) -> None:
    if not value > 0:
        raise RecipeError(f"{key} must be greater than 0; it is {value}.")


@dataclass(frozen=True)
class PerTensor:
    """Clip every gradient tensor to this L2 norm on its own (DINO, DeSD: 0.3 or 3.0)."""

    max_norm: float

    def __post_init__(self) -> None:
        _positive("clip max_norm", self.max_norm)


@dataclass(frozen=True)
class Global:
    """Clip all gradients together to this L2 norm (nnU-Net: 12)."""

    max_norm: float

    def __post_init__(self) -> None:
        _positive("clip max_norm", self.max_norm)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Optimizer and its schedules. Learning rate: linear warm-up to the peak, then cosine to `min_lr`.

    Attributes:
        name: `adamw`, `sgd` (Nesterov off, as the published SSL runs) or `lars`.
        lr: peak learning rate for a batch of `reference_batch`.
        scaling: peak = lr * (batch_size / reference_batch) for `linear`, its square root for `sqrt`, lr for `none`.
        reference_batch: samples (not views) that `lr` was chosen for.
        min_lr: end of the cosine; not scaled, but never above the peak.
        warmup_epochs: epochs of linear warm-up from 0; may be a fraction.
        weight_decay: at step 0; biases and 1-D tensors get none unless the method says otherwise.
        weight_decay_end: at the last step, reached on a cosine; None: constant.
        momentum: of SGD and LARS, in [0, 1).
        betas: of AdamW.
        eps: of AdamW.
        trust: eta of LARS: |step| / |weights| of a tensor at learning rate 1.
        clip: gradient clipping, `PerTensor(0.3)`, `Global(1.0)` or none.
    """

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    lr: float = 1e-3
    scaling: Literal["none", "linear", "sqrt"] = "none"
    reference_batch: int = 256
    min_lr: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    trust: float = 1e-3
    clip: PerTensor | Global | None = Global(1.0)

    def __post_init__(self) -> None:
        _positive("optimizer.lr", self.lr)
        _positive("optimizer.trust", self.trust)
        _positive("optimizer.reference_batch", self.reference_batch)
        for key in ("min_lr", "warmup_epochs", "weight_decay"):
            if getattr(self, key) < 0:
                raise RecipeError(f"optimizer.{key} must not be negative; it is {getattr(self, key)}.")
        if not 0 <= self.momentum < 1:
            raise RecipeError(f"optimizer.momentum must lie in [0, 1); it is {self.momentum}.")

    def peak_lr(self, batch_size: int) -> float:
        """Peak learning rate for `batch_size` samples per step (over all ranks and micro-batches)."""
        ratio = batch_size / self.reference_batch
        factor: float = {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[self.scaling]
        return self.lr * factor


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a run that is a number.

    Attributes:
        epochs: length of the run; a run may be extended with `--c --set epochs=N`.
        steps_per_epoch: optimizer steps per epoch.
        batch_size: samples per optimizer step, over all ranks and micro-batches.
        accumulate: micro-batches per optimizer step, each of batch_size / (accumulate * ranks) samples.
        seed: of every draw and of the initial weights.
        precision: `auto` is bf16 (or fp16) on a GPU and fp32 elsewhere, and the run keeps it; `fp64` is for tests.
        patch_size: D H W voxels that replace the plan's patch; None: the plan's.
        save_every_minutes: how often the state is saved inside epochs; 0: after every step.
        threads: intra-op threads of the CPU; part of the recipe because sums depend on it bit for bit.
            None: OMP_NUM_THREADS, else all cores; the run's recipe.json holds the number.
        optimizer: optimizer, learning rate, weight decay, clipping.
        method: the method's own `Config`; None: its defaults.
        plan: the plan that `nnssl_plan_and_preprocess --for TRAINER --preset P` writes; None: the planner's. No key of
            a run: it cannot be set and is not recorded, for the run's plans.json says what was used.
    """

    epochs: int = 1000
    steps_per_epoch: int = 250
    batch_size: int = 8
    accumulate: int = 1
    seed: int = 0
    precision: Precision = "auto"
    patch_size: tuple[int, int, int] | None = None
    save_every_minutes: float = 15.0
    threads: int | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    method: Any = None
    plan: PlanWish | None = field(default=None, metadata=NO_KEY)

    def __post_init__(self) -> None:
        for key in ("epochs", "steps_per_epoch", "batch_size", "accumulate"):
            _positive(key, getattr(self, key))
        if self.threads is not None:
            _positive("threads", self.threads)
        if self.save_every_minutes < 0 or self.seed < 0:
            raise RecipeError("save_every_minutes and seed must not be negative.")
        if self.seed >= 2**63:
            raise RecipeError(f"seed must be below 2^63, which torch's generators hold; it is {self.seed}.")
        if self.patch_size is not None and min(self.patch_size) < 1:
            raise RecipeError(f"patch_size must be three positive sizes D,H,W; it is {self.patch_size}.")
        if self.batch_size % self.accumulate:
            raise RecipeError(
                f"batch_size ({self.batch_size}) must be divisible by accumulate ({self.accumulate}), because every "
                f"micro-batch has the same number of samples; use batch_size={self.accumulate * 2} or another multiple."
            )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON values, to be read back by `resolve(..., overrides=that)`."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def digest(self) -> str:
        """16 hexadecimal digits that change with every key a continued run may not change."""
        fixed = {name: value for name, value in self.to_json().items() if name not in FREE_ON_CONTINUE}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def assignments(pairs: Iterable[str]) -> dict[str, str]:
    """`key=value` words of the command line as a mapping.

    Raises:
        RecipeError: a word without "=", or a key given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set takes key=value; found {pair!r}. Example: --set epochs=300 method.ratio=0.6,0.7")
        if key in found:
            raise RecipeError(f"--set {key} was given twice ({found[key]} and {value}); give it once.")
        found[key] = value
    return found


def presets_of(trainer: Any) -> dict[str, Recipe]:
    """{name: recipe} of a trainer class; `default` is its `recipe`."""
    return {"default": trainer.recipe} | dict(getattr(trainer, "presets", None) or {})


def resolve(trainer: Any, preset: str = "default", overrides: Mapping[str, object] | None = None) -> Recipe:
    """The recipe that a run will have.

    Args:
        trainer: an SSLTrainer class (only `recipe`, `presets` and `method.Config` are looked at).
        preset: one of its presets.
        overrides: {dotted key: text or value}, or nested as in recipe.json; applied in order.

    Raises:
        RecipeError: unknown preset or key (with the closest match), or a value of the wrong type or out of range.
    """
    presets = presets_of(trainer)
    if preset not in presets:
        raise RecipeError(
            f"{trainer.__name__} has no preset {preset!r}.{closest(preset, list(presets))} "
            f"Its presets are: {', '.join(sorted(presets))}."
        )
    recipe = presets[preset]
    if recipe.method is None:
        recipe = replace(recipe, method=trainer.method.Config())
    # All keys at once where they depend on each other (batch_size and accumulate) would need an order; so collect the
    # plain keys of the recipe itself and set them together.
    flat = flatten({k: v for k, v in (overrides or {}).items() if k != "kind"}, recipe)
    wanted = type(recipe.method)
    recipe = _set_all(recipe, flat)
    if type(recipe.method) is not wanted:
        raise RecipeError(
            f"The recipe's `method` must hold {trainer.__name__}'s {wanted.__qualname__}; it holds "
            f"{recipe.method!r}. Set single keys (--set method.KEY=VALUE), or use a recipe file of this trainer."
        )
    return recipe if recipe.threads is not None else replace(recipe, threads=_default_threads())


def differences(stored: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Where `recipe` differs from a stored `to_json()`, as "key: stored -> new", free keys left out."""
    before, after = leaves(stored), leaves(recipe.to_json())
    keys = sorted({*before, *after})
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in keys
        if before.get(key) != after.get(key) and key not in FREE_ON_CONTINUE
    ]


def _set_all(recipe: Recipe, flat: Mapping[str, object]) -> Recipe:
    own: dict[str, Any] = {}
    for key, value in flat.items():
        if "." in key:
            recipe = replaced(recipe, key, value)
        else:
            probe = replaced(_Loose.like(recipe), key, value)
            own[key] = getattr(probe, key)
    return replace(recipe, **own)


@dataclass(frozen=True, kw_only=True)
class _Loose(Recipe):
    """A recipe without checks between keys, to convert one key at a time."""

    def __post_init__(self) -> None:
        return

    @classmethod
    def like(cls, recipe: Recipe) -> _Loose:
        """The same values, unchecked."""
        return cls(**{name: getattr(recipe, name) for name in recipe.__dataclass_fields__})


def leaves(tree: object, prefix: str = "") -> dict[str, object]:
    """{dotted key: value} of nested mappings, to compare two of them key by key."""
    if isinstance(tree, Mapping):
        return {k: v for name, inner in tree.items() for k, v in leaves(inner, f"{prefix}{name}.").items()}
    return {prefix[:-1]: tree}


def _default_threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
