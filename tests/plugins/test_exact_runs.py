"""DINO3D with everything on, CADS, Alice: two ranks equal one, and runs go on bit for bit where they were left."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from nnssl_alice.config import AliceConfig
from nnssl_alice.method import Alice
from nnssl_cads.method import CADS, CADSConfig
from nnssl_dino3d.config import DINO3DConfig
from nnssl_dino3d.method import DINO3D

from nnssl.encoders.factory import PlanNetworks
from nnssl.engine.distributed import free_port
from nnssl.engine.optim import Schedule
from nnssl.engine.recipe import Optimizer, PerTensor, Recipe
from nnssl.engine.step import StepRunner
from nnssl.method import Batch
from nnssl.testing_world import noise_batch, small_networks
from tests.engine.processes import CONTEXT, TIMEOUT
from tests.primus import tiny_networks

AnyConfig = DINO3DConfig | CADSConfig | AliceConfig
CONFIG = DINO3DConfig(
    prototypes=16, hidden=12, bottleneck=8, local_views=1, dense=0.5, koleo=0.1, teacher_momentum=0.9, frozen_epochs=1
)
ALICE = AliceConfig(
    prototypes=16, hidden=12, bottleneck=8, casa_width=8, most_queries=16, most_memory=32, teacher_momentum=0.9
)
CASES: dict[str, AnyConfig] = {
    "center": CONFIG,
    "sinkhorn": replace(CONFIG, targets="sinkhorn"),
    "primus": replace(CONFIG, network="primus_s", pooling="mean"),
    "cads": CADSConfig(prototypes=16, hidden=12, bottleneck=8, teacher_momentum=0.9),
    "alice": ALICE,
    "alice_code": replace(
        ALICE, casa="code", casa_target="decoder", casa_ema=False, casa_dropout=0.1, head_norm="none", body_only=False
    ),
}
STEPS, BATCH = 4, 8


def method_of(config: AnyConfig) -> type[DINO3D] | type[CADS] | type[Alice]:
    if isinstance(config, AliceConfig):
        return Alice
    return DINO3D if isinstance(config, DINO3DConfig) else CADS


def networks_for(config: AnyConfig) -> PlanNetworks:
    # CADS halves its views in plane, so they must be larger
    larger: dict[str, Any] = {"patch_size": (16, 32, 32), "case_shape": (32, 48, 48)}
    make = tiny_networks if isinstance(config, DINO3DConfig) else small_networks
    return make(batch_size=BATCH, **(larger if isinstance(config, CADSConfig) else {}))


def runner(config: AnyConfig, optimizer: str) -> StepRunner:
    """A runner with the same weights every time, in float64."""
    recipe = Recipe(
        epochs=2,
        steps_per_epoch=STEPS // 2,
        batch_size=BATCH,
        precision="fp64",
        optimizer=Optimizer(
            name="lars" if optimizer == "lars" else "sgd",
            lr=0.1,
            trust=0.1,
            warmup_epochs=0,
            weight_decay=0.04,
            weight_decay_end=0.4,
            clip=PerTensor(3.0),
        ),
        method=config,
    )
    method = method_of(config)(config, networks_for(config)).double().train()
    return StepRunner(method, recipe=recipe, schedule=Schedule(recipe), device=torch.device("cpu"))


def batch(config: AnyConfig, keys: range) -> Batch:
    networks, method = networks_for(config), method_of(config)
    spec = method.views(config, networks.plan, networks.data)
    needs = method.needs(config)
    return noise_batch(spec, networks, needs=needs, keys=list(keys), dtype=torch.float64)


def given(one: Batch, micro: int) -> Batch:
    return one


def run(config: AnyConfig, optimizer: str, *, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """The method's state and the losses after `STEPS` steps of this rank's part of every batch."""
    stepper, share, losses = runner(config, optimizer), BATCH // ranks, []
    for index in range(STEPS):
        first = index * BATCH + rank * share
        losses.append(stepper(index, partial(given, batch(config, range(first, first + share)))).losses["loss"])
    return {"losses": torch.stack(losses), "state": stepper.method.state_dict()}


def _rank_main(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2)
    for name, config in CASES.items():
        torch.save(run(config, "sgd", rank=rank, ranks=2), Path(folder) / f"{name}.{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    port = free_port()
    processes = [CONTEXT.Process(target=_rank_main, args=(rank, port, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    assert [process.exitcode for process in processes] == [0, 0]
    return folder


@pytest.mark.pipeline
@pytest.mark.parametrize("name", list(CASES))
def test_two_ranks_equal_one(two_ranks: Path, name: str) -> None:
    alone = run(CASES[name], "sgd")
    for rank in range(2):
        found = torch.load(two_ranks / f"{name}.{rank}.pt")
        torch.testing.assert_close(found["losses"], alone["losses"], rtol=0, atol=1e-9)
        assert found["state"].keys() == alone["state"].keys()
        for key, tensor in alone["state"].items():
            torch.testing.assert_close(found["state"][key], tensor, rtol=0, atol=1e-9, msg=key)
    assert alone["state"]["center.value"].any() == (name != "sinkhorn")


def test_micro_batches_equal_one_batch_where_samples_do_not_meet() -> None:
    config = replace(CONFIG, head_norm="none", koleo=0.0)
    stepper, whole = runner(config, "sgd"), runner(config, "sgd")
    stepper.recipe = replace(stepper.recipe, accumulate=2)
    for index in range(2):
        keys = range(index * BATCH, index * BATCH + BATCH)
        halves = [batch(config, keys[:4]), batch(config, keys[4:])]
        stepper(index, halves.__getitem__)
        whole(index, partial(given, batch(config, keys)))
    for name, tensor in whole.method.state_dict().items():
        torch.testing.assert_close(stepper.method.state_dict()[name], tensor, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("name", ["center", "cads"])
def test_the_teacher_is_the_moving_average_of_the_students_that_there_were(name: str) -> None:
    config = CASES[name]
    stepper = runner(config, "sgd")
    method: Any = stepper.method
    wanted = {n: p.detach().clone() for n, p in method.student.named_parameters()}
    for index in range(STEPS):
        stepper(index, partial(given, batch(config, range(index * BATCH, index * BATCH + BATCH))))
        m = method.teacher.momentum(index, STEPS)
        for n, p in method.student.named_parameters():
            wanted[n] = m * wanted[n] + (1 - m) * p.detach()
    for n, p in method.teacher.network.named_parameters():
        torch.testing.assert_close(p, wanted[n], rtol=0, atol=1e-12, msg=n)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("center", "sgd"), ("center", "lars"), ("primus", "sgd"), ("cads", "sgd"), ("alice_code", "sgd")],
)
def test_a_run_goes_on_bit_for_bit_where_it_was_left(name: str, optimizer: str) -> None:
    config = CASES[name]
    whole = run(config, optimizer)
    first = runner(config, optimizer)
    for index in range(2):
        first(index, partial(given, batch(config, range(index * BATCH, index * BATCH + BATCH))))
    torch.manual_seed(99)
    second = runner(config, optimizer)
    second.method.load_state_dict(copy.deepcopy(first.method.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    for index in range(2, STEPS):
        second(index, partial(given, batch(config, range(index * BATCH, index * BATCH + BATCH))))
    different = [key for key, t in second.method.state_dict().items() if not torch.equal(t, whole["state"][key])]
    assert not different
