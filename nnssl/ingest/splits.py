"""What a list says of its scans' use: for training, for testing or validation, or in a word that nobody knows."""

from __future__ import annotations

import re

from nnssl.planning.checks import Finding

TRAINING = ("train", "training", "trn", "tr", "pretrain", "pretraining", "unlabeled", "unlabelled", "imagesTr")
TESTING = (
    "test", "testing", "tst", "ts", "val", "vali", "valid", "validation", "dev", "development", "eval", "evaluation",
    "held out", "holdout", "ood", "imagesTs",
)  # fmt: skip
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
