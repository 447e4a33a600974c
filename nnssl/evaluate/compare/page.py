"""`report.html`: the numbers of `report.json` on one page that needs no other file and no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.evaluate.compare.plan import CONTROLS
from nnssl.evaluate.compare.style import STYLE
from nnssl.report.canvas import label_words

PAGE = "report.html"
_METRICS = {"dice": "Dice, %", "nsd": "NSD, %"}
_NOTHING = "-"
_FOOTNOTE = (
    "In brackets: 95 % intervals over subjects and label draws. NSD: normalised surface distance, the share of both "
    "surfaces that lies within {:g} mm of the other; more is better. No claim: 0 lies within the interval, or the test "
    "subjects are too few. Iterations: the median of the runs, and beside it that of scratch itself, whose curve goes "
    "up and down, too."
)
_OPEN = 3  # pictures to see at once: gains, labels, epochs; the long ones unfold
_VERDICTS = {"gain": "gain", "loss": "loss", "none": "no claim"}


def sentences(report: Mapping[str, Any]) -> list[str]:
    """What the comparison found, each number of labels and checkpoint in a sentence that its interval allows."""
    return [
        f"{target}, {label_words(labels)}, {arm} against {value['against']}: {value['dice']['sentence']}."
        for target, found in report["targets"].items()
        for labels, counted in found["labels"].items()
        for arm, value in counted["differences"].items()
    ]


def write_page(folder: Path, report: Mapping[str, Any], pictures: Mapping[str, Mapping[str, Path]]) -> Path:
    """Write the page; its path.

    Args:
        folder: of the comparison.
        report: content of report.json.
        pictures: {target: {caption: PNG file}}; they are put into the page.
    """
    parts = [
        "<header><h1>Does pretraining help here?</h1>",
        f"<p>nnU-Net from scratch against {_checkpoints(report)}: same plan, schedule, label draws, test cases and "
        f"decoder start. Every claim below is made by its interval alone.</p></header>",
        "<h2>In short</h2>",
        *_overview(report),
        "<h2>Contestants</h2>",
        _contestants(report),
    ]
    for target, found in report["targets"].items():
        parts += _target(target, found, pictures.get(target, {}), report)
    parts += ["<h2>How to read this</h2>", _list(report["caveats"])]
    parts += ["<h2>Settled before the first training</h2>"]
    for index, said in enumerate(report["said"]):
        title = f"{said['when']}{'' if index == 0 else ', before a later call'}"
        parts.append(_folded(title, _list(said["sentences"]), opened=index == 0))
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>nnssl_compare</title><style>{STYLE}</style></head>'
    )
    page = folder / PAGE
    with whole_file(page) as temporary:
        temporary.write_text(f"{head}<body><main>{chr(10).join(parts)}</main></body></html>\n", encoding="utf-8")
    return page


def _checkpoints(report: Mapping[str, Any]) -> str:
    return escape(", ".join(arm for arm in report["arms"] if arm not in CONTROLS))


def _overview(report: Mapping[str, Any]) -> list[str]:
    """How many claims there are, and a table of one row a target, number of labels and checkpoint."""
    rows, verdicts = [], []
    for target, found in report["targets"].items():
        for labels, counted in found["labels"].items():
            for arm, value in counted["differences"].items():
                verdicts.append(value["dice"]["verdict"])
                share = found["gap_closed"].get(labels, {}).get(arm)
                first = arm == next(iter(counted["differences"]))
                begins = first and counted is next(iter(found["labels"].values()))
                cells = [target if begins else "", label_words(labels) if first else "", arm, value["against"]]
                rows.append(
                    [*(_whole(escape(cell)) for cell in cells), _points(value["dice"]), _points(value["nsd"]),
                     _claim(value["dice"], report), _share(share), _reach(value["reach"])]
                )  # fmt: skip
    head = (
        "target", "labels", "checkpoint", "against", "gain in Dice, points", "gain in NSD, points",
        "claim (Dice)", "share of label gap closed", "iterations to scratch's final Dice",
    )  # fmt: skip
    footnote = f"<p class='small'>{escape(_FOOTNOTE.format(report['tolerance_mm']))}</p>"
    return [f"<p>{_tally(verdicts, report)}</p>", _table(head, rows), footnote]


def _tally(verdicts: Sequence[str], report: Mapping[str, Any]) -> str:
    """The claims counted, and how many there would be by chance."""
    gains, losses = verdicts.count("gain"), verdicts.count("loss")
    said = f"Of {len(verdicts)} comparisons in Dice, <b>{gains}</b> show a gain, <b>{losses}</b> a loss, and "
    said += f"<b>{len(verdicts) - gains - losses}</b> allow no claim. "
    if report["replicates"] == 1:
        said += "All are about one draw of labels and seed, and not about how much draws vary. "
    return said + "Where nothing differs at all, 1 in 20 such comparisons still claims something."


def _claim(dice: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The verdict as a badge, and what goes with it."""
    said = f'<span class="badge {escape(dice["verdict"])}">{_VERDICTS[dice["verdict"]]}</span>'
    if "not_worse" in dice and dice["verdict"] == "none":
        said += f"<br>no worse by 0.5 points: {'yes' if dice['not_worse'] else 'cannot be claimed'}"
    return said + ("<br>for this one draw" if report["replicates"] == 1 else "")


