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

    drawn, panels = figure(len(rows), len(rows[0].panels), title=title, width=_SIDE, height=_SIDE + 0.25)
    palette = class_colours(list(classes))
    for axes_row, row in zip(panels, rows, strict=True):
        low, high = np.quantile(row.image, (0.01, 0.995))
        for number, (axes, panel) in enumerate(zip(axes_row, row.panels, strict=True)):
            axes.imshow(row.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=row.aspect)
            for name, values in classes.items():
                _outline(axes, np.isin(row.reference, values), "white", "--", 1.1)
                _outline(axes, np.isin(panel.prediction, values), palette[name], "-", 1.5)
            axes.set_title(f"{row.title}\n{panel.title}" if not number else f"\n{panel.title}", fontsize=8, loc="left")
            axes.axis("off")
    lines = [Line2D([], [], color=colour, lw=2, label=name) for name, colour in palette.items()]
    lines.append(Line2D([], [], color="#777777", lw=1.5, ls="--", label="reference (white on the image)"))
    drawn.legend(handles=lines, loc="outside lower center", ncols=min(5, len(lines)), fontsize=8, frameon=False)
    save(drawn, path)


def _outline(axes: Any, mask: npt.NDArray[np.bool_], colour: str, style: str, width: float) -> None:
    if not mask.any():
        return
    height, length = mask.shape
    padded = np.pad(mask, 1).astype(np.float32)  # an organ at the edge is closed there
    x, y = np.arange(-1, length + 1), np.arange(-1, height + 1)
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linestyles=[style], linewidths=[width])
