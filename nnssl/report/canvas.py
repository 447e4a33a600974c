"""What the pictures of a comparison share: colours, axes, files. matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file

METRICS = {"dice": "Dice", "nsd": "normalised surface distance"}
GREY = "#8a8f98"
_CONTROLS = {"scratch": "#5b6472", "scratch_longer": "#a3abb8"}  # what is compared with stays in the background
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
_DPI = 130


def colours(arms: Sequence[str]) -> dict[str, str]:
    """A colour for every arm, the same in all pictures; those that a colour-blind reader tells apart."""
    found, number = {}, 0
    for arm in arms:
        if arm in _CONTROLS:
            found[arm] = _CONTROLS[arm]
        else:
            found[arm] = _COLOURS[number % len(_COLOURS)]
            number += 1
    return found


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """A bright colour for every class, to be drawn on a grey image."""
    bright = ("#56B4E9", "#FFB000", "#35D59B", "#FF79C6", "#F0E442", "#FF6B4A", "#B48CFF", "#9BE15D")
    return {name: bright[number % len(bright)] for number, name in enumerate(classes)}


def figure(
    rows: int, columns: int, *, title: str, width: float, height: float, share_y: bool = False
) -> tuple[Any, list[list[Any]]]:
    """A figure and its axes by row and column.

    Args:
        rows: of axes.
        columns: of axes.
        title: of the whole.
        width: of one panel, inches.
        height: of one panel, inches.
        share_y: all panels have the scale of the first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(0.6 + width * columns, 0.4 + height * rows), layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.suptitle(title, fontsize=11, fontweight="bold")
    axes = drawn.subplots(rows, columns, squeeze=False, sharey="all" if share_y else False)
    return drawn, [list(row) for row in axes]


def label_words(labels: str) -> str:
    """ "1 label", "5 labels", "all labels"."""
    return "all labels" if labels == "all" else f"{labels} label{'' if labels == '1' else 's'}"


def beside(axes: Any) -> None:
    """The legend, to the right of the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)


def tidy(axes: Any, *, grid: str = "y") -> None:
    """Light axes: no box, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)
    axes.title.set_size(10)


def save(drawn: Any, path: Path) -> None:
    """Write the PNG, whole or not at all."""
    with whole_file(path) as temporary:
        drawn.savefig(temporary, dpi=_DPI, format="png")
