"""What a list says of its scans' use: for training, for testing or validation, or in a word that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nnssl.planning.checks import Finding

TRAINING = ("train", "training", "trn", "tr", "pretrain", "pretraining", "unlabeled", "unlabelled", "imagesTr")
TESTING = (
    "test", "testing", "tst", "ts", "val", "vali", "valid", "validation", "dev", "development", "eval", "evaluation",
    "held out", "holdout", "ood", "imagesTs",
)  # fmt: skip
NAMES = ("split", "splits", "partition", "subset", "set", "data_split", "dataset_split")  # of columns and members
REASONS = frozenset({"held_out", "unknown_split"})  # by which a list keeps a scan out
_FOLD = "fold"  # of a cross-validation within what is trained on: only a word for testing counts there
_WORD = re.compile(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+")
_BESIDE = frozenset({"set", "sets", "split", "data", "dataset", "images", "cases", "scans"})  # say nothing of the use
_HELD = frozenset({*(word.casefold() for word in TESTING), "tests", "va", "held", "heldout", "hold"})


def split_finding(split: str) -> Finding | None:
    """What keeps a scan of this split out of training; None where nothing does.

    Only words that are known to mean training, or nothing at all, let a scan in. One word for testing or validation in
    a text ("internal_test", "Val2") holds it out.

    Args:
        split: as a list says; capitals, numbers and signs between words do not matter.
    """
    if not split.strip():
        return None
    words = [word.casefold() for word in _WORD.findall(split)]
    words = [word.removesuffix("set") or word for word in words if word not in _BESIDE]
    if not _HELD.isdisjoint(words):
        return Finding("held_out", f"the list has it for {split}")
    if words and set(words) <= {word.casefold() for word in TRAINING}:
        return None
    known = f"for training: {', '.join(TRAINING)} or nothing; for testing: {', '.join(TESTING)}"
    return Finding("unknown_split", f"the list has it for {split!r}, a word that is not known. Known are {known}")


def is_held(split: str) -> bool:
    """Whether a word says testing or validation."""
    finding = split_finding(split)
    return finding is not None and finding.reason == "held_out"


def is_split_name(name: str) -> bool:
    """Whether a column, or a member of an entry, is called like one that says what a scan is for."""
    return _plain(name) in (*NAMES, _FOLD)


def split_of(said: Mapping[Any, Any]) -> str:
    """What the columns of a row, or the members of an entry, say of its use, by the strictest of them."""
    words = ((_plain(str(name)), "" if value is None else str(value)) for name, value in said.items())
    return strictest(word for name, word in words if name in NAMES or (name == _FOLD and is_held(word)))


def strictest(words: Iterable[str]) -> str:
    """Of what is said of one scan's use what keeps it out most surely; else the first that says anything."""
    given = [word for word in words if word.strip()]
    held = (word for word in given if is_held(word))
    unknown = (word for word in given if split_finding(word))
    return next(held, None) or next(unknown, None) or next(iter(given), "")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())
