"""Middle slices in the report: so many pictures that a page can be opened, evenly over all that there are."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path

from nnssl.ingest.record import Record
from nnssl.ingest.records import Records

AT_MOST = 240


def montage(counts: Mapping[str, int], taken: Records, refused: Records, pictures: Path) -> Iterator[str]:
    """The pictures with their captions; refused and suspicious scans have a quarter of the places each.

    Args:
        counts: of pictures: "refused", "suspicious" and "others".
        taken: the cases.
        refused: what was left out.
        pictures: their folder.
    """
    every = sum(counts.values())
    if not every:
        return
    bad, odd = (min(counts[kind], AT_MOST // 4) for kind in ("refused", "suspicious"))
    fine = min(counts["others"], AT_MOST - bad - odd)
    shown = bad + odd + fine
    note = (
        f" <b>{shown} of {every}</b>: {bad} of {counts['refused']} refused, {odd} of {counts['suspicious']} suspicious "
        f"and {fine} of {counts['others']} other ones, evenly over all; report.json names the file of every picture."
        if every > shown
        else ""
    )
    yield "<h2>Middle slices</h2><p>Axial, coronal and sagittal as the header says they lie, each between its 1st and "
    yield f'99th percentile.{note}</p><div class="montage">'
    drawn = (record for record in refused if record.picture)
    yield from _figures(_spread(drawn, counts["refused"], bad), pictures)
    yield from _figures(
        _spread((each for each in taken if each.picture and each.suspicions), counts["suspicious"], odd), pictures
    )
    yield from _figures(
        _spread((each for each in taken if each.picture and not each.suspicions), counts["others"], fine), pictures
    )
    yield "</div>\n"


def _spread(records: Iterable[Record], count: int, wanted: int) -> Iterator[Record]:
    """So many of the records, evenly over all `count` of them."""
    for number, record in enumerate(records):
        if number * wanted // count != (number - 1) * wanted // count:
            yield record


def _figures(records: Iterable[Record], pictures: Path) -> Iterator[str]:
    for record in records:
        file = pictures / record.picture
        image = f'src="data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"' if file.is_file() else ""
        marks = [record.reason] if record.reason else sorted(record.suspicions)
        style = "bad" if record.reason else "odd" if marks else ""
        caption = escape(record.source if record.reason else record.case)
        told = f"<em>{escape(', '.join(marks))}</em>" if marks else ""
        yield (
            f'<figure class="{style}"><img alt="middle slices of {caption}" {image}>'
            f'<figcaption title="{caption}">{caption}</figcaption>{told}</figure>\n'
        )
