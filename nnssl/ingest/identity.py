"""Patients without their names: pseudonyms, and texts with what could name somebody taken out."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

_HIDDEN = "[hidden]"
_SHORTEST = 3  # shorter texts would be found in the middle of words everywhere


class Pseudonyms:
    """Keyed names: the same person has the same one in every run, and nobody without the key can test a guess."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, *texts: str, letter: str, digits: int = 8) -> str:
        """A letter and hexadecimal digits for these texts together."""
        return letter + self.digest(*texts)[:digits]

    def digest(self, *texts: str) -> str:
        """64 hexadecimal digits."""
        return hmac.new(self._key, "\0".join(texts).encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def without(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret replaced, whatever its case.

    Example:
        >>> without("scans/DOE_JANE/4711/IM1", ["Doe^Jane", "4711"])
        'scans/[hidden]_[hidden]/[hidden]/IM1'
    """
    words = {
        word
        for secret in secrets
        for word in [secret, *re.split(r"[\W_^=]+", secret), *_dates(secret)]
        if len(word) >= _SHORTEST
    }
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(re.escape(word), _HIDDEN, text, flags=re.IGNORECASE)
    return text


def _dates(secret: str) -> list[str]:
    """DICOM's 19641231 as people write it."""
    match = re.fullmatch(r"((?:19|20)\d\d)([01]\d)([0-3]\d)", secret)
    if match is None:
        return []
    year, month, day = match.groups()
    return [order for sign in "-._" for order in (sign.join((year, month, day)), sign.join((day, month, year)))]
