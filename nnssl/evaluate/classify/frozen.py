"""Classifiers on frozen vectors: logistic regression and nearest neighbours, their one number chosen inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from nnssl.evaluate.classify.metrics import Floats, Ints, metrics
from nnssl.evaluate.classify.splits import inner_folds

Kind = Literal["linear", "knn"]
# In the order of preference where several do equally well: the simpler first.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of logistic regression: inverse weight of its penalty
NEIGHBOURS = (20, 10, 5, 3, 1)
_UNCHOSEN = {"linear": 1e-2, "knn": 3}  # too few subjects to choose by
MOST_ITERATIONS = 5000


def fit_predict(
    kind: Kind, vectors: Floats, labels: Ints, subjects: Sequence[str], wanted: Floats, *, folds: int, seed: int
) -> tuple[Floats, float]:
    """(m, K) probabilities of `wanted`, and the number that was chosen on the training part alone.

    Args:
        kind: "linear" or "knn".
        vectors: (n, d) to learn from.
        labels: (n,) index of the class, every one of 0 to K-1 among them.
        subjects: (n,); inner folds keep a subject's images together.
        wanted: (m, d).
        folds: inner folds at most.
        seed: of the inner folds.
    """
    chosen = choose(kind, vectors, labels, subjects, folds=folds, seed=seed)
    return _fitted(kind, chosen, vectors, labels)(wanted), chosen


def choose(kind: Kind, vectors: Floats, labels: Ints, subjects: Sequence[str], *, folds: int, seed: int) -> float:
    """The candidate with the highest AUC of pooled predictions of inner folds."""
    parts = inner_folds(labels, subjects, folds, seed=seed)
    if parts is None:
        return _UNCHOSEN[kind]
    fewest = min(len(train) for train, _ in parts)
    candidates = STRENGTHS if kind == "linear" else [k for k in NEIGHBOURS if k <= fewest]
    scores = {}
    for candidate in candidates:
        pooled = np.empty((len(labels), int(labels.max()) + 1))
        for train, left_out in parts:
            pooled[left_out] = _fitted(kind, candidate, vectors[train], labels[train])(vectors[left_out])
        scores[candidate] = round(metrics(pooled, labels)["auc"], 6)
    return max(scores, key=lambda candidate: scores[candidate])


def _fitted(kind: Kind, number: float, vectors: Floats, labels: Ints) -> Callable[[Floats], Floats]:
    """A function to probabilities. Vectors are standardised by the training part; neighbours are so by cosine."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    if kind == "linear":
        # classes weigh the same, however many images they have
        model: Any = LogisticRegression(C=number, class_weight="balanced", max_iter=MOST_ITERATIONS)
        pipeline = make_pipeline(StandardScaler(), model)
    else:
        model = KNeighborsClassifier(n_neighbors=min(int(number), len(labels)), weights="distance")
        pipeline = make_pipeline(StandardScaler(), Normalizer(), model)
    pipeline.fit(vectors, labels)
    predict: Callable[[Floats], Floats] = pipeline.predict_proba
    return predict
