"""Which subjects are held out for the health probes. No subject is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nnssl.data.case import CaseEntry

SHARE = 0.05
MOST_SUBJECTS = 16
FEWEST_CASES = 8  # with fewer, every case is needed for training


def split(entries: Sequence[CaseEntry]) -> tuple[tuple[CaseEntry, ...], tuple[CaseEntry, ...]]:
    """Training and held-out cases.

    5 % of the subjects are held out, at least 1 and at most 16: those whose names have the smallest hashes. So the
    choice depends on neither seed nor order, and a few more cases move few subjects across.
    With fewer than 8 cases, or one subject, held-out and training are the same cases.
    """
    subjects = sorted({(entry.dataset, entry.subject) for entry in entries}, key=_hash)
    if len(entries) < FEWEST_CASES or len(subjects) < 2:
        return tuple(entries), tuple(entries)
    count = min(max(round(SHARE * len(subjects)), 1), MOST_SUBJECTS)
    chosen = set(subjects[:count])
    training = tuple(entry for entry in entries if (entry.dataset, entry.subject) not in chosen)
    held_out = tuple(entry for entry in entries if (entry.dataset, entry.subject) in chosen)
    return training, held_out


def _hash(subject: tuple[str, str]) -> bytes:
    """A number for a subject, the same everywhere. A subject that is in two data sets under one name counts twice."""
    return hashlib.blake2b("\0".join(subject).encode(), digest_size=8).digest()