def _whole(cell: str) -> str:
    """A cell of HTML that is not broken into lines."""
    return f'<span class="whole">{cell}</span>'


def _points(value: Mapping[str, Any]) -> str:
    interval = f"[{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"
    return f"<b>{100 * value['gain']:+.1f}</b><br>{_whole(interval)}"


def _share(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return _NOTHING
    if found["share"] is None:
        return "no gap can be claimed"
    interval = f"[{found['low']:.0%}, {found['high']:.0%}]"
    return f"<b>{found['share']:.0%}</b><br>{_whole(interval)}"


def _reach(found: Mapping[str, Any]) -> str:
    runs = f"{found['reached']} of {found['runs']} runs"
    if found["median"] is None:
        return f"not reached<br>{_whole(runs)}"
    own = _whole(f"[scratch {found['scratch_median']:g}]")
    return f"<b>{found['median']:g}</b> {own}<br>{_whole(runs)}"


def _contestants(report: Mapping[str, Any]) -> str:
    """What each arm started from, what it cost, and its mean rank."""
    rows = []
    for arm, about in report["arms"].items():
        hours = about["pretraining_hours"]
        spent = sum(
            value["arms"][arm]["hours"] for one in report["targets"].values() for value in one["labels"].values()
        )
        cells = (
            arm, about["weights"] or "no pretraining", _NOTHING if about["weights"] is None else
            "unknown" if hours is None else _time(hours), _time(spent), f"{report['mean_rank'][arm]:.2f}",
        )  # fmt: skip
        path = f'<span class="path">{escape(cells[1])}</span>'
        rows.append([_whole(escape(cells[0])), path, *(_whole(escape(cell)) for cell in cells[2:])])
    head = (
        "arm", "starts from", "time of pretraining", "time of all its fine-tunings",
        "mean rank over targets and numbers of labels",
    )  # fmt: skip
    return _table(head, rows)


def _time(hours: float) -> str:
    """In the unit that suits it."""
    return f"{hours:.3g} h" if hours >= 1 else f"{60 * hours:.2g} min"


def _target(
    target: str, found: Mapping[str, Any], pictures: Mapping[str, Path], report: Mapping[str, Any]
) -> list[str]:
    parts = [
        f"<h2>{escape(target)}</h2>",
        f"<p>{found['test_cases']} test cases of {found['test_subjects']} subjects; folds "
        f"{', '.join(map(str, report['folds']))}; {report['replicates']} label draw(s); plan {escape(found['plans'])}; "
        f"classes {escape(', '.join(found['classes']))}.</p>",
    ]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in found["warnings"]]
    if found["longer"]:
        parts.append(f"<p>{escape(found['longer'])}</p>")
    shown = [_picture(target, caption, file) for caption, file in pictures.items()]
    parts += shown[:_OPEN]
    for caption, picture in zip(list(pictures)[_OPEN:], shown[_OPEN:], strict=True):
        parts.append(_folded(caption, picture))
    parts.append("<h3>In words</h3>")
    parts += _target_sentences(found)
    parts.append("<h3>Scores</h3>")
    for metric, words in _METRICS.items():
        parts.append(_scores(found, metric, words))
    for labels, counted in found["labels"].items():
        parts.append(_folded(f"Every class, {label_words(labels)}", _classes(counted, found["classes"])))
        parts.append(_folded(f"Every test case, {label_words(labels)}", _cases(counted, found["classes"])))
    return parts


