"""Patients without their names: pseudonyms, and texts with what could name somebody taken out."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

HIDDEN = "[hidden]"
_SHORTEST = 3  # shorter texts would be found in the middle of words everywhere
_NAMES = 4  # parts of a name that are looked for in every order
_NO_NAMES = frozenset({"dcm", "ima", "dicom", "nii", "nrrd"})  # a number may be the name of a file
_UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"}
_LETTERS = {
    "ł": "l",
    "ø": "o",
    "đ": "d",
    "æ": "ae",
    "œ": "oe",
    "\u0131": "i",
    "þ": "th",
    "ð": "d",
}  # have no accent to lose


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
    """`text` with every secret replaced, whatever its case, its accents and how umlauts are spelt.

    Example:
        >>> without("scans/DOE_JANE/4711/IM1", ["Doe^Jane", "4711"])
        'scans/[hidden]_[hidden]/[hidden]/IM1'
        >>> without("Mueller_Joerg/Muller/LiWu", ["Müller^Jörg", "Li^Wu"])
        '[hidden]_[hidden]/[hidden]/[hidden]'
    """
    wanted = _pattern(tuple(sorted({secret for secret in secrets if secret})))
    if wanted is None:
        return text
    folded, places = folded_with_places(text)
    done, pieces = 0, []
    for match in wanted.finditer(folded):
        start, end = places[match.start()], places[match.end() - 1] + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        pieces += [text[done:start], HIDDEN] if start >= done else []
        done = max(done, end)
    return "".join([*pieces, text[done:]])


@lru_cache(maxsize=64)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    """What finds any spelling of the secrets in folded text; None where they are too short to be told from words."""
    found: set[str] = set()
    for secret in secrets:
        for spelling in spellings(secret):
            found |= {re.escape(spelling)} if len(spelling) >= _SHORTEST else set()
            found |= _of_name(spelling)
        found |= {re.escape(date) for date in _dates(secret)}
    return re.compile("|".join(sorted(found, key=lambda each: (-len(each), each)))) if found else None


def _of_name(spelling: str) -> set[str]:
    """Patterns of the parts of a name: each by itself, and run together in any order where some are short."""
    compounds = [
        pieces for word in re.split(r"[\s^=,._]+", spelling) if (pieces := re.findall(r"[^\W_]+", word)) and word
    ]
    parts = {piece for compound in compounds for piece in compound} - _NO_NAMES
    found = {re.escape(piece) for piece in parts if len(piece) >= _SHORTEST}
    found |= {_bounded([piece]) for piece in parts if len(piece) == _SHORTEST - 1 and piece.isalpha()}
    found |= {_bounded(compound) for compound in compounds if len(compound) > 1 and len("".join(compound)) >= _SHORTEST}
    letters = [compound for compound in compounds if "".join(compound).isalpha()][:_NAMES]
    if len(letters) > 1 and any(len("".join(compound)) < _SHORTEST for compound in letters):
        for count in range(2, len(letters) + 1):
            found |= {_bounded([*itertools.chain(*order)]) for order in itertools.permutations(letters, count)}
    return found


def _bounded(pieces: Sequence[str]) -> str:
    """Pieces with one sign or two between them, or none; no letter may stand beside a short one at an end."""
    before = "" if len(pieces[0]) >= _SHORTEST else r"(?<![^\W\d_])"
    after = "" if len(pieces[-1]) >= _SHORTEST else r"(?![^\W\d_])"
    return before + r"[\W_]{0,2}".join(map(re.escape, pieces)) + after


def spellings(text: str) -> set[str]:
    """A text without accents, with umlauts as two letters, and with two letters that may be an umlaut as one."""
    plain = folded_with_places(text)[0]
    joined = unicodedata.normalize("NFC", text).casefold()
    spelt = folded_with_places("".join(_UMLAUTS.get(sign, sign) for sign in joined))[0]
    return {plain, spelt, re.sub(r"([aou])e", r"\1", plain)}


def folded_with_places(text: str) -> tuple[str, list[int]]:
    """Small letters without accents, and of each the place of the letter that it was."""
    signs: list[str] = []
    places: list[int] = []
    for place, sign in enumerate(text):
        for each in unicodedata.normalize("NFKD", _LETTERS.get(sign.casefold(), sign.casefold())):
            if not unicodedata.combining(each):
                signs.append(each)
                places.append(place)
    return "".join(signs), places


def _dates(secret: str) -> list[str]:
    """DICOM's 19641231 as people write it."""
    match = re.fullmatch(r"((?:19|20)\d\d)([01]\d)([0-3]\d)", secret)
    if match is None:
        return []
    year, month, day = match.groups()
    return [order for sign in "-._" for order in (sign.join((year, month, day)), sign.join((day, month, year)))]
