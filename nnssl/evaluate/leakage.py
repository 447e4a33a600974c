"""Was a test scan pretrained on? Weights files hold a hash of every scan they saw."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.export.read import Weights
from nnssl.paths import Folders
from nnssl.planning.cases import read_raw_dataset
from nnssl.planning.reading import read_image, source_stamp

_NAMED = 3  # cases that a sentence names


def scan_hashes(
    dataset: str, cases: Sequence[str], reader: str, where: Folders, *, memory: Path | None = None
) -> dict[str, str]:
    """{case: hash of its scan's content}, as the pretraining's preprocessing takes it.

    Args:
        dataset: full name.
        cases: which of them.
        reader: nnU-Net's reader class as the plans file names it.
        where: nnU-Net's folders.
        memory: JSON file that keeps the hashes of files that have not changed since; None: read all.

    Raises:
        DataError: the raw data set or one of the cases is not there.
    """
    found = {case.case_id: case.files for case in read_raw_dataset(dataset, where).cases}
    absent = [case for case in cases if case not in found]
    if absent:
        raise DataError(f"The scan of test case {absent[0]} of {dataset} is not in {where.raw / dataset}.")
    known = json.loads(memory.read_text()) if memory is not None and memory.is_file() else {}
    kept = {}
    for case in cases:
        stamp = source_stamp(found[case])
        digest = known[case][1] if known.get(case, [""])[0] == stamp else read_image(found[case], reader).source_hash
        kept[case] = (stamp, digest)
    if memory is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(memory) as temporary:
            temporary.write_text(json.dumps({**known, **kept}))
    return {case: digest for case, (_, digest) in kept.items()}


def leaks(weights: Weights, hashes: Mapping[str, str]) -> list[str]:
    """A sentence about test cases that the weights saw; none where all is well.

    Args:
        weights: of any maker; files of others do not say what they saw.
        hashes: {test case: hash}.
    """
    seen = weights.provenance.get("data", {}).get("sources", {})
    if not seen:
        return [f"{weights.path} does not say which scans it saw, so that it cannot be checked against the test cases."]
    known = {digest: name for name, digest in seen.items()}
    found = [f"{case} as {known[digest]}" for case, digest in sorted(hashes.items()) if digest in known]
    if not found:
        return []
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return [
        f"{len(found)} of {len(hashes)} test cases were pretrained on by {weights.path}: "
        f"{', '.join(found[:_NAMED])}{more}."
    ]
