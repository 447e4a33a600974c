"""The report as one page that needs nothing else: no script, no network; every text of the scans is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnssl.ingest.report_style import STYLE
from nnssl.planning.refusal import REASONS

_PICTURES_AT_MOST = 240
_ROWS_AT_MOST = 2000
_BARS = 24
_WIDTH, _HEIGHT = 300, 110
Row = dict[str, Any]


def page(content: dict[str, Any], pictures: Path) -> Iterator[str]:
    """The page, piece by piece.

    Args:
        content: what report.json holds.
        pictures: folder of the scans' pictures.
    """
    name = escape(content["dataset"])
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: ingest report</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style></head><body><main><h1>{name}</h1>\n"
    yield _numbers(content)
    yield from _refused(content)
    yield from _suspicions(content["taken"])
    yield from _cohort(content["taken"])
    yield from _montage(content, pictures)
    yield from _cases(content["taken"])
    yield "</main></body></html>\n"


def _numbers(content: dict[str, Any]) -> str:
    counts = content["counts"]
    shown = [
        (counts["taken"], "cases"),
        (counts["subjects"], "subjects"),
        (counts["refused"], "refused"),
        (sum(bool(row["suspicions"]) for row in content["taken"]), "suspicious"),
    ]
    tiles = "".join(f"<div><b>{count}</b><span>{what}</span></div>" for count, what in shown)
    channels = ", ".join(escape(name) for name in content["channel_names"].values())
    found = ", ".join(f"{count} {escape(what)}" for what, count in content["layouts"].items()) or "nothing new"
    ignored = ", ".join(f"{count} {escape(what)}" for what, count in content["ignored"].items())
    rest = f" Not looked at: {ignored}." if ignored else ""
    return (
        f'<div class="tiles">{tiles}</div><p>Channels: <b>{channels}</b>. Found in the last run: {found}; '
        f"{counts['read_now']} scans were read, {counts['known_before']} known from before; {counts['links']} cases "
        f"are links to their source.{rest}</p>\n"
    )


def _refused(content: dict[str, Any]) -> Iterator[str]:
    if not content["refused"]:
        return
    yield f"<h2>Refused ({len(content['refused'])})</h2>\n"
    for reason, count in content["reasons"].items():
        known = REASONS[reason]
        accept = f" <code>--accept {reason}</code>: {escape(known.accepted)}." if known.accepted else ""
        few = " open" if count <= 20 else ""
        yield f"<details{few}><summary><b>{reason}</b> ({count}): {escape(known.means)}.{accept}</summary><table>"
        rows = [row for row in content["refused"] if row["reason"] == reason]
        for row in rows[:_ROWS_AT_MOST]:
            yield f"<tr><td>{escape(row['source'])}</td><td>{escape(row['sentence'])}</td></tr>\n"
        yield f"</table>{_more(len(rows), _ROWS_AT_MOST)}</details>\n"


def _suspicions(taken: Sequence[Row]) -> Iterator[str]:
    rows = [(row, name, text) for row in taken for name, text in sorted(row["suspicions"].items())]
    if not rows:
        return
    yield f"<h2>Suspicious, but taken ({len(rows)})</h2>\n<table><tr><th>case</th><th>what</th><th></th></tr>"
    for row, name, text in rows[:_ROWS_AT_MOST]:
        yield f"<tr><td>{escape(row['case'])}</td><td>{escape(name)}</td><td>{escape(text)}</td></tr>\n"
    yield f"</table>{_more(len(rows), _ROWS_AT_MOST)}"


def _cohort(taken: Sequence[Row]) -> Iterator[str]:
    first = [row["channels"][0] for row in taken if row["channels"]]
    if not first:
        return
    measures: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("in-plane spacing, mm", lambda channel: min(channel["spacing_mm"])),
        ("largest spacing, mm", lambda channel: max(channel["spacing_mm"])),
        ("longest side of the field of view, mm", lambda channel: max(channel["field_of_view_mm"])),
        ("shortest side, voxels", lambda channel: min(channel["shape"])),
        ("1st percentile of intensities", lambda channel: channel["percentile_01"]),
        ("median of intensities", lambda channel: channel["median"]),
        ("99th percentile of intensities", lambda channel: channel["percentile_99"]),
    )
    yield '<h2>The cohort</h2><p>Scans by geometry and intensity (first channel).</p><div class="charts">'
    for title, value in measures:
        yield _bars(title, [value(channel) for channel in first])
    mean = [sum(each) / len(first) for each in zip(*(channel["histogram"] for channel in first), strict=True)]
    yield _chart("mean histogram, 1st to 99th percentile of each scan", mean, "1 %", "99 %")
    yield "</div>\n"
    counts: dict[str, int] = {}
    for channel in first:
        counts[channel["orientation"]] = counts.get(channel["orientation"], 0) + 1
    lying = ", ".join(f"{escape(code)} ({count})" for code, count in sorted(counts.items(), key=lambda each: -each[1]))
    yield f"<p>Axes D H W run towards: {lying}; S head, I feet, P back, A front, L and R the patient's sides.</p>\n"


def _bars(title: str, values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    counts = [0.0] * _BARS
    for value in values:
        counts[min(_BARS - 1, int((value - low) / (high - low) * _BARS)) if high > low else _BARS // 2] += 1
    return _chart(title, counts, f"{low:.4g}", f"{high:.4g}")


def _chart(title: str, heights: Sequence[float], left: str, right: str) -> str:
    most, step = max(*heights, 1e-9), _WIDTH / len(heights)
    bars = "".join(
        f'<rect x="{index * step:.1f}" y="{_HEIGHT - _tall(height, most):.1f}" width="{step - 1:.1f}" '
        f'height="{_tall(height, most):.1f}"/>'
        for index, height in enumerate(heights)
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT + 16}" role="img">{bars}'
        f'<text x="0" y="{_HEIGHT + 13}">{escape(left)}</text><text x="{_WIDTH}" y="{_HEIGHT + 13}" '
        f'text-anchor="end">{escape(right)}</text></svg></figure>'
    )


def _tall(height: float, most: float) -> float:
    """A bar's height; one scan among thousands must still be seen."""
    return max(2.0, _HEIGHT * height / most) if height else 0.0


