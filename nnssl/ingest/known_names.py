"""Names of patients that any DICOM series of a run has, taken out of what is said of all its scans.

A series hides its own patient's names and numbers wherever they stand in its paths. In the paths of others only whole
words go, and only such as name nothing but a person: a folder called "head" stays.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import replace

from nnssl.ingest.identity import HIDDEN, folded_with_places, spellings
from nnssl.ingest.ledger import Ledger
from nnssl.ingest.people import is_nobody, is_within
from nnssl.ingest.scan import Scan
from nnssl.planning.checks import Finding

_SHORTEST = 3
_PARTS = 4  # of a name that are looked for run together
_WORD = re.compile(r"[^\W\d_]+")
# what stands in place of a name, and words of paths that we write ourselves
_NO_NAMES = re.compile(
    r"anon|anonym|anonymous|anonymized|anonymised|anonymization|anonymisation|deidentified|removed|redacted|"
    r"hidden|unknown|none|null|nobody|noname|name|names|patient|pat|subject|case|proband|participant|"
    r"volunteer|person|test|demo|example|sample|phantom|phantoms|male|female|body|skull|lung|lungs|dicom|dcm|"
    r"ima|nii|nrrd|mha|mhd|mgz|png|csv|json|file|files|row|rows|scan"
)


class KnownNames:
    """Words that name patients; held in memory only, and written nowhere."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._added: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Names as DICOM has them ("Doe^Jane"); one with digits is no name but a number, and hides nothing."""
        for name in {*names} - self._added:
            self._added.add(name)
            for spelling in spellings(name) if not any(sign.isdigit() for sign in name) else ():
                self._words |= {word for word in _WORD.findall(spelling) if _is_name(word)}
                parts = ["".join(_WORD.findall(part)) for part in re.split(r"[\s^=,._]+", spelling)]
                parts = [part for part in parts if _is_name(part)][:_PARTS]
                for count in range(1, len(parts) + 1):
                    self._words |= {"".join(order) for order in itertools.permutations(parts, count)}

    def hidden(self, text: str) -> str:
        """The text with every word that is one of them replaced, whatever its case, its accents and its umlauts.

        Example:
            >>> names = KnownNames()
            >>> names.add(["Otto^Head"])
            >>> names.hidden("OTTO_2/head/Ottoman")
            '[hidden]_2/head/Ottoman'
        """
        pieces, done = [], 0
        for start, end, _ in self._places(text):
            pieces += [text[done:start], HIDDEN]
            done = end
        return "".join([*pieces, text[done:]])

    def of(self, scan: Scan) -> Scan:
        """What is said of a scan without them; messages of its reader will be without them, too."""
        if not self._words:
            return scan
        called = [scan.shown, *{name for file in scan.files for name in (file.name, file.parent.name)}]
        met = {word for text in called for _, _, word in self._places(text)}
        return replace(
            scan,
            shown=self.hidden(scan.shown),
            by=self.hidden(scan.by),
            refused=scan.refused and Finding(scan.refused.reason, self.hidden(scan.refused.sentence)),
            notes=tuple(map(self.hidden, scan.notes)),
            odd=tuple((name, self.hidden(sentence)) for name, sentence in scan.odd),
            secrets=(*scan.secrets, *sorted(met - {*scan.secrets})),
        )

    def _places(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, word) of the words of a text that are names."""
        folded, places = folded_with_places(text)
        found = (match for match in _WORD.finditer(folded) if match[0] in self._words)
        return [(places[match.start()], places[match.end() - 1] + 1, match[0]) for match in found]


def hide_known(ledger: Ledger, names: KnownNames) -> None:
    """Take the names out of the scans that were found, and out of what earlier runs said of them."""
    for key, _, scan in ledger.found():
        if (plain := names.of(scan)) == scan:
            continue
        ledger.change_found(key, plain)
        old = ledger.get(key)
        if old is not None:
            old.source, old.sentence = names.hidden(old.source), names.hidden(old.sentence)
            old.notes = [names.hidden(note) for note in old.notes]
            old.suspicions = {name: names.hidden(sentence) for name, sentence in old.suspicions.items()}
            ledger.put(key, old)


def _is_name(word: str) -> bool:
    return len(word) >= _SHORTEST and not _NO_NAMES.fullmatch(word) and not is_nobody(word) and not is_within(word)
