"""`nnssl_match`: the same anatomy in other scans."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.cli._common import apply_workspace, check_plans_name, parser, run
from nnssl.errors import UsageError

if TYPE_CHECKING:
    from nnssl.match.matcher import Matcher

PROG = "nnssl_match"
CSV_FILE, PICTURE = "matches.csv", "matches.png"
_MATCHERS = ("auto", "sam", "affine", "body", "self")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = command_parser().parse_args(argv)
    return run(partial(_match, arguments), prog=PROG)


def command_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    made = parser(
        PROG,
        "Finds for points of one case the same anatomy in others, and writes matches.csv (mm in LPS, score, cycle "
        "error) and matches.png. With --table it matches body points of all cases with each other and writes the table "
        "that AliceTrainer reads. Scans are taken from nnUNet_raw.",
        examples=(
            "nnssl_match checkpoint_final.pth -d 745 --case A --points 12.5,-40,310 -8,-35.2,290 --in B C",
            "nnssl_match -d 745 --matcher affine --case A --points_csv points.csv    # no network; to all cases",
            "nnssl_match checkpoint_final.pth -d 745 --case A --points 120,88,40 --voxels",
            "nnssl_match checkpoint_final.pth --table -d 745    # into the preprocessed folder, as matches.csv",
            "nnssl_match -d 745 --table --matcher body -o table.csv",
        ),
    )
    # points may begin with a minus; argparse takes for numbers what this pattern matches
    made._negative_number_matcher = re.compile(r"^-[\d.][\d.,eE+-]*$")
    add = made.add_argument
    add("weights", nargs="?", metavar="CKPT", help="checkpoint_final.pth of AnatEmbedTrainer, for the matcher sam")
    add("-d", dest="dataset", required=True, metavar="ID", help="data set in nnUNet_raw: number or name")
    add(
        "--matcher",
        choices=_MATCHERS,
        default="auto",
        help="auto: sam with CKPT, else affine, or body where that fails",
    )
    add("--case", metavar="A", help="the case whose points they are")
    add("--points", nargs="+", default=[], metavar="X,Y,Z", help="mm in LPS, as SimpleITK gives them")
    add("--points_csv", metavar="FILE", help="the same from a CSV with the columns x,y,z")
    add("--voxels", action="store_true", help="points are voxel indices i,j,k of the file, from 0")
    add("--in", dest="others", nargs="+", metavar="B", help="where to look (default: all other cases)")
    add("-o", dest="output", metavar="PATH", help="folder (default nnssl_match); with --table the CSV file to write")
    add("--table", action="store_true", help="write a match table of the whole data set")
    add("-p", dest="plans", default="nnsslPlans", metavar="PLANS", help="plans whose folder gets the table")
    add("-c", dest="configuration", default="3d_fullres", metavar="CONFIG", help="and their configuration")
    add("--partners", type=int, default=8, metavar="N", help="other cases for every case of a table (default 8)")
    add("--per_pair", type=int, default=64, metavar="N", help="body points tried for every pair (default 64)")
    add("--least_score", type=float, metavar="S", help="leave out rows below it (default: the least sure of sam)")
    add("--most_cycle_mm", type=float, default=10.0, metavar="MM", help="leave out rows with more (default 10)")
    add("--seed", type=int, default=0, metavar="N", help="of the choice of partners and points (default 0)")
    add("-device", default="cpu", metavar="DEVICE", help="where embeddings are made: cpu (default), cuda, mps")
    return made


def _match(arguments: argparse.Namespace) -> None:
    _check(arguments)
    apply_workspace(arguments)
    from nnssl.match.choose import make_matcher

    matcher = make_matcher(arguments.matcher, arguments.weights, device=arguments.device)
    if arguments.table:
        from nnssl import paths
        from nnssl.data.tables import write_matches
        from nnssl.match.cases import dataset_cases
        from nnssl.match.table import TableSettings, make_table

        settings = TableSettings(
            partners=arguments.partners,
            points=arguments.per_pair,
            least_score=arguments.least_score,
            most_cycle_mm=arguments.most_cycle_mm,
            seed=arguments.seed,
        )
        where = paths.folders()
        name = paths.dataset(arguments.dataset, where=where)
        file, only = _table_file(arguments, where.preprocessed / name)
        write_matches(file, make_table(matcher, dataset_cases(name, where, only), settings, say=_say))
        _say(f"Wrote {file}")
        return
    _points(arguments, matcher)


def _points(arguments: argparse.Namespace, matcher: Matcher) -> None:
    """Points of one case to others."""
    from nnssl import paths
    from nnssl.data.tables import write_matches
    from nnssl.match.cases import dataset_cases
    from nnssl.match.draw import draw_matches
    from nnssl.match.points import from_voxels, match_points, parse_points, read_points

    where = paths.folders()
    name = paths.dataset(arguments.dataset, where=where)
    everyone = dataset_cases(name, where)
    (case,) = dataset_cases(name, where, [arguments.case])
    others = [one for one in everyone if one.case_id != case.case_id]
    if arguments.others:
        others = dataset_cases(name, where, list(dict.fromkeys(arguments.others)))
    if not others:
        raise UsageError(f"{name} holds no case but {case.case_id}; name it with --in to match it with itself.")
    points = read_points(Path(arguments.points_csv)) if arguments.points_csv else parse_points(arguments.points)
    if arguments.voxels:
        points = from_voxels(case, points)
    matcher.prepare([case, *others])
    rows = match_points(matcher, case, points, others)
    folder = Path(arguments.output or "nnssl_match")
    folder.mkdir(parents=True, exist_ok=True)
    write_matches(folder / CSV_FILE, rows)
    for row in rows:
        a, b = (" ".join(f"{x:8.1f}" for x in point) for point in (row.point_a_mm, row.point_b_mm))
        cycle = "none" if row.cycle_mm is None else f"{row.cycle_mm:.1f} mm"
        _say(f"{row.case_a} {a}  ->  {row.case_b} {b}   score {row.score:.3f}, cycle error {cycle}")
    lacking = len(points) * len(others) - len(rows)
    if lacking:
        _say(f"{lacking} of {len(points) * len(others)} have no match: the two scans do not show the same there.")
    if rows:
        draw_matches(folder / PICTURE, rows, {one.case_id: one for one in [case, *others]})
    _say(f"Wrote {folder / CSV_FILE}" + (f" and {folder / PICTURE}" if rows else ""))


def _check(arguments: argparse.Namespace) -> None:
    check_plans_name(arguments.plans)
    if arguments.table:
        if arguments.case or arguments.points or arguments.points_csv or arguments.others or arguments.voxels:
            raise UsageError(
                "--table matches all cases; --case, --points, --points_csv, --in and --voxels go without it."
            )
        return
    if not arguments.case:
        raise UsageError("Name the case whose points they are with --case, or make a table of all cases with --table.")
    if bool(arguments.points) == bool(arguments.points_csv):
        raise UsageError("Give points with --points X,Y,Z .. or with --points_csv FILE, one of the two.")


def _table_file(arguments: argparse.Namespace, folder: Path) -> tuple[Path, list[str] | None]:
    """Where the table goes, checked before the work, and the cases it may name; None: all."""
    if arguments.output:
        file = Path(arguments.output)
        file.parent.mkdir(parents=True, exist_ok=True)
        return file, None
    target = folder / f"{arguments.plans}_{arguments.configuration}"
    if not target.is_dir():
        raise UsageError(
            f"{target} is not there. Preprocess first, name the plans with -p and -c, or write elsewhere with -o FILE."
        )
    from nnssl.data.index import stored_index
    from nnssl.data.tables import table_file
    from nnssl.needs import MatchedPoints

    index = stored_index(target)  # training refuses rows of cases that preprocessing left out
    return table_file(target, MatchedPoints), sorted(index.entries) if index else None


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
