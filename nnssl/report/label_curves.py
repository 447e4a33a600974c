"""Pictures of a comparison: Dice over labels, and Dice over iterations. matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008


def draw_labels(path: Path, title: str, counts: Mapping[str, Any]) -> None:
    """Mean Dice of each arm over the number of labels, with its interval.

    Args:
        path: of the PNG.
        title: the target.
        counts: {labels: {"arms": {arm: {"mean", "low", "high"}}}} in order.
    """
    arms = list(next(iter(counts.values()))["arms"])
    figure, (axes,) = _figure(1, title)
    for number, arm in enumerate(arms):
        found = [value["arms"][arm] for value in counts.values()]
        x = [index + 0.06 * (number - (len(arms) - 1) / 2) for index in range(len(found))]  # whiskers side by side
        y = [value["mean"] for value in found]
        below = [value["mean"] - value["low"] for value in found]
        above = [value["high"] - value["mean"] for value in found]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.errorbar(x, y, yerr=[below, above], marker="o", capsize=4, color=colour, label=arm)
    axes.set_xticks(range(len(counts)), list(counts))
    axes.set_xlabel("labelled subjects")
    axes.set_ylabel("Dice, 95 % interval")
    _finish(figure, axes, path)


def draw_epochs(path: Path, title: str, counts: Mapping[str, Any]) -> None:
    """Dice of some test cases while training, one panel a number of labels.

    Args:
        path: of the PNG.
        title: the target.
        counts: {labels: {"arms": {arm: {"curve": [[iteration, Dice], ..]}}}} in order.
    """
    figure, panels = _figure(len(counts), title)
    for axes, (labels, found) in zip(panels, counts.items(), strict=True):
        for number, (arm, value) in enumerate(found["arms"].items()):
            points: Sequence[Sequence[Any]] = [point for point in value["curve"] if point[1] is not None]
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, color=colour, label=arm)
        axes.set_title(f"{labels} label(s)")
        axes.set_xlabel("iteration")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    _finish(figure, panels[0], path)


def _figure(panels: int, title: str) -> tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.5 + 3.5 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, [figure.add_subplot(1, panels, number + 1) for number in range(panels)]


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
