"""Bars of every class and arm with their intervals, a row of panels a number of labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnssl.report.canvas import METRICS, beside, colours, figure, label_words, save, tidy

_WIDTH = 0.8  # of all bars of a class, in class distances


def draw_class_bars(path: Path, title: str, counts: Mapping[str, Any]) -> None:
    """Mean score of each class and arm; one column of panels a metric.

    Args:
        path: of the PNG.
        title: the target.
        counts: {labels: {"arms": {arm: {metric: {"classes": {class: {"mean", "low", "high"}}}}}}} in order.
    """
    arms = colours(list(next(iter(counts.values()))["arms"]))
    classes = list(next(iter(next(iter(counts.values()))["arms"].values()))["dice"]["classes"])
    width = max(4.6, 0.9 + len(classes) * (0.3 + 0.22 * len(arms)))
    drawn, panels = figure(len(counts), len(METRICS), title=title, width=width, height=2.6)
    for row, (labels, found) in zip(panels, counts.items(), strict=True):
        for axes, (metric, words) in zip(row, METRICS.items(), strict=True):
            _draw_panel(axes, {arm: found["arms"][arm][metric]["classes"] for arm in arms}, classes, arms)
            axes.set_title(label_words(labels))
            axes.set_ylabel(f"{words}, %")
            tidy(axes)
    beside(panels[0][-1])
    save(drawn, path)


def _draw_panel(axes: Any, found: Mapping[str, Any], classes: list[str], arms: Mapping[str, str]) -> None:
    bar = _WIDTH / len(arms)
    for number, (arm, colour) in enumerate(arms.items()):
        for place, name in enumerate(classes):
            value = found[arm][name]
            if value["mean"] is None:
                continue
            x = place + (number - (len(arms) - 1) / 2) * bar
            mean, low, high = (100 * value[key] for key in ("mean", "low", "high"))
            axes.bar(x, mean, width=0.9 * bar, color=colour, alpha=0.85, label=arm if not place else None)
            axes.errorbar(x, mean, yerr=[[mean - low], [high - mean]], color="#20242b", capsize=2, lw=1)
    long = len(classes) > 6 or any(len(name) > 14 for name in classes)
    axes.set_xticks(range(len(classes)), classes, rotation=30 if long else 0, ha="right" if long else "center")
    axes.set_ylim(0, 105)