def _target_sentences(found: Mapping[str, Any]) -> list[str]:
    """What the intervals allow to say of each checkpoint; a number of labels unfolds."""
    parts = []
    for number, (labels, counted) in enumerate(found["labels"].items()):
        said_of = []
        for arm, value in counted["differences"].items():
            said = [
                f"{value[metric]['sentence']} (Wilcoxon over subjects alone: p = {value[metric]['p']:.2g})."
                for metric in _METRICS
            ]
            said.append(f"{value['reach']['sentence']}.")
            share = found["gap_closed"].get(labels, {}).get(arm)
            if share is not None:
                said.append(f"{share['sentence']}.")
            capital = [sentence[:1].upper() + sentence[1:] for sentence in said]
            said_of.append(f"<h4>{escape(arm)} against {escape(value['against'])}</h4>{_list(capital)}")
        parts.append(_folded(f"With {label_words(labels)}", "".join(said_of), opened=number == 0))
    return parts


def _scores(found: Mapping[str, Any], metric: str, words: str) -> str:
    """A row a number of labels, a column an arm."""
    arms = list(next(iter(found["labels"].values()))["arms"])
    rows = [
        [escape(label_words(labels)), *(escape(_cell(value["arms"][arm][metric])) for arm in arms)]
        for labels, value in found["labels"].items()
    ]
    return _table((f"{words} [95 %]", *arms), rows)


def _classes(counted: Mapping[str, Any], classes: Sequence[str]) -> str:
    """A row a class and metric, a column an arm."""
    rows = [
        [
            escape(name), escape(words.split(",", maxsplit=1)[0]),
            *(escape(_cell(value[metric]["classes"][name])) for value in counted["arms"].values()),
        ]
        for name in classes
        for metric, words in _METRICS.items()
    ]  # fmt: skip
    return _table(("class", "score, % [95 %]", *counted["arms"]), rows)


def _cases(counted: Mapping[str, Any], classes: Sequence[str]) -> str:
    """A row a case and class, two columns an arm."""
    arms = counted["arms"]
    cases = next(iter(arms.values()))["cases"]
    rows = [
        [
            escape(case), escape(name),
            *(_percent(value["cases"][case][metric][name]) for value in arms.values() for metric in _METRICS),
        ]
        for case in cases
        for name in classes
    ]  # fmt: skip
    short = {"dice": "Dice", "nsd": "NSD"}
    return _table(("case", "class", *(f"{arm}, {short[metric]}" for arm in arms for metric in _METRICS)), rows)


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f}"


def _cell(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return _NOTHING
    return f"{_percent(value['mean'])} [{_percent(value['low'])}, {_percent(value['high'])}]"


def _picture(target: str, caption: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    words = escape(f"{caption}, {target}", quote=True)
    return (
        f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{escape(caption)} '
        f"({escape(file.name)})</figcaption></figure>"
    )


def _folded(title: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{content}</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells of `rows` are HTML already; `head` is text."""
    lines = ["".join(f"<th>{escape(word)}</th>" for word in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def _list(said: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in said) + "</ul>"
