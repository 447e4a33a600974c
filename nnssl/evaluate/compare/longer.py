"""How much longer from scratch costs as much as pretraining and fine-tuning together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nnssl.engine.metrics import read_metrics
from nnssl.errors import DataError
from nnssl.evaluate.compare.plan import Contender, Target
from nnssl.evaluate.finetune.schedule import MeasuredSchedule
from nnssl.export.read import Weights

_JOURNAL = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Longer:
    """The longer schedule of a target.

    Attributes:
        epochs: in place of the schedule's.
        sentence: how they were computed.
    """

    epochs: int
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """For the comparison's own file."""
        return asdict(self)


def pretraining_seconds(weights: Weights) -> float | None:
    """Time in steps by the journal beside the file, up to the step it was saved at; None without a journal."""
    lines = read_metrics(weights.path.parent / _JOURNAL)
    steps = weights.provenance.get("steps", math.inf)
    found = [float(line["seconds"]) for line in lines if "seconds" in line and line["step"] < steps]
    return math.fsum(found) if found else None


def check_cost(arms: Mapping[str, Contender]) -> None:
    """Refuse weights whose cost nobody can tell.

    Raises:
        DataError: neither a journal nor steps and batch size are known.
    """
    for arm in arms.values():
        if arm.weights is not None and pretraining_seconds(arm.weights) is None:
            _voxels(arm.weights)


def settle_longer(
    schedule: MeasuredSchedule, target: Target, arms: Mapping[str, Contender], *, seconds_per_iteration: float
) -> Longer:
    """Epochs that take as long as the schedule and the longest pretraining together.

    Where a pretraining's hours are unknown, the voxels of its patches stand for them.

    Args:
        schedule: of the other arms.
        target: whose plan says how many voxels an iteration sees.
        arms: the checkpoints among them count.
        seconds_per_iteration: of the target's fine-tuning from scratch, loading included.
    """
    per_epoch = schedule.iterations_per_epoch * seconds_per_iteration
    found = []
    for arm in arms.values():
        if arm.weights is None:
            continue
        seconds = pretraining_seconds(arm.weights)
        if seconds is not None:
            found.append((seconds / per_epoch, f"{seconds / 3600:.3g} h in steps by the journal of {arm.weights.path}"))
            continue
        patch = target.chosen["patch_size"]
        seen = schedule.iterations_per_epoch * int(target.chosen["batch_size"]) * math.prod(patch)
        voxels = _voxels(arm.weights)
        found.append((voxels / seen, f"{voxels:.3g} patch voxels that {arm.weights.path} saw (its hours are unknown)"))
    most, words = max(found)
    epochs = schedule.epochs + math.ceil(most)
    return Longer(
        epochs=epochs,
        sentence=(
            f"{target.dataset}: from scratch for longer means {epochs} epochs instead of {schedule.epochs}: one takes "
            f"{per_epoch:.3g} s ({seconds_per_iteration:.3g} s an iteration), the longest pretraining took {words}. "
            f"Hours count as they were measured, on whatever machine that was."
        ),
    )


def _voxels(weights: Weights) -> float:
    """Voxels of all patches that a pretraining saw."""
    steps, batch = weights.provenance.get("steps"), weights.provenance.get("recipe", {}).get("batch_size")
    if not steps or not batch:
        raise DataError(
            f"--equal_compute needs what the pretraining cost: {_JOURNAL} beside {weights.path}, or steps and batch "
            f"size in it; neither is there."
        )
    return float(steps * batch * math.prod(weights.configuration["patch_size"]))
