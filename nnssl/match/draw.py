"""A picture of matches: the slice of every point, and the slice of its match in every other case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.atomic import whole_file
from nnssl.match.cases import MatchCase
from nnssl.needs import Match
from nnssl.planning.orientation import reoriented
from nnssl.planning.reading import Image

MOST_ROWS = 12
CT_WINDOW = (-160.0, 240.0)  # HU, soft tissue
_INCHES = 2.4


def draw_matches(path: Path, matches: Sequence[Match], cases: Mapping[str, MatchCase]) -> None:
    """Write a PNG: a row for every point, its own case first; axial slices, a cross at the place.

    Args:
        path: of the picture.
        matches: all from one case; the first `MOST_ROWS` points are drawn.
        cases: by name, at least those of the matches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = list(dict.fromkeys(match.point_a_mm for match in matches))[:MOST_ROWS]
    columns = list(dict.fromkeys(match.case_b for match in matches))
    figure = Figure(figsize=(_INCHES * (len(columns) + 1), _INCHES * len(points) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(points), len(columns) + 1, squeeze=False)
    for column, name in enumerate([matches[0].case_a, *columns]):
        scan = reoriented(cases[name].read(), "SPL")  # one at a time: scans are large
        window = CT_WINDOW if "ct" in cases[name].modality else _percentiles(scan)
        for row, point in enumerate(points):
            match = next((m for m in matches if m.point_a_mm == point and m.case_b == name), None)
            place, title = (point, name) if column == 0 else (None, name)
            if column and match is not None:
                cycle = "" if match.cycle_mm is None else f", back {match.cycle_mm:.0f} mm"
                place, title = match.point_b_mm, f"{name}\n{match.score:.2f}{cycle}"
            _slice(axes[row][column], scan, place, window, title)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _slice(axes: Any, scan: Image, place: Sequence[float] | None, window: Sequence[float], title: str) -> None:
    """The axial slice through a place, feet side up to the viewer's habit: the patient's right on the left."""
    axes.set_axis_off()
    axes.set_title(title, fontsize=7)
    if place is None:
        return
    d, h, w = np.linalg.solve(scan.to_world, np.array([*place, 1.0]))[:3]
    depth = int(np.clip(round(d), 0, scan.data.shape[1] - 1))
    low, high = window
    aspect = scan.spacing_mm[1] / scan.spacing_mm[2]
    axes.imshow(scan.data[0, depth], cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
    axes.plot(w, h, marker="+", color="#e66100", markersize=12, markeredgewidth=1.5)


def _percentiles(scan: Image) -> tuple[float, float]:
    low, high = np.percentile(scan.data[0], (1, 99))
    return float(low), float(high)
