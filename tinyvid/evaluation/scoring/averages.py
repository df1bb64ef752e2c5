"""Averages of outcomes and how sure they are: micro and macro means, Wilson's and bootstrap intervals.

Every function takes the values as they stand; what is left out of a denominator is decided by who calls.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist

import numpy as np

from tinyvid.evaluation.items import Outcome

CONFIDENCE = 0.95
RESAMPLES = 10_000


def graded(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes whose benchmark states an answer."""
    return [outcome for outcome in outcomes if outcome.value is not None]


def micro(outcomes: Sequence[Outcome]) -> float:
    """Return the mean value over the graded outcomes; failures count 0, and of none it is NaN."""
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    return sum(values) / len(values) if values else math.nan


def macro(outcomes: Sequence[Outcome], kind: str) -> float:
    """Return the mean over the groups of a kind, each counted once whatever its size."""
    groups = by_group(graded(outcomes), kind)
    return sum(map(micro, groups.values())) / len(groups) if groups else math.nan


def by_group(outcomes: Sequence[Outcome], kind: str) -> dict[str, list[Outcome]]:
    """Return the outcomes of each group of a kind, groups in the order in which they come first."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if kind in outcome.groups:
            groups.setdefault(outcome.groups[kind], []).append(outcome)
    return groups


def kinds_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the kinds of groups, in the order in which they come first."""
    return list(dict.fromkeys(kind for outcome in outcomes for kind in outcome.groups))


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927), which stays in [0, 1] and is sane for small ``n``.

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
    """Return the interval of a mean: Wilson's where every value is 0 or 1, else the bootstrap's."""
    if all(value in (0, 1) for value in values):
        return wilson(sum(values), len(values))
    return bootstrap(values, range(len(values)))


def bootstrap(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the percentile interval of a mean; the same numbers every time.

    Whole clusters are resampled, because items of one video are not independent.
    """
    if len(values) == 0:
        return math.nan, math.nan
    number = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    of = np.array([number[cluster] for cluster in clusters])
    sums = np.bincount(of, weights=np.asarray(values, dtype=float))
    counts = np.bincount(of)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES // 100):  # in portions, for memory
        drawn = rng.integers(len(sums), size=(100, len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: of ``n`` disagreements, so many or more to one side.

    Example:
        >>> round(mcnemar(4, 12), 4)
        0.0768
    """
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def mean_points(outcomes: Sequence[Outcome]) -> Mapping[str, float]:
    """Return the mean of each mark that a judge gave, over the outcomes that have it."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.points)
    marks = {name: [o.points[name] for o in outcomes if name in o.points] for name in names}
    return {name: sum(given) / len(given) for name, given in marks.items()}
