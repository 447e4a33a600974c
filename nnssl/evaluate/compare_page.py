"""`report.html`: the numbers of `report.json` on one page that needs no other file and no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.report.label_curves import draw_epochs, draw_labels

PAGE = "report.html"
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #bbb;padding:.25em .6em;text-align:left}"
    "img{max-width:100%}.warning{background:#fff3cd;padding:.4em .8em}"
)


def write_page(folder: Path, report: Mapping[str, Any]) -> Path:
    """Draw the pictures and write the page; its path."""
    parts = ["<h1>Does pretraining help here?</h1>", *_arms(report)]
    for target, found in report["targets"].items():
        parts.append(f"<h2>{escape(target)}, {found['test_cases']} test cases</h2>")
        parts += [f'<p class="warning">{escape(warning)}</p>' for warning in found["warnings"]]
        parts += _findings(found)
        for name, draw in (("labels", draw_labels), ("epochs", draw_epochs)):
            picture = folder / f"{target}_{name}.png"
            draw(picture, target, found["labels"])
            data = base64.b64encode(picture.read_bytes()).decode()
            parts.append(f'<img alt="Dice over {name}, {escape(target)}" src="data:image/png;base64,{data}">')
    parts += ["<h2>Settled before the first training</h2>", _list(report["before_the_first_training"])]
    parts += ["<h2>How to read this</h2>", _list(report["caveats"])]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>nnssl_compare</title><style>{_STYLE}</style>'
    page = folder / PAGE
    with whole_file(page) as temporary:
        temporary.write_text(head + "<body>" + "\n".join(parts) + "</body></html>\n", encoding="utf-8")
    return page


def _arms(report: Mapping[str, Any]) -> list[str]:
    rows = [(arm, path or "no pretraining", f"{report['mean_rank'][arm]:.2f}") for arm, path in report["arms"].items()]
    return [_table(("arm", "weights", "mean rank over targets and numbers of labels"), rows)]


def _findings(found: Mapping[str, Any]) -> list[str]:
    arms = list(next(iter(found["labels"].values()))["arms"])
    rows = [(labels, *(_cell(value["arms"][arm]) for arm in arms)) for labels, value in found["labels"].items()]
    parts = [_table(("labels", *arms), rows)]
    sentences = [
        f"{labels} label(s), {arm} against {value['against']}: {value['sentence']}."
        for labels, counted in found["labels"].items()
        for arm, value in counted["differences"].items()
    ]
    sentences += [
        f"{labels} label(s), {arm}: {share:.0%} of the gap to all labels closed (a point estimate without interval)."
        for labels, shares in found["gap_closed"].items()
        for arm, share in shares.items()
        if share is not None
    ]
    return [*parts, _list(sentences)]


def _cell(value: Mapping[str, Any]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(word)}</th>" for word in head)]
    lines += ["".join(f"<td>{escape(word)}</td>" for word in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"
