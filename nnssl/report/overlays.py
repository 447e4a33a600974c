"""Slices of test cases with the outlines of the reference and of each arm's prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.report.canvas import class_colours, figure, save

_SIDE = 2.7  # inches of a panel
_LEGEND_ENTRY = 1.7  # inches
_DIMMED = 1.25  # how much of the scale the image leaves to the outlines
_FINE = 4  # points a voxel side, so that outlines follow voxels


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One arm's prediction on the slice of its row.

    Attributes:
        title: the arm and its score.
        prediction: labels (H, W).
    """

    title: str
    prediction: npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One slice.

    Attributes:
        title: why it is shown, and which case it is.
        image: brightness (H, W).
        reference: true labels (H, W).
        aspect: height of a voxel over its width.
        panels: one an arm.
    """

    title: str
    image: npt.NDArray[np.float32]
    reference: npt.NDArray[Any]
    aspect: float
    panels: Sequence[Panel]


def draw_overlays(path: Path, title: str, rows: Sequence[Row], classes: Mapping[str, Sequence[int]]) -> None:
    """Write a PNG with one row a slice and one column an arm.

    Args:
        path: of the PNG.
        title: the target and the number of labels.
        rows: in order.
        classes: name -> values in the label maps.
    """
    from matplotlib.lines import Line2D

    drawn, panels = figure(len(rows), len(rows[0].panels), title=title, width=_SIDE, height=_SIDE + 0.3)
    palette = class_colours(list(classes))
    for axes_row, row in zip(panels, rows, strict=True):
        low, high = np.quantile(row.image, (0.01, 0.995))
        bright = max(low + (high - low) * _DIMMED, low + 1e-6)  # outlines are the brightest
        for axes, panel in zip(axes_row, row.panels, strict=True):
            axes.imshow(row.image, cmap="gray", vmin=low, vmax=bright, aspect=row.aspect)
            for name, values in classes.items():
                _outline(axes, np.isin(row.reference, values), "white", width=2.2)
                _outline(axes, np.isin(panel.prediction, values), palette[name], width=1.3)
            axes.set_title(f"\n{panel.title}", fontsize=8, loc="left")
            axes.axis("off")
        # no part of the layout: a long one would push the columns apart
        axes_row[0].annotate(
            row.title, (0, 1), xytext=(0, 17), textcoords="offset points", xycoords="axes fraction", fontsize=8,
            fontweight="bold",
        ).set_in_layout(False)  # fmt: skip
    lines = [Line2D([], [], color=colour, lw=2, label=f"predicted {name}") for name, colour in palette.items()]
    lines.append(Line2D([], [], color="white", lw=2, path_effects=_halo(2), label="reference"))
    fitting = max(1, int(_SIDE * len(rows[0].panels) / _LEGEND_ENTRY))
    drawn.legend(handles=lines, loc="outside lower center", ncols=min(fitting, len(lines)), fontsize=8, frameon=False)
    save(drawn, path)


def _outline(axes: Any, mask: npt.NDArray[np.bool_], colour: str, *, width: float) -> None:
    """Along the edges of the voxels, not through their centres."""
    if not mask.any():
        return
    fine = np.pad(mask, 1).repeat(_FINE, axis=0).repeat(_FINE, axis=1).astype(np.float32)
    y, x = ((np.arange(side) + 0.5) / _FINE - 1.5 for side in fine.shape)
    lines = axes.contour(x, y, fine, levels=[0.5], colors=[colour], linewidths=[width])
    lines.set_path_effects(_halo(width))
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def _halo(width: float) -> list[Any]:
    """A dark edge, so that a line shows on any ground."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width + 0.9, foreground="#20242b"), Normal()]
