"""Label-free numbers against naive float64 loops and closed forms (methods/dino3d.md, sections 3.2 and 5)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nnssl.engine import health_metrics as metrics


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rankme_of_2048_independent_320_dimensional_vectors_is_313() -> None:
    assert float(metrics.rankme(drawn(2048, 320).float())) == pytest.approx(313, abs=1)


def test_rankme_of_rank_8_vectors_is_nearly_8() -> None:
    vectors = drawn(2048, 8) @ drawn(8, 320, seed=1)
    assert float(metrics.rankme(vectors)) == pytest.approx(7.96, abs=0.05)


def test_uncentred_rankme_sees_a_constant_where_the_centred_one_is_blind() -> None:
    vectors = 1.0 + 1e-4 * drawn(2048, 320)
    assert float(metrics.rankme(vectors)) < 1.3
    assert float(metrics.rankme(vectors - vectors.mean(0))) > 310


def test_rankme_equals_a_naive_loop() -> None:
    vectors = drawn(20, 6)
    singular = [math.sqrt(max(0.0, v)) for v in torch.linalg.eigvalsh(vectors.T @ vectors).tolist()]
    shares = [s / sum(singular) + 1e-7 for s in singular]
    assert float(metrics.rankme(vectors)) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)


def test_feature_std_is_one_for_even_directions_and_zero_for_a_constant() -> None:
    assert float(metrics.feature_std(drawn(4096, 64))) == pytest.approx(1.0, abs=0.01)
    assert float(metrics.feature_std(torch.ones(10, 64))) == pytest.approx(0.0, abs=1e-6)


def test_feature_std_is_the_root_of_one_minus_the_common_cosine() -> None:
    cosine = 0.993  # of an untrained encoder
    vectors = math.sqrt(cosine) * torch.nn.functional.normalize(drawn(1, 320), dim=1)
    vectors = vectors + math.sqrt((1 - cosine) / 320) * drawn(2000, 320, seed=1)
    assert float(metrics.feature_std(vectors)) == pytest.approx(math.sqrt(1 - cosine), rel=0.02)


def test_feature_std_equals_a_naive_loop() -> None:
    vectors = drawn(7, 3).tolist()
    unit = [[x / math.hypot(*row) for x in row] for row in vectors]
    deviations = []
    for axis in range(3):
        column = [row[axis] for row in unit]
        mean = sum(column) / 7
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / 6))
    expected = sum(deviations) / 3 * math.sqrt(3)
    assert float(metrics.feature_std(torch.tensor(vectors, dtype=torch.float64))) == pytest.approx(expected, rel=1e-12)


def test_retrieval_counts_the_boxes_that_find_themselves() -> None:
    first = torch.eye(4)
    second = torch.eye(4)[[0, 1, 3, 2]]
    assert float(metrics.retrieval_recall(first, second)) == 0.5


def test_cosine_gap_compares_pairs_with_strangers() -> None:
    first, second = drawn(5, 3), drawn(5, 3, seed=1)
    same: list[float] = []
    other: list[float] = []
    for i in range(5):
        for j in range(5):
            a, b = first[i], second[j]
            (same if i == j else other).append(float(a @ b / (a.norm() * b.norm())))
    expected = sum(same) / len(same) - sum(other) / len(other)
    assert float(metrics.cosine_gap(first, second)) == pytest.approx(expected, rel=1e-12)


def test_position_error_is_the_distance_to_the_most_similar_allowed_box() -> None:
    first = second = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    positions = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 12.0]])
    allowed = ~torch.eye(3, dtype=torch.bool)
    # 0 and 1 find each other (5 mm); 2 finds 1 (13 mm)
    assert float(metrics.position_error_mm(first, second, positions, allowed)) == pytest.approx((5 + 5 + 13) / 3)
    assert float(metrics.position_chance_mm(positions, allowed)) == pytest.approx((5 + 12 + 13) / 3)


def test_position_error_leaves_out_boxes_without_an_allowed_answer() -> None:
    vectors, positions = torch.eye(3), torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [9.0, 0, 0]])
    allowed = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    assert float(metrics.position_error_mm(vectors, vectors, positions, allowed)) == 2.0
    assert math.isnan(float(metrics.position_error_mm(vectors, vectors, positions, allowed & False)))


def test_correspondence_error_equals_a_naive_search() -> None:
    query, candidates = drawn(6, 4), drawn(9, 4, seed=1)
    query_mm, candidates_mm = 10 * drawn(6, 3, seed=2), 10 * drawn(9, 3, seed=3)
    expected = []
    for i in range(6):
        cosines = [float(query[i] @ c / (query[i].norm() * c.norm())) for c in candidates]
        expected.append(float((query_mm[i] - candidates_mm[cosines.index(max(cosines))]).norm()))
    found = metrics.correspondence_error_mm(query, candidates, query_mm, candidates_mm)
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("prototypes", [16, 4096])
def test_a_uniform_teacher_and_student_have_full_entropy_and_no_divergence(prototypes: int) -> None:
    uniform = torch.full((5, prototypes), 1 / prototypes)
    scalars = metrics.watch_scalars({"teacher_probs": uniform, "student_log_probs": uniform.log()})
    assert float(scalars["teacher_entropy"]) == pytest.approx(1.0, rel=1e-5)
    assert float(scalars["teacher_kl"]) == pytest.approx(0.0, abs=1e-4)
    assert float(scalars["prototype_use"]) == pytest.approx(1.0, rel=1e-4)


def test_a_point_teacher_has_no_entropy_and_uses_one_prototype() -> None:
    point = torch.zeros(5, 64)
    point[:, 3] = 1
    scalars = metrics.watch_scalars({"teacher_probs": point})
    assert float(scalars["teacher_entropy"]) == 0.0
    assert float(scalars["prototype_use"]) == pytest.approx(1 / 64)
    assert "teacher_kl" not in scalars


def test_sharp_but_varied_targets_use_many_prototypes() -> None:
    scalars = metrics.watch_scalars({"teacher_probs": torch.eye(8)})
    assert float(scalars["teacher_entropy"]) == 0.0
    assert float(scalars["prototype_use"]) == pytest.approx(1.0)


def test_the_kl_is_cross_entropy_minus_entropy() -> None:
    teacher, student = torch.softmax(drawn(4, 10), -1), torch.softmax(drawn(4, 10, seed=1), -1)
    expected = 0.0
    for i in range(4):
        for k in range(10):
            expected += float(teacher[i, k] * (teacher[i, k] / student[i, k]).log()) / 4
    scalars = metrics.watch_scalars({"teacher_probs": teacher, "student_log_probs": student.log()})
    assert float(scalars["teacher_kl"]) == pytest.approx(expected, rel=1e-9)


def test_entropy_of_random_unit_rows_matches_the_closed_form() -> None:
    """H0 = ln K - 1 / (2 b tau_t^2) for unit prototypes in b dimensions (dino3d.md, 3.2): 9.87 for K = 65536."""
    b, prototypes, temperature = 256, 65536, 0.04
    rows = torch.nn.functional.normalize(drawn(prototypes, b).float(), dim=1)
    logits = torch.nn.functional.normalize(drawn(8, b, seed=1).float(), dim=1) @ rows.T
    scalars = metrics.watch_scalars({"teacher_probs": torch.softmax(logits / temperature, -1)})
    expected = math.log(prototypes) - 1 / (2 * b * temperature**2)
    assert float(scalars["teacher_entropy"]) * math.log(prototypes) == pytest.approx(expected, abs=0.05)


def test_watch_scalars_carry_no_gradient_and_leave_out_what_is_not_watched() -> None:
    vectors = drawn(4, 8).requires_grad_()
    assert not metrics.watch_scalars({"vectors": vectors})["vector_std"].requires_grad
    assert metrics.watch_scalars({}) == {}
