"""The templates of docs/how-to/slurm do what they say, run under a SLURM of stubs (tests/fake_slurm.py)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from nnssl.data.index import read_index
from tests.engine.workspace import FOLDER, environment, losses, make_workspace, pretrain
from tests.fake_slurm import TEMPLATES, FakeSlurm

pytestmark = pytest.mark.pipeline  # whole commands in processes of their own

TINY = ("701", "3d_fullres", "-tr", "TinyTrainer", "-device", "cpu")
_STUB = """#!/bin/bash
echo "$RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE here, at $MASTER_ADDR:$MASTER_PORT: $*" >> {calls}
exit $(sed -n "$((${{SLURM_RESTART_COUNT:-0}} + 1))p" {codes})
"""


@pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.iterdir()))
def test_the_templates_are_whole_shell_scripts(template: str) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n", str(TEMPLATES / template)], check=True)
    text = (TEMPLATES / template).read_text()
    assert text.startswith("#!/bin/bash\n") and "set -euo pipefail" in text
    options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    first = next(number for number, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    assert options and all(text.splitlines().index(line) < first for line in options)  # sbatch stops looking there


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    """A cluster whose nnssl_pretrain notes how it was called and ends with the codes of a file, one a start."""
    made = FakeSlurm(tmp_path / "bin", {}, tmp_path / "clock")
    made.folder.mkdir()
    program = made.folder / "nnssl_pretrain"
    program.write_text(_STUB.format(calls=tmp_path / "calls", codes=tmp_path / "codes"))
    program.chmod(0o755)
    return made


def test_every_rank_of_every_node_finds_its_numbers(slurm: FakeSlurm, tmp_path: Path) -> None:
    (tmp_path / "codes").write_text("0\n")
    job = slurm.submit("pretrain.sbatch", *TINY, "--set", "a=1 2", tasks=4, nodes=2)
    assert job.codes == [0]
    numbers = [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert sorted((tmp_path / "calls").read_text().splitlines()) == [
        f"{rank} of 4, {local} of 2 here, at localhost:24711: {' '.join(TINY)} --set a=1 2" for rank, local in numbers
    ]


@pytest.mark.parametrize(
    ("codes", "script", "starts"),
    [
        (["138", "138", "0"], [0, 0, 0], 3),  # the time limit, twice
        (["1"], [1], 1),  # an error: not again and again
        (["143"], [143], 1),  # scancel
        (["138", "1"], [0, 1], 2),
    ],
)
def test_only_what_was_stopped_by_its_time_limit_is_requeued(
    slurm: FakeSlurm, tmp_path: Path, codes: list[str], script: list[int], starts: int
) -> None:
    (tmp_path / "codes").write_text("\n".join(codes) + "\n")
    assert slurm.submit("pretrain.sbatch", *TINY).codes == script
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.endswith(" --c") for call in calls] == [False] + [True] * (starts - 1)


@pytest.mark.pipeline
def test_a_requeued_run_ends_with_the_weights_of_one_that_was_left_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = make_workspace(tmp_path_factory.mktemp("slurm"))
    length = ("--set", "epochs=2", "steps_per_epoch=6", "save_every_minutes=60", "precision=fp64", "method.dropout=0")
    pretrain(root, "--name", "alone", "-num_gpus", "2", *length)
    folder = root / FOLDER / "fold_all--queued"
    cluster = FakeSlurm(root / "bin", environment(root), folder / "metrics.jsonl")
    job = cluster.submit("pretrain.sbatch", *TINY, "--name", "queued", *length, tasks=2, limits=(3,))
    assert job.codes == [0, 0], job.log
    assert job.log.count("Back into the queue") == 1
    assert losses(root, "queued") == losses(root, "alone") and len(losses(root, "alone")) == 12
    one, other = (
        torch.load(root / FOLDER / f"fold_all--{name}" / "checkpoint_final.pth", weights_only=True)["network_weights"]
        for name in ("alone", "queued")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.pipeline
def test_an_array_of_jobs_at_the_same_time_makes_what_one_makes(tiny_workspace: Path, tmp_path: Path) -> None:
    """Two parts at once in one folder, then the merging job: the cases and the index of a whole run."""
    roots = [Path(shutil.copytree(tiny_workspace, tmp_path / name)) for name in ("whole", "array")]
    home = Path("nnUNet_preprocessed") / "Dataset745_Tiny" / "nnsslPlans_3d_fullres"
    for root in roots:
        shutil.rmtree(root / home)
    whole, array = (FakeSlurm(root / "bin", _folders(root), root / "clock") for root in roots)
    last = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"}
    assert whole.submit("preprocess.sbatch", "-d", "745", **last).codes == [0]
    running = [
        array.start("preprocess.sbatch", "-d", "745", SLURM_ARRAY_TASK_ID=part, SLURM_ARRAY_TASK_COUNT="2")
        for part in ("1", "2")
    ]
    said = [job.communicate(timeout=240)[0] for job in running]
    assert [job.returncode for job in running] == [0, 0], said
    assert sorted(path.name for path in (roots[1] / home).glob("nnssl_index*")) == [
        "nnssl_index.part-1-of-2.json", "nnssl_index.part-2-of-2.json",
    ]  # fmt: skip
    assert read_index(roots[1] / home).entries.keys() == read_index(roots[0] / home).entries.keys()
    assert array.submit("preprocess.sbatch", "-d", "745", **last).codes == [0]
    files = [sorted(path.name for path in (root / home).iterdir()) for root in roots]
    assert files[0] == files[1]
    for name in files[0]:
        one, other = ((root / home / name).read_bytes() for root in roots)
        assert one == other, name


def _folders(root: Path) -> dict[str, str]:
    return {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
