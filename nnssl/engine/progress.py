"""What a person sees of a run: a progress bar while it lasts, and `progress.png` in the manner of nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from nnssl.atomic import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Panels of health curves: title, then {value name: label}. A panel is drawn when one of its values was measured.
HEALTH_PANELS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("Dense correspondence error (mm)", {"dense_mm": "median", "dense_chance_mm": "chance"}),
    ("Dense correspondence hits", {"dense_pck": "share within the radius"}),
    ("Crop retrieval", {"retrieval_recall": "recall@1 between two views"}),
    ("Body position of the nearest crop (mm)", {"position_mm": "error", "position_chance_mm": "chance"}),
    ("RankMe (uncentred)", {"rankme": "vectors", "dense_rankme": "voxels"}),
    ("Feature std (1: isotropic)", {"feature_std": "vectors"}),
    ("Teacher (0: point collapse, 1: uniform)", {"teacher_entropy": "entropy / ln K", "prototype_use": "prototypes"}),
    ("KL from teacher to student (nats)", {"teacher_kl": "KL"}),
)


@dataclass(frozen=True, kw_only=True)
class EpochSummary:
    """Means over the steps of one epoch.

    Attributes:
        epoch: 0-based.
        values: mean of every logged scalar ("loss", "loss/NAME", "lr", ...); NaN where it was not finite.
        seconds: time spent in steps, without saving and health.
        wait_share: share of that time spent waiting for data, 0 to 1.
    """

    epoch: int
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    wait_share: float = 0.0


class ProgressBar:
    """A bar with the time left, the loss and the share of time waiting for data; silent where nobody watches."""

    def __init__(self, *, total: int, done: int, stream: TextIO) -> None:
        self._stream = stream
        self.visible = stream.isatty()
        self._bar: Any = tqdm(
            total=total,
            initial=done,
            file=stream,
            disable=not self.visible,
            unit="step",
            dynamic_ncols=True,
            leave=False,
        )

    def advance(self, *, loss: float | None, wait_share: float) -> None:
        """One step further; `loss` is the newest one known, which may lag some steps."""
        if self.visible:
            known = {} if loss is None else {"loss": f"{loss:.4g}"}
            self._bar.set_postfix({**known, "waiting for data": f"{wait_share:.0%}"}, refresh=False)
        self._bar.update()

    def write(self, line: str) -> None:
        """A line above the bar."""
        if self.visible:
            tqdm.write(line, file=self._stream)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def draw_progress(path: Path, epochs: Sequence[EpochSummary], health: Sequence[Mapping[str, Any]]) -> None:
    """Write the curves of a run as a picture; readers never see half of it.

    Args:
        path: the PNG to write.
        epochs: one summary per finished epoch.
        health: lines as `Journal.health` writes them: "epoch" (may be fractional) and "health" {name: value}.
    """
    from matplotlib.figure import Figure  # 0.5 s to import; not pyplot, which would keep every figure

    panels = [panel for panel in HEALTH_PANELS if any(name in line["health"] for line in health for name in panel[1])]
    rows = 2 + (len(panels) + 1) // 2
    figure = Figure(figsize=(16, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    _draw_training(list(axes[:4]), epochs)
    for axis, (title, names) in zip(axes[4:], panels, strict=False):
        _draw_health(axis, title, names, health)
    for axis in axes[4 + len(panels) :]:
        axis.set_axis_off()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def _draw_training(axes: Sequence[Axes], epochs: Sequence[EpochSummary]) -> None:
    x = [summary.epoch + 1 for summary in epochs]
    names = list(dict.fromkeys(name for summary in epochs for name in summary.values))
    losses, rate, seconds, waiting = axes
    for name in (name for name in names if name == "loss" or name.startswith("loss/")):
        width = 2.5 if name == "loss" else 1.2
        losses.plot(x, [summary.values.get(name, float("nan")) for summary in epochs], marker=".", lw=width, label=name)
    _finish(losses, "Loss")
    for name in (name for name in ("lr", "weight_decay") if name in names):
        rate.plot(x, [summary.values.get(name, float("nan")) for summary in epochs], marker=".", lw=2, label=name)
    if any(summary.values.get("lr", 0.0) > 0 for summary in epochs):
        rate.set_yscale("log")
    _finish(rate, "Learning rate and weight decay")
    seconds.plot(
        x, [summary.seconds for summary in epochs], marker=".", lw=2, color="tab:blue", label="seconds in steps"
    )
    seconds.set_ylim(bottom=0)
    _finish(seconds, "Seconds an epoch")
    waiting.plot(
        x, [100 * summary.wait_share for summary in epochs], marker=".", lw=2, color="tab:red", label="waiting for data"
    )
    waiting.set_ylim(0, 100)
    _finish(waiting, "Share of time waiting for data (%)")


def _draw_health(axis: Axes, title: str, names: Mapping[str, str], health: Sequence[Mapping[str, Any]]) -> None:
    for name, label in names.items():
        points = [(line["epoch"], line["health"][name]) for line in health if line["health"].get(name) is not None]
        if not points:
            continue
        (curve,) = axis.plot([p[0] for p in points], [p[1] for p in points], marker="o", ms=4, lw=2, label=label)
        if "chance" not in name:  # the untrained network's value, to compare with
            axis.axhline(points[0][1], ls=":", lw=1.5, color=curve.get_color(), label=f"{label}, first measured")
    _finish(axis, title)


def _finish(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=13)
    axis.set_xlabel("epochs done")
    axis.grid(True, alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best", fontsize=9)
