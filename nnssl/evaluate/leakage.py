"""Was a test scan pretrained on? Weights files hold a hash of every scan they saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnssl.errors import DataError
from nnssl.export.read import read_weights
from nnssl.paths import Folders
from nnssl.planning.cases import read_raw_dataset
from nnssl.planning.reading import read_image


def scan_hashes(dataset: str, cases: Sequence[str], reader: str, where: Folders) -> dict[str, str]:
    """{case: hash of its scan's content}, as the pretraining's preprocessing takes it.

    Raises:
        DataError: the raw data set or one of the cases is not there.
    """
    found = {case.case_id: case.files for case in read_raw_dataset(dataset, where).cases}
    absent = [case for case in cases if case not in found]
    if absent:
        raise DataError(f"The scan of test case {absent[0]} of {dataset} is not in {where.raw / dataset}.")
    return {case: read_image(found[case], reader).source_hash for case in cases}


def leaks(weights: Path, hashes: dict[str, str]) -> list[str]:
    """Sentences about test cases that the weights saw; none where all is well.

    Args:
        weights: a file of nnssl_pretrain.
        hashes: {test case: hash}.
    """
    seen = read_weights(weights).provenance.get("data", {}).get("sources", {})
    if not seen:
        return [f"{weights} does not say which scans it saw, so that it cannot be checked against the test cases."]
    known = {digest: name for name, digest in seen.items()}
    return [
        f"Test case {case} was pretrained on as {known[digest]} ({weights})."
        for case, digest in sorted(hashes.items())
        if digest in known
    ]