def _montage(content: dict[str, Any], pictures: Path) -> Iterator[str]:
    drawn = [row for row in content["refused"] if row["picture"]]
    odd = [row for row in content["taken"] if row["picture"] and row["suspicions"]]
    fine = [row for row in content["taken"] if row["picture"] and not row["suspicions"]]
    chosen = [*_spread(drawn, _PICTURES_AT_MOST // 4), *_spread(odd, _PICTURES_AT_MOST // 4)]
    chosen += _spread(fine, _PICTURES_AT_MOST - len(chosen))
    if not chosen:
        return
    every = len(drawn) + len(odd) + len(fine)
    note = f" {len(chosen)} of {every}, refused and suspicious ones first." if every > len(chosen) else ""
    yield "<h2>Middle slices</h2><p>Axial, coronal and sagittal as the header says they lie, each between its 1st and "
    yield f"99th percentile.{note}</p>"
    yield '<div class="montage">'
    for row in chosen:
        try:
            coded = base64.b64encode((pictures / row["picture"]).read_bytes()).decode()
        except OSError:
            continue
        marks = [row["reason"]] if row["reason"] else sorted(row["suspicions"])
        style = "bad" if row["reason"] else "odd" if marks else ""
        caption = escape(row["source"] if row["reason"] else row["case"])
        told = f"<em>{escape(', '.join(marks))}</em>" if marks else ""
        yield (
            f'<figure class="{style}"><img alt="middle slices of {caption}" src="data:image/jpeg;base64,{coded}">'
            f'<figcaption title="{caption}">{caption}</figcaption>{told}</figure>\n'
        )
    yield "</div>\n"


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """So many of the rows, evenly over all of them."""
    step = max(1, math.ceil(len(rows) / max(1, count)))
    return list(rows[::step])


def _cases(taken: Sequence[Row]) -> Iterator[str]:
    if not taken:
        return
    yield f"<h2>Cases ({len(taken)})</h2><table><tr><th>case</th><th>subject</th><th>session</th><th>modality</th>"
    yield "<th>voxels D H W</th><th>mm</th><th>axes</th><th>values</th><th>from</th></tr>\n"
    for row in taken[:_ROWS_AT_MOST]:
        channel = row["channels"][0]
        cells = (
            row["case"],
            row["subject"],
            row["session"],
            " ".join(row["modality"]),
            " ".join(map(str, channel["shape"])),
            " ".join(f"{side:.3g}" for side in channel["spacing_mm"]),
            channel["orientation"],
            f"{channel['min']:.4g} to {channel['max']:.4g}",
            row["source"] + (f" ({'; '.join(row['notes'])})" if row["notes"] else ""),
        )
        yield "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>\n"
    yield f"</table>{_more(len(taken), _ROWS_AT_MOST)}"


def _more(count: int, shown: int) -> str:
    return f"<p>... and {count - shown} more in report.json.</p>" if count > shown else ""
