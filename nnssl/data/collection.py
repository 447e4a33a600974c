"""The cases of a run: read from the index, split, checked against each other and against what the method needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnssl.data.agreement import check_agreement
from nnssl.data.case import CaseEntry
from nnssl.data.index import read_index
from nnssl.data.requirements import check_needs
from nnssl.data.split import split
from nnssl.data.tables import read_table
from nnssl.errors import DataError, UsageError
from nnssl.method import DataInfo
from nnssl.needs import Match, Needs

CaseKey = tuple[str, str]  # data set and case: names repeat across data sets
QUANTILES = (0, 10, 50, 90, 100)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All cases of a run.

    Attributes:
        training: cases to learn from.
        held_out: cases for the health probes; the training cases where there are too few.
        weights: share of each data set in a batch, by data set; None: by its number of cases.
        matches: {case: rows of the match tables, turned so that the case is `case_a`}.
        notes: sentences for the log.
    """

    training: tuple[CaseEntry, ...]
    held_out: tuple[CaseEntry, ...]
    weights: Mapping[str, float] | None = None
    matches: Mapping[CaseKey, tuple[Match, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def from_datasets(
        cls,
        folders: Sequence[Path],
        *,
        needs: Needs | None = None,
        trainer: str = "This method",
        mix: Sequence[float] | None = None,
    ) -> Collection:
        """Read one or several configurations' folders (nnUNet_preprocessed/DatasetXXX_Name/nnsslPlans_3d_fullres).

        Args:
            folders: one a data set.
            needs: the method's.
            trainer: its name, for messages.
            mix: weight of each data set in a batch, `--mix`.

        Raises:
            DataError: data sets that do not agree, or that lack what the method needs.
            UsageError: a data set given twice, or a mix that does not fit the data sets.
        """
        needs = needs or Needs()
        if len(set(folders)) < len(folders):
            names = ", ".join(folder.parent.name for folder in folders)
            raise UsageError(f"Every data set must be given once; found {names}. To draw one more often, use --mix.")
        groups = [tuple(read_index(folder).entries.values()) for folder in folders]
        if mix is not None and (len(mix) != len(groups) or not all(0 < weight < math.inf for weight in mix)):
            raise UsageError(f"--mix needs one weight over 0 for each of {len(groups)} data sets; found {list(mix)}.")
        notes = list(check_agreement(groups, raw=needs.values == "raw"))
        entries = [entry for group in groups for entry in group]
        check_needs(entries, needs, trainer)
        # Split per data set, so that a small one is probed too and a subject's name in another set is another person.
        halves = [split(group) for group in groups]
        for group, (training, held_out) in zip(groups, halves, strict=True):
            notes.append(_split_note(group, training, held_out))
        matches = _read_matches(folders, groups, needs)
        notes += _match_notes(matches)
        everyone = [entry for training, _ in halves for entry in training]
        paired, note = _paired(everyone, matches) if needs.tables else (everyone, "")
        return cls(
            training=tuple(paired),
            held_out=tuple(entry for _, held_out in halves for entry in held_out),
            weights=None if mix is None else {g[0].dataset: float(w) for g, w in zip(groups, mix, strict=True)},
            matches=matches,
            notes=(*notes, note) if note else tuple(notes),
        )

    def pools(self) -> tuple[list[tuple[CaseEntry, ...]], list[float] | None]:
        """Training cases by data set with their weights; one pool without weights if there is no mix."""
        if self.weights is None:
            return [self.training], None
        by_name = [tuple(e for e in self.training if e.dataset == name) for name in self.weights]
        return by_name, list(self.weights.values())

    def probe(self) -> Collection:
        """The held-out cases as a collection of their own."""
        return replace(self, training=self.held_out, weights=None)

    def others(self, entry: CaseEntry) -> tuple[CaseEntry, ...]:
        """Training cases other than `entry`: of its own data set if there are any, else of all.

        Raises:
            DataError: there is no other case.
        """
        others = [e for e in self.training if e.path != entry.path]
        near = tuple(e for e in others if e.dataset == entry.dataset)
        if not others:
            raise DataError(f"This method pairs every case with another, but {entry.case_id} is the only one.")
        return near or tuple(others)

    def partners(self, entry: CaseEntry) -> tuple[Match, ...]:
        """Match rows of a case whose other case is in this collection's training cases.

        Raises:
            DataError: the case has no such row.
        """
        known = {(e.dataset, e.case_id) for e in self.training}
        rows = self.matches.get((entry.dataset, entry.case_id), ())
        usable = tuple(row for row in rows if (entry.dataset, row.case_b) in known)
        if not usable:
            raise DataError(
                f"Case {entry.case_id} has no matched point in another training case. Make the match table again with "
                f"more pairs, or leave the case out."
            )
        return usable

    def matchers(self) -> dict[str, dict[str, int]]:
        """{data set: {"name:fingerprint" of a matcher: rows of the match tables by it}}."""
        return _by_matcher(self.matches)

    def data_info(self, *, batch_size: int, steps_per_epoch: int) -> DataInfo:
        """What a method may know of the data."""
        shapes = np.array([entry.shape for entry in self.training])
        quantiles = np.floor(np.percentile(shapes, QUANTILES, axis=0)).astype(int)
        channels = zip(*(entry.modality for entry in self.training), strict=True)
        return DataInfo(
            modality=tuple(names[0] if len(set(names)) == 1 else "mixed" for names in channels),
            cases=len(self.training),
            shape_quantiles={p: (int(q[0]), int(q[1]), int(q[2])) for p, q in zip(QUANTILES, quantiles, strict=True)},
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
        )


def _split_note(group: Sequence[CaseEntry], training: Sequence[CaseEntry], held_out: Sequence[CaseEntry]) -> str:
    name, subjects = group[0].dataset, len({entry.subject for entry in held_out})
    if len(training) == len(group):
        return f"{name}: {len(group)} cases are too few to hold any out; health is probed on the training cases."
    held = f"{len(held_out)} cases of {subjects} subject{'s' if subjects > 1 else ''}"
    return f"{name}: {len(training)} training cases; {held} held out for health probes."


def _match_notes(matches: Mapping[CaseKey, Sequence[Match]]) -> list[str]:
    """Who made the tables, so that no run by body coordinates passes for one by embeddings."""
    counts = _by_matcher(matches)
    return [
        f"{name}: matched points by " + ", ".join(f"{who} ({count} rows)" for who, count in sorted(by.items())) + "."
        for name, by in sorted(counts.items())
    ]


def _paired(training: Sequence[CaseEntry], matches: Mapping[CaseKey, Sequence[Match]]) -> tuple[list[CaseEntry], str]:
    """The training cases with a matched point in a training case, and a sentence about the others.

    Rows are known from both ends, so whoever is left out was nobody's partner.

    Raises:
        DataError: there is no such case.
    """
    known = {(entry.dataset, entry.case_id) for entry in training}
    paired: list[CaseEntry] = []
    alone: list[CaseEntry] = []
    for entry in training:
        rows = matches.get((entry.dataset, entry.case_id), ())
        (paired if any((entry.dataset, row.case_b) in known for row in rows) else alone).append(entry)
    if not paired:
        raise DataError(
            f"No training case of {training[0].dataset} has a matched point in another. Make the match table again, "
            f"with other settings or another matcher: nnssl_match --table."
        )
    names = ", ".join(entry.case_id for entry in alone[:5]) + (" ..." if len(alone) > 5 else "")
    told = f"{len(alone)} training cases have no matched point in another and are left out ({names})." if alone else ""
    return paired, told


def _by_matcher(matches: Mapping[CaseKey, Sequence[Match]]) -> dict[str, dict[str, int]]:
    """{data set: {matcher: rows}}; every row is in `matches` twice, once from each end."""
    found: dict[str, dict[str, int]] = {}
    for (dataset, _), rows in matches.items():
        counts = found.setdefault(dataset, {})
        for row in rows:
            counts[row.matcher] = counts.get(row.matcher, 0) + 1
    return {name: {who: counts[who] // 2 for who in sorted(counts)} for name, counts in found.items()}


def _read_matches(
    folders: Sequence[Path], groups: Sequence[Sequence[CaseEntry]], needs: Needs
) -> dict[CaseKey, tuple[Match, ...]]:
    """All rows of all tables, by case, each from both ends."""
    found: dict[CaseKey, list[Match]] = {}
    for folder, group in zip(folders, groups, strict=True):
        dataset, known = group[0].dataset, {entry.case_id for entry in group}
        for table in needs.tables:
            for row in read_table(folder, table, known):
                turned = Match(
                    case_a=row.case_b,
                    point_a_mm=row.point_b_mm,
                    case_b=row.case_a,
                    point_b_mm=row.point_a_mm,
                    score=row.score,
                    cycle_mm=row.cycle_mm,
                    matcher=row.matcher,
                )
                for match in (row, turned):
                    found.setdefault((dataset, match.case_a), []).append(match)
    return {case: tuple(rows) for case, rows in found.items()}
