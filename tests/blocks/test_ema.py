"""The teacher: exact, once per parameter, only by commit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nnssl.blocks.deferred import commit_all
from nnssl.blocks.ema import CosineMomentum, EMATeacher
from nnssl.testing_world import commit, small_networks


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.996), (250, 0.99658579), (500, 0.998), (750, 0.99941421), (999, 1.0)]
)
def test_cosine_momentum_has_the_published_values(step: int, expected: float) -> None:
    assert CosineMomentum(0.996)(step, 1000) == pytest.approx(expected, abs=1e-8 if step < 999 else 1e-7)
    assert CosineMomentum(0.996)(step, 1000) < 1


def test_a_teacher_remembers_no_more_than_its_share_of_a_short_run() -> None:
    bounded = CosineMomentum(0.996, memory=1 / 6)
    assert bounded(0, 300) == pytest.approx(1 - 1 / 50)
    assert bounded(150, 300) == pytest.approx(1 - 0.5 / 50)
    assert bounded(0, 4) == 0.0  # of a run of a few steps it takes all
    for total in (1500, 75_000):
        assert bounded(7, total) == pytest.approx(CosineMomentum(0.996)(7, total), abs=1e-15)


@pytest.mark.parametrize("residual", [False, True])
def test_every_aliased_parameter_moves_once_by_name(residual: bool) -> None:
    student = small_networks(residual=residual).unet()
    teacher = EMATeacher(student, momentum=CosineMomentum(0.9))
    before = {name: p.clone() for name, p in teacher.network.named_parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    teacher.commit(commit())
    for name, parameter in teacher.network.named_parameters():
        expected = 0.9 * before[name] + 0.1 * dict(student.named_parameters())[name]
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)


def test_dropped_step_changes_no_bit_even_if_the_student_is_not_finite() -> None:
    student = nn.Linear(3, 2)
    teacher = EMATeacher(student, momentum=CosineMomentum(0.5))
    before = copy.deepcopy(teacher.network.state_dict())
    student.weight.data.fill_(float("nan"))
    teacher.commit(commit(applied=False))
    assert all(torch.equal(before[name], value) for name, value in teacher.network.state_dict().items())


def test_teacher_gives_no_gradient_and_saves_the_student_only_once() -> None:
    student = nn.Linear(3, 2)
    teacher = EMATeacher(student, momentum=CosineMomentum(0.5))
    assert teacher(torch.randn(1, 3, requires_grad=True)).grad_fn is None
    assert list(teacher.state_dict()) == ["network.weight", "network.bias"]
    assert not any(p.requires_grad for p in teacher.parameters())


def test_copy_of_a_method_follows_its_own_student() -> None:
    holder = nn.Module()
    holder.student = nn.Linear(3, 2)
    holder.teacher = EMATeacher(holder.student, momentum=CosineMomentum(0.5))
    twin = copy.deepcopy(holder)
    twin.student.weight.data.fill_(7.0)
    commit_all(twin, commit())
    assert not torch.equal(twin.teacher.network.weight, holder.teacher.network.weight)
    torch.testing.assert_close(twin.teacher.network.weight, 0.5 * holder.teacher.network.weight + 3.5)


def test_dropout_of_a_plan_is_off_in_the_teacher_and_on_in_the_student() -> None:
    student = nn.Sequential(nn.Conv3d(1, 4, 1), nn.Dropout3d(0.5), nn.Dropout(0.5))
    teacher = EMATeacher(student, momentum=CosineMomentum(0.5)).train()
    image = torch.ones(2, 1, 4, 4, 4)
    assert torch.equal(teacher(image), teacher(image))
    assert not torch.equal(student(image), student(image))


@pytest.mark.parametrize("on_teacher", [True, False])
def test_teacher_and_student_agree_again_on_either_ones_values(on_teacher: bool) -> None:
    student = nn.Linear(3, 2)
    teacher = EMATeacher(student, momentum=CosineMomentum(0.9))
    with torch.no_grad():
        teacher.network.weight.fill_(5.0)
        student.weight.fill_(7.0)
    teacher.agree(on_teacher=on_teacher)
    expected = torch.full((2, 3), 5.0 if on_teacher else 7.0)
    assert torch.equal(student.weight, expected) and torch.equal(teacher.network.weight, expected)
