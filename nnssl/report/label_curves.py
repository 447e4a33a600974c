"""Curves of a comparison: scores over labels, gains with their intervals, Dice over iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnssl.report.canvas import GREY, METRICS, beside, colours, figure, label_words, save, tidy

_ABREAST = 3  # panels side by side: more are too small to read on a page
Counts = Mapping[str, Any]  # {labels: {"arms": {arm: ..}, "differences": {arm: ..}}} in order


def draw_labels(path: Path, title: str, counts: Counts) -> None:
    """Mean score of each arm over the number of labels, with its interval; one panel a metric.

    Args:
        path: of the PNG.
        title: the target.
        counts: {labels: {"arms": {arm: {metric: {"mean", "low", "high"}}}}} in order.
    """
    drawn, panels = figure(1, len(METRICS), title=title, width=5.2, height=3.9)
    palette = colours(_arms(counts))
    for axes, (metric, words) in zip(panels[0], METRICS.items(), strict=True):
        for number, (arm, colour) in enumerate(palette.items()):
            found = [value["arms"][arm][metric] for value in counts.values()]
            shift = 0.08 * (number - (len(palette) - 1) / 2)  # whiskers side by side
            points = [(index + shift, one) for index, one in enumerate(found) if one["mean"] is not None]
            x = [place for place, _ in points]
            y = [100 * one["mean"] for _, one in points]
            below = [100 * (one["mean"] - one["low"]) for _, one in points]
            above = [100 * (one["high"] - one["mean"]) for _, one in points]
            axes.errorbar(x, y, yerr=[below, above], marker="o", capsize=3, lw=1.8, ms=5, color=colour, label=arm)
        axes.set_xticks(range(len(counts)), list(counts))
        axes.set_xlabel("labelled subjects")
        axes.set_ylabel(f"{words}, %")
        tidy(axes)
    beside(panels[0][-1])
    save(drawn, path)


def draw_gains(path: Path, title: str, counts: Counts) -> None:
    """The paired gain of every checkpoint over the better schedule from scratch, with its interval; a panel a metric.

    Args:
        path: of the PNG.
        title: the target.
        counts: {labels: {"arms": .., "differences": {arm: {metric: {"gain", "low", "high", "verdict"}}}}} in order.
    """
    rows = [(labels, arm) for labels, value in counts.items() for arm in value["differences"]]
    drawn, panels = figure(1, len(METRICS), title=title, width=5.2, height=1.3 + 0.32 * len(rows))
    palette = colours(_arms(counts))
    for axes, (metric, words) in zip(panels[0], METRICS.items(), strict=True):
        axes.axvline(0, color=GREY, lw=1)
        for place, (labels, arm) in enumerate(rows):
            found = counts[labels]["differences"][arm][metric]
            claimed = found["verdict"] != "none"
            axes.errorbar(
                100 * found["gain"], place, xerr=[[100 * (found["gain"] - found["low"])],
                [100 * (found["high"] - found["gain"])]], marker="o", capsize=3, lw=1.8, ms=6, color=palette[arm],
                mfc=palette[arm] if claimed else "white",
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [f"{arm}, {label_words(labels)}" for labels, arm in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"gain in {words}, points")
        tidy(axes, grid="x")
    for axes in panels[0][1:]:
        axes.set_yticklabels([])
    save(drawn, path)


def draw_epochs(path: Path, title: str, counts: Counts) -> None:
    """Dice of some test cases while training, one panel a number of labels, at most three side by side.

    Args:
        path: of the PNG.
        title: the target.
        counts: {labels: {"arms": {arm: {"curve": [[iteration, mean, lowest, highest], ..]}}}} in order.
    """
    columns = min(_ABREAST, len(counts))
    rows = -(-len(counts) // columns)
    drawn, panels = figure(rows, columns, title=title, width=3.6, height=3.1, share_y=True)
    palette = colours(_arms(counts))
    places = [axes for row in panels for axes in row]
    for axes in places[len(counts) :]:
        axes.set_visible(False)
    for axes, (labels, found) in zip(places, counts.items(), strict=False):
        for arm, value in found["arms"].items():
            points: Sequence[Sequence[Any]] = [point for point in value["curve"] if point[1] is not None]
            x, y, low, high = (
                [point[0] if index == 0 else 100 * point[index] for point in points] for index in range(4)
            )
            axes.fill_between(x, low, high, color=palette[arm], alpha=0.12, lw=0)
            axes.plot(x, y, marker="o", ms=3, lw=1.8, color=palette[arm], label=arm)
        axes.set_title(label_words(labels))
        axes.set_xlabel("iteration")
        tidy(axes)
    for row in panels:
        row[0].set_ylabel("Dice, %")
    beside(panels[0][-1])
    save(drawn, path)


def _arms(counts: Counts) -> list[str]:
    return list(next(iter(counts.values()))["arms"])
