"""Averages of outcomes and their uncertainty: micro and macro means, Wilson and bootstrap intervals.

All functions use every given value; the caller decides what to exclude.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist

import numpy as np

from tinyvid.evaluation.items import Outcome

CONFIDENCE = 0.95
RESAMPLES = 10_000


def graded(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of items that have an answer."""
    return [outcome for outcome in outcomes if outcome.value is not None]


def micro(outcomes: Sequence[Outcome]) -> float:
    """Return the mean value of the graded outcomes, or NaN without any. Failures count as 0."""
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    return sum(values) / len(values) if values else math.nan


def macro(outcomes: Sequence[Outcome], kind: str) -> float:
    """Return the mean of the groups' means for a kind of groups. Every group has the same weight."""
    groups = by_group(graded(outcomes), kind)
    return sum(map(micro, groups.values())) / len(groups) if groups else math.nan


def by_group(outcomes: Sequence[Outcome], kind: str) -> dict[str, list[Outcome]]:
    """Return the outcomes of each group of a kind, with groups in order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if kind in outcome.groups:
            groups.setdefault(outcome.groups[kind], []).append(outcome)
    return groups


def kinds_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the kinds of groups, in order of first appearance."""
    return list(dict.fromkeys(kind for outcome in outcomes for kind in outcome.groups))


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927), which is in [0, 1] and valid for small ``n``.

    Example:
        >>> [round(bound, 4) for bound in wilson(8, 10)]
        [0.4902, 0.9433]
    """
    if n == 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval of a mean: Wilson's if every value is 0 or 1, otherwise the bootstrap interval."""
    if all(value in (0, 1) for value in values):
        return wilson(sum(values), len(values))
    return bootstrap(values, range(len(values)))


def bootstrap(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the percentile interval of a mean by resampling whole clusters. The result is deterministic."""
    if len(values) == 0:
        return math.nan, math.nan
    low, high = np.quantile(_resampled(values, clusters), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_p(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Return the two-sided p-value of a mean of 0 by resampling whole clusters. The result is deterministic.

    It is twice the fraction of resampled means on the less frequent side of 0, with the observed mean counted once.
    """
    means = _resampled(values, clusters)
    fewer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(means) + 1))


def _resampled(values: Sequence[float], clusters: Sequence[Hashable]) -> np.ndarray:
    """Return the means of samples that draw as many clusters as there are, with replacement."""
    number = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    of = np.array([number[cluster] for cluster in clusters])
    sums = np.bincount(of, weights=np.asarray(values, dtype=float))
    counts = np.bincount(of)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES // 100):  # in chunks, to limit memory
        drawn = rng.integers(len(sums), size=(100, len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return np.concatenate(means)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Args:
        only_first: Number of items that only the first run answers correctly.
        only_second: Number of items that only the second run answers correctly.

    Example:
        >>> round(mcnemar(4, 12), 4)
        0.0768
    """
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def mean_points(outcomes: Sequence[Outcome]) -> Mapping[str, float]:
    """Return the mean of each mark of a judge, over the outcomes that have it."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.points)
    marks = {name: [o.points[name] for o in outcomes if name in o.points] for name in names}
    return {name: sum(given) / len(given) for name, given in marks.items()}
