"""`nnssl_trainers`: every trainer found, where it lives, its paper."""

from __future__ import annotations

from collections.abc import Sequence

from nnssl.cli import _common

PROG = "nnssl_trainers"


def main(argv: Sequence[str] | None = None) -> int:
    """List trainers; exit code 1 when one of them cannot be used."""
    parser = _common.parser(
        PROG,
        "List every trainer that -tr accepts: its name, where it lives and its paper. Looks at installed plugins and "
        "at the folders in nnssl_extTrainer; imports none of them.",
        examples=["nnssl_trainers", "nnssl_extTrainer=~/my_trainers nnssl_trainers"],
        workspace=False,
    )
    parser.parse_args(argv)
    return _common.run(_list, prog=PROG)


def _list() -> int:
    from nnssl.registry import trainers

    found = trainers()
    if not found:
        print("No trainer was found; install a plugin or set nnssl_extTrainer.")
        return 1
    for trainer in found:
        print(trainer.name)
        print(f"    {trainer.where}")
        if trainer.paper:
            print(f"    {trainer.paper}")
        if trainer.problem:
            print(f"    cannot be used: {trainer.problem}")
    return 1 if any(trainer.problem for trainer in found) else 0
