"""`nnssl_ingest`: any folder of scans becomes an nnU-Net data set, with a report of what is wrong in it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nnssl.cli._common import apply_workspace, parser, run
from nnssl.errors import DataError, UsageError

PROG = "nnssl_ingest"
_FORMATS = ("auto", "folders", "dicom", "png", "bids", "nnunet", "list")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    return run(lambda: _ingest(arguments), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        PROG,
        "Makes a data set of nnUNet_raw from any scans: NIfTI, NRRD, MetaImage, MGZ, ITK-HDF5, DICOM series, PNG "
        "stacks, BIDS trees, task folders, CSV and JSON lists. Links files that fit and writes the others as NIfTI, "
        "without names of patients. Refuses what cannot be used, each with a named reason, and writes a report. Run "
        "again, it reads only what is new.",
        examples=(
            f"{PROG} scans -d 745 -n Thorax",
            f"{PROG} scans -d 745 -n Thorax --dry_run --report look      judge only, write nothing but the report",
            f"{PROG} clinic_a clinic_b -d 745 -n Thorax -np 8            several sources, one data set",
            f"{PROG} ct mr -d 745 746 -n Thorax Brain                    a data set for each source",
            f"{PROG} bids -d 745 -n Brain --channels T1w T2w FLAIR         one case a session, with three channels",
            f"{PROG} scans.csv -d 745 -n Thorax --accept label_map duplicate",
            f"{PROG} scans -d 745 -n Thorax --exclude 'phantoms' '*/patient 07/*' --accept ct_not_hu='A1/S0001'",
        ),
    )
    add = made.add_argument
    add("sources", nargs="+", metavar="SRC", help="folders, files, CSV (path, subject, ..) or JSON lists")
    add("-d", nargs="+", type=int, required=True, metavar="ID", help="id of the data set; or one for each source")
    add("-n", nargs="+", required=True, metavar="NAME", help="its name: Thorax makes Dataset745_Thorax")
    add("--copy", action="store_true", help="write every file anew, link none")
    add("--dry_run", action="store_true", help="read and judge, write no data set")
    add("--report", metavar="DIR", help="folder for report.html and report.json (default: ingest in the data set)")
    add(
        "--accept",
        nargs="+",
        default=[],
        metavar="REASON[=PATTERN]",
        help="take scans all the same that were refused as REASON; with =PATTERN only those whose path fits",
    )
    add(
        "--exclude",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="leave out scans whose path below the source, or that of a folder above them, fits (in quotes: '*_seg*')",
    )
    add("--format", default="auto", choices=_FORMATS, help="look for this layout only (default auto: all)")
    add(
        "--channels",
        nargs="+",
        default=[],
        metavar="NAME",
        help="one: what every scan is (CT). Several: scans of one subject and session become channels of one case, "
        "in this order (T1w T2w FLAIR); without it each file is a case",
    )
    add(
        "--hide_names",
        action="store_true",
        help="folders are called like patients: write pseudonyms, no names of files",
    )
    add("-np", type=int, default=2, metavar="N", help="scans read at a time (default 2)")
    return made


def _ingest(arguments: argparse.Namespace) -> int:
    names = _datasets(arguments)
    apply_workspace(arguments, make=not arguments.dry_run)
    from nnssl.ingest.patterns import checked_accept
    from nnssl.ingest.report import HTML, summary
    from nnssl.ingest.run import Request, check_sources, ingest
    from nnssl.paths import folders

    raw = folders().raw
    accepted = checked_accept(arguments.accept)
    sources = [Path(source) for source in arguments.sources]
    empty = []
    for number, name in enumerate(names):
        own = sources if len(names) == 1 else [sources[number]]
        check_sources(own, raw / name)
        _check_free(raw, name)
        report = Path(arguments.report) if arguments.report else None
        request = Request(
            sources=own,
            folder=raw / name,
            form=arguments.format,
            channels=tuple(arguments.channels),
            accepted=accepted,
            excluded=tuple(arguments.exclude),
            copy=arguments.copy,
            dry_run=arguments.dry_run,
            hide_names=arguments.hide_names,
            report=report / name if report and len(names) > 1 else report,
            workers=arguments.np,
        )
        outcome = ingest(request, _say)
        _say("\n".join(summary(name, outcome)))
        if outcome.report is not None:
            _say(f"Report: {outcome.report / HTML}")
        if not outcome.taken:
            empty.append(name)
    if empty:
        raise DataError(f"No scan could be taken into {', '.join(empty)}; the reasons are above.")
    _say("Nothing was written (--dry_run)." if arguments.dry_run else _next(arguments))
    return 0


def _datasets(arguments: argparse.Namespace) -> list[str]:
    """ "Dataset745_Thorax", for each data set."""
    if len(arguments.d) != len(arguments.n) or len(arguments.d) not in (1, len(arguments.sources)):
        raise UsageError(
            f"-d and -n take one id and one name for all sources together, or one for each of the "
            f"{len(arguments.sources)} sources; found {len(arguments.d)} ids and {len(arguments.n)} names."
        )
    if arguments.np < 1:
        raise UsageError(f"-np must be at least 1; it is {arguments.np}.")
    if len({*arguments.d}) != len(arguments.d) or min(arguments.d) < 1:
        raise UsageError(f"-d takes ids of 1 and more, each once; found {' '.join(map(str, arguments.d))}.")
    for name in arguments.n:
        if not _NAME.fullmatch(name):
            raise UsageError(f"-n takes letters, digits, _ and -, not {name!r}; Thorax makes DatasetXXX_Thorax.")
    return [f"Dataset{number:03d}_{name}" for number, name in zip(arguments.d, arguments.n, strict=True)]


def _check_free(raw: Path, name: str) -> None:
    number = name.split("_", 1)[0]
    others = [each.name for each in raw.glob(f"{number}_*") if each.name != name] if raw.is_dir() else []
    if others:
        raise UsageError(f"The id of {name} belongs to {others[0]} in {raw}. Choose another -d, or the same -n.")


def _next(arguments: argparse.Namespace) -> str:
    workspace = f" --workspace {arguments.workspace}" if arguments.workspace else ""
    return f"Next: nnssl_plan_and_preprocess -d {' '.join(map(str, arguments.d))}{workspace}"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
