"""The report as one page that needs nothing else: no script, no network; every text of the scans is escaped."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.ingest.describe import BINS
from nnssl.ingest.montage import montage
from nnssl.ingest.records import Records
from nnssl.ingest.report_style import STYLE
from nnssl.planning.refusal import REASONS

_ROWS_AT_MOST = 2000
_BARS = 24
_WAYS, _NAMED = 20, 20
_WIDTH, _HEIGHT = 300, 110
Channel = Mapping[str, Any]


def page(content: Mapping[str, Any], taken: Records, refused: Records, pictures: Path) -> Iterator[str]:
    """The page, piece by piece.

    Args:
        content: what report.json holds, without its rows.
        taken: the cases.
        refused: what was left out.
        pictures: folder of the scans' pictures.
    """
    name = escape(content["dataset"])
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: ingest report</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style></head><body><main><h1>{name}</h1>\n"
    yield _numbers(content)
    yield from _refused(content, refused)
    yield from _suspicions(content, taken)
    yield from _cohort(taken)
    yield from montage(content["pictures"], taken, refused, pictures)
    yield from _cases(content["counts"]["taken"], taken)
    yield "</main></body></html>\n"


def _numbers(content: Mapping[str, Any]) -> str:
    counts = content["counts"]
    shown = [
        (counts["taken"], "cases"),
        (counts["subjects"], "subjects"),
        (counts["refused"], "refused"),
        (counts["suspicious"], "suspicious cases"),
    ]
    tiles = "".join(f"<div><b>{count}</b><span>{what}</span></div>" for count, what in shown)
    channels = ", ".join(escape(name) for name in content["channel_names"].values())
    found = ", ".join(f"{count} {escape(what)}" for what, count in content["layouts"].items()) or "nothing new"
    ignored = ", ".join(f"{count} {escape(what)}" for what, count in content["ignored"].items())
    described = ", ".join(f"{count} {escape(what)}" for what, count in content["described"].items())
    read = f" Read as descriptions: {described}." if described else ""
    by = ", ".join(f"{count} by {escape(how)}" for how, count in list(content["subjects_by"].items())[:_WAYS])
    who = f" Subjects: {by}." if by else ""
    twice = escape(f" {found_twice(content, _NAMED)}".rstrip())
    rest = f" Not looked at: {ignored}." if ignored else ""
    return (
        f'<div class="tiles">{tiles}</div><p>Channels: <b>{channels}</b>. Found in the last run: {found}; '
        f"{counts['read_now']} scans were read, {counts['known_before']} known from before; {counts['links']} cases "
        f"are links to their source.{who}{twice}{read}{rest}</p>\n"
    )


def found_twice(content: Mapping[str, Any], limit: int) -> str:
    """What was found twice and taken once, in a sentence; empty where nothing was.

    Args:
        content: from `overview`.
        limit: how many are named.
    """
    count, named = content["found_twice"]["count"], content["found_twice"]["named"][:limit]
    if not count:
        return ""
    told = ", ".join(named) + (f" and {count - len(named)} more" if count > len(named) else "")
    return f"Found twice, counted once: {count} ({told})." if named else f"Found twice, counted once: {count}."


def _refused(content: Mapping[str, Any], refused: Records) -> Iterator[str]:
    if not content["reasons"]:
        return
    yield f"<h2>Refused ({content['counts']['refused']})</h2>\n"
    for reason, count in content["reasons"].items():
        known = REASONS[reason]
        accept = f" <code>--accept {reason}</code>: {escape(known.accepted)}." if known.accepted else ""
        few = " open" if count <= 20 else ""
        yield f"<details{few}><summary><b>{reason}</b> ({count}): {escape(known.means)}.{accept}</summary><table>"
        for record in islice(refused.of(reason), _ROWS_AT_MOST):
            yield f"<tr><td>{escape(record.source)}</td><td>{escape(record.sentence)}</td></tr>\n"
        yield f"</table>{_more(count)}</details>\n"


def _suspicions(content: Mapping[str, Any], taken: Records) -> Iterator[str]:
    count = sum(content["suspicions"].values())
    if not count:
        return
    cases = content["counts"]["suspicious"]
    what = f"{count} suspicion{'s' * (count > 1)} about {cases} case{'s' * (cases > 1)}"
    yield f"<h2>Suspicious, but taken ({what})</h2>\n<table><tr><th>case</th><th>what</th><th></th></tr>"
    told = ((record.case, *pair) for record in taken for pair in sorted(record.suspicions.items()))
    for case, name, text in islice(told, _ROWS_AT_MOST):
        yield f"<tr><td>{escape(case)}</td><td>{escape(name)}</td><td>{escape(text)}</td></tr>\n"
    yield f"</table>{_more(count)}"


_MEASURES: tuple[tuple[str, Callable[[Channel], float]], ...] = (
    ("in-plane spacing, mm", lambda channel: min(channel["spacing_mm"])),
    ("largest spacing, mm", lambda channel: max(channel["spacing_mm"])),
    ("longest side of the field of view, mm", lambda channel: max(channel["field_of_view_mm"])),
    ("shortest side, voxels", lambda channel: min(channel["shape"])),
    ("1st percentile of intensities", lambda channel: channel["percentile_01"]),
    ("median of intensities", lambda channel: channel["median"]),
    ("99th percentile of intensities", lambda channel: channel["percentile_99"]),
)


def _cohort(taken: Records) -> Iterator[str]:
    values = [array("d") for _ in _MEASURES]
    histogram = np.zeros(BINS)
    lying: Counter[str] = Counter()
    for record in taken:
        channel = record.channels[0]
        for (_, value), numbers in zip(_MEASURES, values, strict=True):
            numbers.append(value(channel))
        histogram += channel["histogram"]
        lying[channel["orientation"]] += 1
    if not lying:
        return
    yield '<h2>The cohort</h2><p>Scans by geometry and intensity (first channel).</p><div class="charts">'
    for (title, _), numbers in zip(_MEASURES, values, strict=True):
        yield _bars(title, numbers)
    mean = [float(height) for height in histogram / lying.total()]
    yield _chart("mean histogram, 1st to 99th percentile of each scan", mean, "1 %", "99 %")
    yield "</div>\n"
    axes = ", ".join(f"{escape(code)} ({count})" for code, count in lying.most_common())
    yield f"<p>Axes D H W run towards: {axes}; S head, I feet, P back, A front, L and R the patient's sides.</p>\n"


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


def _cases(count: int, taken: Records) -> Iterator[str]:
    if not count:
        return
    yield f"<h2>Cases ({count})</h2><table><tr><th>case</th><th>subject</th><th>session</th><th>modality</th>"
    yield "<th>voxels D H W</th><th>mm</th><th>axes</th><th>values</th><th>from</th></tr>\n"
    for record in islice(taken, _ROWS_AT_MOST):
        channel = record.channels[0]
        cells = (
            record.case,
            record.subject,
            record.session,
            " ".join(record.modality),
            " ".join(map(str, channel["shape"])),
            " ".join(f"{side:.3g}" for side in channel["spacing_mm"]),
            channel["orientation"],
            f"{channel['min']:.4g} to {channel['max']:.4g}",
            record.source + (f" ({'; '.join(record.notes)})" if record.notes else ""),
        )
        yield "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>\n"
    yield f"</table>{_more(count)}"


def _more(count: int) -> str:
    rest = count - _ROWS_AT_MOST
    return f"<p>... and {rest} more: all are in report.json.</p>" if rest > 0 else ""
