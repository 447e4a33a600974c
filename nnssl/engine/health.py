"""Health of a network while it learns, for every method: a fixed set of held-out boxes, looked at now and then.

How the trainer uses it (rank 0 only):

    boxes = held_out_probe(collection, plan, needs, seed=..)       # nnssl.engine.probe_set
    probe = HealthProbe(boxes, total_steps=.., steps_per_epoch=.., device=..)
    scalars = probe.observe(losses.watch)                          # every micro-batch; device scalars for Journal.step
    if probe.due(steps_done):                                      # also before the first step: the untrained network
        report = probe.measure(method, steps_done)
        journal.health(report.step, report.values, light=report.light, sentences=report.sentences)
        probe.write(folder)                                        # health.json
    state["health"] = probe.state_dict()                           # history, untrained values, running sums

A measurement draws no random number, leaves modes and buffers as they are and asks for no gradient.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnssl.atomic import whole_file
from nnssl.blocks.sampling import voxel_vectors
from nnssl.engine import health_metrics as metrics
from nnssl.engine.frozen import undisturbed
from nnssl.engine.metrics import plain
from nnssl.engine.probe_set import Box, ProbeSet
from nnssl.engine.verdict import findings
from nnssl.method import Method

# A measurement is 64 forward passes, about the time of 5 steps of 4 samples: one in 250 steps takes 2 % of a run. Short
# runs are measured twice all the same, in the middle and at the end.
STEPS_BETWEEN = 250
FEWEST, MOST = 2, 20
LEAST_CELLS = 4  # a map with fewer cells along an axis cannot tell voxels apart
RANK_VECTORS = 2048  # voxel vectors for RankMe: the singular values of 2048 x 320 take 0.08 s on a CPU
MIN_POINTS = 16  # voxels a box below which its matches are not counted
TEACHER = ("teacher_entropy", "teacher_kl")  # scalars averaged over the steps between measurements
NOTE = "A health check: it tells collapse and decay. No study shows that it predicts Dice in 3D medical images."

# What the report's sentence shows: name, words, format.
SHOWN = (
    ("dense_mm", "dense correspondence error", "{:.1f} mm"),
    ("retrieval_recall", "crop retrieval", "{:.0%}"),
    ("position_mm", "body position error", "{:.0f} mm"),
    ("rankme", "RankMe", "{:.1f}"),
    ("feature_std", "feature std", "{:.2g}"),
    ("teacher_entropy", "teacher entropy / ln K", "{:.2f}"),
    ("teacher_kl", "KL", "{:.2g} nats"),
)


@dataclass(frozen=True, kw_only=True)
class HealthReport:
    """One measurement.

    Attributes:
        step: optimizer steps done.
        values: by name. "dense_mm" median error of matched voxels between two views, "dense_chance_mm" what drawing
            lots would give, "dense_pck" share of errors within `radius_mm`, "dense_rankme" of voxel vectors;
            "retrieval_recall" 0..1, "cosine_gap", "position_mm" and "position_chance_mm", "rankme", "feature_std" of
            the image vectors; with a teacher "teacher_entropy" 0..1, "teacher_kl" nats, "teacher_kl_share" of ln K,
            "prototype_use" 0..1 and "prototypes_used", all over the steps since the measurement before. And what the
            method's own `validate` gave.
        light: "green", "yellow" or "red".
        sentences: the measurement in words, then what is wrong.
    """

    step: int
    values: Mapping[str, float]
    light: str
    sentences: tuple[str, ...]


class HealthProbe:
    """Measures a method on a probe set and remembers what it measured.

    Args:
        probe_set: as of `held_out_probe`.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: measurements are made at the ends of epochs.
        device: where the method lives.
        measurements: how many over the run, besides the network at the start; 0 for none at all, None for one in
            `STEPS_BETWEEN` steps.
    """

    def __init__(
        self,
        probe_set: ProbeSet,
        *,
        total_steps: int,
        steps_per_epoch: int,
        device: torch.device | str,
        measurements: int | None = None,
    ) -> None:
        self._set = probe_set
        self._device = torch.device(device)
        self._sums: dict[str, Tensor] = {}
        self._history: list[dict[str, Any]] = []
        self._chance_mm = _chance_mm(probe_set.boxes)
        if measurements is None:
            measurements = min(max(total_steps // STEPS_BETWEEN, FEWEST), MOST)
        epochs = math.ceil(total_steps / steps_per_epoch)
        marks = {round(mark * epochs / measurements) for mark in range(measurements + 1)} if measurements else set()
        self._due = {min(epoch * steps_per_epoch, total_steps) for epoch in marks}

    @property
    def baseline(self) -> Mapping[str, float]:
        """The values of the first measurement, of the untrained network; empty before it."""
        return _known(self._history[0]["values"]) if self._history else {}

    def due(self, steps_done: int) -> bool:
        """Whether to measure now; false where it was measured already."""
        return steps_done in self._due and all(entry["step"] != steps_done for entry in self._history)

    def observe(self, watch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars of one micro-batch for the journal, still on the device; also remembered for the next measurement."""
        with torch.no_grad():
            scalars = metrics.watch_scalars(watch)
            remembered = {name: value for name, value in scalars.items() if name in TEACHER}
            if (teacher := watch.get("teacher_probs")) is not None:
                mean = teacher.detach().float().mean(dim=0)
                remembered |= {"mean_probs": mean, "count": torch.ones((), device=mean.device)}
            for name, value in remembered.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        return scalars

    def measure(self, method: Method, steps_done: int) -> HealthReport:
        """Look at the probe set through the method, compare with the untrained network, and judge."""
        with undisturbed(method, self._device):
            values = {name: float(value) for name, value in self._features(method).items()}
            boxes = [_moved(box, self._device, _dtype(method)) for box in self._set.boxes]
            own = {name: float(value) for name, value in method.validate(boxes).items()}
        values |= own
        values |= self._teacher()
        previous = _known(self._history[-1]["values"]) if self._history else {}
        found = findings(values, baseline=self.baseline, previous=previous) if self._history else []
        light = found[0].light if found else "green"
        words = _words(steps_done, light, values, self.baseline, own=tuple(own))
        sentences = (words, *(f"Warning: {finding.sentence}" for finding in found))
        entry = {"step": steps_done, "light": light, "sentences": list(sentences), "values": plain(values)}
        self._history.append(entry)
        return HealthReport(step=steps_done, values=values, light=light, sentences=sentences)

    def write(self, folder: Path) -> None:
        """Write health.json: the probe set, the values at the start, every measurement."""
        boxes = self._set.boxes
        content = {
            "note": NOTE,
            "probe": {
                "boxes": len(boxes),
                "cases": sorted({box.case_id for box in boxes}),
                "view_size": list(boxes[0].images.shape[2:]),
                "radius_mm": self._set.radius_mm,
                "boxes_of_air_skipped": self._set.skipped,
            },
            "start": plain(self.baseline),
            "history": self._history,
        }
        with whole_file(folder / "health.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """History and running sums; the probe set is drawn anew from the seed."""
        return {"history": list(self._history), "sums": {name: value.cpu() for name, value in self._sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._history = list(state["history"])
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}

    def _features(self, method: Method) -> dict[str, Tensor]:
        vectors, dense = [], []
        for box in self._set.boxes:
            features = method.features(box.images.to(self._device, _dtype(method)))
            vectors.append(features.vector.float().cpu())
            if len(box.points_mm) >= MIN_POINTS:
                dense.append((box, _voxels(features.pyramid, box)))
        first, second = torch.stack(vectors).unbind(1)
        both = torch.cat((first, second))
        values = {
            "feature_std": metrics.feature_std(both),
            "rankme": metrics.rankme(both),
            "retrieval_recall": metrics.retrieval_recall(first, second),
            "cosine_gap": metrics.cosine_gap(first, second),
        }
        if dense:
            values |= _dense(dense, self._set.radius_mm) | {"dense_chance_mm": self._chance_mm}
        return values | self._positions(first, second)

    def _positions(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        boxes = self._set.boxes
        positions = torch.stack([box.position_mm for box in boxes])
        cases = {case_id: number for number, case_id in enumerate(dict.fromkeys(box.case_id for box in boxes))}
        case = torch.tensor([cases[box.case_id] for box in boxes])
        # boxes of one case may overlap, which would make it easy; with one case there is no other choice
        one = len(cases) == 1
        allowed = ~torch.eye(len(boxes), dtype=torch.bool) if one else case[:, None] != case[None, :]
        return {
            "position_mm": metrics.position_error_mm(first, second, positions, allowed),
            "position_chance_mm": metrics.position_chance_mm(positions, allowed),
        }

    def _teacher(self) -> dict[str, float]:
        """Means over the steps since the last measurement, and a fresh start."""
        sums, self._sums = self._sums, {}
        if "count" not in sums:
            return {}
        count = sums["count"]
        values: dict[str, float] = {name: float(sums[name] / count) for name in TEACHER if name in sums}
        mean = sums["mean_probs"] / count
        prototypes = len(mean)
        values["prototype_use"] = float(metrics.effective_share(mean))
        values["prototypes_used"] = values["prototype_use"] * prototypes
        if "teacher_kl" in values:
            values["teacher_kl_share"] = values["teacher_kl"] / math.log(prototypes)
        return values


def _dtype(method: Method) -> torch.dtype:
    return next((weight.dtype for weight in method.parameters()), torch.float32)


def _moved(box: Box, device: torch.device, dtype: torch.dtype) -> Box:
    """The box where the method is."""
    return replace(
        box,
        images=box.images.to(device, dtype),
        points=box.points.to(device),
        points_mm=box.points_mm.to(device),
        to_world=box.to_world.to(device),
        position_mm=box.position_mm.to(device),
    )


def _voxels(pyramid: Sequence[Tensor], box: Box) -> Tensor:
    """(2, P, d) vectors of a box's voxels in both views, from the maps fine enough to tell voxels apart, on the CPU."""
    fine = [level for level in pyramid if min(level.shape[2:]) >= LEAST_CELLS] or [pyramid[0]]
    size = box.images.shape[2:]
    points = box.points.to(fine[0].device, torch.float32)
    return torch.stack(
        [voxel_vectors([level[view].float() for level in fine], points[view], size) for view in range(2)]
    ).cpu()


def _chance_mm(boxes: Sequence[Box]) -> Tensor:
    """Median distance between two voxels of a box: the error of a match by lot. A quarter of the voxels is enough."""
    distances = [torch.cdist(box.points_mm[::4], box.points_mm[::4]).flatten() for box in boxes]
    return torch.cat(distances).median()


def _dense(boxes: Sequence[tuple[Box, Tensor]], radius_mm: float) -> dict[str, Tensor]:
    errors, rows = [], []
    share = max(1, RANK_VECTORS // len(boxes))
    for box, (query, candidates) in boxes:
        errors.append(metrics.correspondence_error_mm(query, candidates, box.points_mm, box.points_mm))
        rows.append(query[:: max(1, len(query) // share)][:share])
    error = torch.cat(errors)
    return {
        "dense_mm": error.median(),
        "dense_pck": (error <= radius_mm).double().mean(),
        "dense_rankme": metrics.rankme(torch.cat(rows)),
    }


def _words(
    step: int, light: str, values: Mapping[str, float], baseline: Mapping[str, float], *, own: Sequence[str] = ()
) -> str:
    parts = []
    for name, words, form in (*SHOWN, *((name, name.replace("_", " "), "{:.2f}") for name in own)):
        if name in values and math.isfinite(values[name]):
            before = f" ({form.format(baseline[name])})" if name in baseline else ""
            parts.append(f"{words} {form.format(values[name])}{before}")
    brackets = " (in brackets: at the start)" if baseline else ""
    return f"Health after {step} steps is {light}{brackets}: {', '.join(parts)}."


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
