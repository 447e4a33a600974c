"""Pictures of a comparison. matplotlib, without a display; colours are those a colour-blind reader tells apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.atomic import whole_file

Interval = tuple[float, float, float]  # mean, low, high
Run = tuple[int, str]  # number of labels, "scratch" or "pretrained"

COLOURS = {"scratch": "#0072B2", "untrained": "#0072B2", "pretrained": "#D55E00"}  # Okabe and Ito 2008
_STYLES = ("--", "-", ":", "-.")
_ORGANS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")  # Okabe and Ito 2008


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is drawn; all Dice 0 to 1.

    Attributes:
        trainer: name of the pretraining.
        probe: {"untrained" | "pretrained": Dice of the frozen linear probe}.
        curves: {run: (iteration, Dice) in order}.
        final: {run: Dice at the end}.
    """

    trainer: str
    probe: Mapping[str, Interval]
    curves: Mapping[Run, Sequence[tuple[int, float]]]
    final: Mapping[Run, Interval]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One slice, all (H, W): the scan, the true labels and two predictions.

    Attributes:
        case: its name.
        image: brightness.
        truth: true labels, 0 is background.
        scratch: predicted labels of the run from scratch.
        pretrained: predicted labels of the pretrained run.
        labels: how many labelled cases both runs had.
        organs: their names; organ k has the label k + 1.
    """

    case: str
    image: npt.NDArray[np.float32]
    truth: npt.NDArray[Any]
    scratch: npt.NDArray[Any]
    pretrained: npt.NDArray[Any]
    labels: int
    organs: Sequence[str]


def labelled(count: int) -> str:
    """`1 label`, `5 labels`."""
    return f"{count} label" if count == 1 else f"{count} labels"


def draw_comparison(path: Path, comparison: Comparison, example: Example) -> None:
    """Write a PNG: probe, Dice over iterations, final Dice, and a slice with the truth and both predictions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{comparison.trainer} against no pretraining; bars and whiskers: 95 % intervals over test subjects"
    )
    grid = figure.add_gridspec(2, 6)
    _draw_probe(figure.add_subplot(grid[0, :2]), comparison.probe)
    _draw_curves(figure.add_subplot(grid[0, 2:4]), comparison.curves)
    _draw_final(figure.add_subplot(grid[0, 4:]), comparison.final)
    parts = (("truth", example.truth), ("scratch", example.scratch), ("pretrained", example.pretrained))
    for column, (name, labels) in enumerate(parts):
        _draw_slice(figure.add_subplot(grid[1, 2 * column : 2 * column + 2]), example, name, labels)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_probe(axes: Any, probe: Mapping[str, Interval]) -> None:
    _bars(axes, [(name, probe[name], COLOURS[name]) for name in ("untrained", "pretrained")])
    axes.set_title("Frozen linear probe")
    axes.set_ylabel("Dice")


def _draw_curves(axes: Any, curves: Mapping[Run, Sequence[tuple[int, float]]]) -> None:
    for number, labels in enumerate(sorted({run[0] for run in curves})):
        for arm in ("scratch", "pretrained"):
            x, y = zip(*curves[labels, arm], strict=True)
            style = _STYLES[number % len(_STYLES)]
            axes.plot(x, y, style, marker="o", markersize=3, color=COLOURS[arm], label=f"{arm}, {labelled(labels)}")
    axes.set_title("Dice on the way (some subjects, fewer windows)")
    axes.set_xlabel("iteration")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_final(axes: Any, final: Mapping[Run, Interval]) -> None:
    runs = [(labels, arm) for labels in sorted({run[0] for run in final}) for arm in ("scratch", "pretrained")]
    _bars(axes, [(f"{arm}\n{labelled(labels)}", final[labels, arm], COLOURS[arm]) for labels, arm in runs])
    axes.set_title("Dice at the end (all test subjects)")


def _bars(axes: Any, bars: Sequence[tuple[str, Interval, str]]) -> None:
    for x, (_, (mean, low, high), colour) in enumerate(bars):
        axes.bar(x, mean, width=0.65, color=colour, alpha=0.75)
        axes.errorbar(x, mean, yerr=[[mean - low], [high - mean]], color="black", capsize=4)
        axes.annotate(f"{mean:.2f}", (x, 0.02), ha="center", color="white", fontsize=9)
    axes.set_xticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)


def _draw_slice(axes: Any, example: Example, name: str, labels: npt.NDArray[Any]) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    low, high = np.quantile(example.image[example.image > example.image.min()], (0.02, 0.995))
    axes.imshow(example.image, cmap="gray", vmin=low, vmax=high)
    colours = ListedColormap([_ORGANS[number % len(_ORGANS)] for number in range(len(example.organs))])
    shown = np.ma.masked_equal(labels, 0)
    axes.imshow(shown, cmap=colours, vmin=0.5, vmax=len(example.organs) + 0.5, alpha=0.55, interpolation="nearest")
    if name == "truth":
        visible = [organ for organ in range(len(example.organs)) if (labels == organ + 1).any()]
        patches = [Patch(color=colours(organ), label=example.organs[organ].replace("_", " ")) for organ in visible]
        axes.legend(handles=patches, loc="lower left", fontsize=8, framealpha=0.6)
    axes.set_title(f"{example.case}: {name}" + ("" if name == "truth" else f", {labelled(example.labels)}"))
    axes.axis("off")
