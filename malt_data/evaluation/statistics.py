"""Intervals, tests and corrections on plain arrays. Clusters are the unit that is drawn.

Questions made from one template are right or wrong together, and so are the seeds of one
question: counted one by one they make chance look like an effect. So everything here works on
sums over clusters. A question without a template is a cluster of its own.

>>> low, high = interval([[2.0, 1.0, 2.0, 0.0]], [[2.0, 2.0, 2.0, 2.0]])
>>> round(low, 2), round(high, 2)
(0.12, 0.95)
>>> holm([0.01, 0.04, 0.03])
[0.03, 0.06, 0.06]
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 10_000
_EXACT = 13  # clusters: 2^13 sign patterns are fewer than RESAMPLES
_AT_ONCE = 2**20  # signs in memory


def interval(right: npt.ArrayLike, asked: npt.ArrayLike) -> tuple[float, float]:
    """Return the 95 % interval of the share sum(right) / sum(asked).

    right, asked: a row a team and a column a cluster: how many answers were right, and of how
    many. One team makes one row; a cell that was not asked is 0 in both.

    The interval is Wilson's, with the number of answers replaced by the effective one (how many
    independent answers would vary as much as these clusters, and these teams, do; never more than
    there were) and the normal quantile by Student's. In simulations with 20 clusters it covers
    93 to 97 % where the share is not extreme (tests/evaluation/test_statistics.py); a percentile
    bootstrap covers 90 to 93 %. Where all answers are right, or all wrong, it is the interval of
    Clopper and Pearson for as many answers as there are clusters: one cluster tells one thing.
    A single cluster says nothing about others: (0, 1), unless its share is 0 or 1.

    Several teams: teams and clusters are both taken as drawn, so that the interval is about
    further teams trained in the same way, on further questions (see `_spread`).
    """
    ours, counts = np.atleast_2d(right).astype(float), np.atleast_2d(asked).astype(float)
    total, clusters = counts.sum(), ours.shape[1]
    mean = ours.sum() / total
    if mean in (0, 1):
        bound = ((1 - LEVEL) / 2) ** (1 / clusters)
        return (0.0, float(1 - bound)) if mean == 0 else (float(bound), 1.0)
    if clusters == 1:
        return 0.0, 1.0
    variance, freedom = _spread(ours, counts)
    quantile = _student(freedom)
    size = mean * (1 - mean) / max(variance, mean * (1 - mean) / total)
    scale = 1 + quantile**2 / size
    centre = (mean + quantile**2 / (2 * size)) / scale
    half = quantile / scale * np.sqrt(mean * (1 - mean) / size + (quantile / (2 * size)) ** 2)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def paired_test(differences: npt.ArrayLike, asked: npt.ArrayLike, seed: int = 0) -> float:
    """Return the two-sided p of "no difference" from paired answers.

    differences, asked: a row a team and a column a cluster: right answers of one setting less
    those of the other, and how many pairs of answers that is of.

    One team: a sign-flip permutation over clusters. Several: a t-test of the mean over teams and
    clusters with the two-way variance of `_spread`, and never less than what flipping the
    clusters' signs gives. It rests on team effects that are about normal, and with T teams on
    little more than T - 1 degrees of freedom: two or three teams find only differences that are
    large beside what lies between teams.
    """
    ours, counts = np.atleast_2d(differences).astype(float), np.atleast_2d(asked).astype(float)
    flipped = sign_flip(ours.sum(axis=0), seed)
    if len(ours) == 1 or ours.shape[1] == 1:
        return flipped
    from scipy.special import stdtr

    variance, freedom = _spread(ours, counts)
    if variance == 0:
        return flipped
    t = abs(ours.sum() / counts.sum()) / np.sqrt(variance)
    return max(flipped, float(2 * stdtr(freedom, -t)))


def sign_flip(differences: npt.ArrayLike, seed: int = 0) -> float:
    """Return the two-sided p of a paired permutation test: each cluster's sign is flipped.

    differences: one sum a cluster. Rests on nothing but that, without a difference, a cluster's
    sum is as likely to be positive as negative. All patterns of signs are counted where at most
    13 clusters differ, and 10,000 drawn ones otherwise.
    """
    values = np.asarray(differences, float)
    values = values[values != 0]  # their signs change nothing
    observed = abs(values.sum()) - 1e-9
    if len(values) <= _EXACT:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float((np.abs((2 * patterns - 1) @ values) >= observed).mean())
    source = np.random.default_rng(seed)
    beyond = 0
    for start in range(0, RESAMPLES, rows := max(1, _AT_ONCE // len(values))):
        shape = min(rows, RESAMPLES - start), len(values)
        sums = 2 * source.integers(0, 2, shape, np.int8).astype(float) @ values - values.sum()
        beyond += int((np.abs(sums) >= observed).sum())
    return (beyond + 1) / (RESAMPLES + 1)


def holm(found: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p of several tests, in the order given.

    Rejecting where it is below 0.05 makes one false rejection or more among all the tests in at
    most 5 % of such families, whatever their dependence (Holm 1979).
    """
    adjusted = [0.0] * len(found)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(found)), key=found.__getitem__)):
        least = max(least, min(1.0, (len(found) - rank) * found[place]))
        adjusted[place] = least
    return adjusted


def _spread(values: npt.NDArray[np.float64], asked: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the variance of the ratio sum(values) / sum(asked), and its degrees of freedom.

    Deviations from the ratio stand for the cells (the delta method). One team: the variance
    between clusters, with clusters - 1. Several: a crossed layout with random teams and clusters,
    Var = (MS_team + MS_cluster - MS_rest) / cells, unbiased where every cell is asked alike
    (Cornfield and Tukey 1956), with Satterthwaite's degrees of freedom; never less than what
    teams alone or clusters alone give.
    """
    teams, clusters = values.shape
    cells = (values - values.sum() / asked.sum() * asked) * (values.size / asked.sum())
    if teams == 1:
        return float(cells.var(ddof=1) / clusters), clusters - 1
    rows, columns = cells.mean(axis=1), cells.mean(axis=0)
    rest = cells - rows[:, None] - columns
    freedoms = np.array([teams - 1, clusters - 1, (teams - 1) * (clusters - 1)])
    sums = np.array([clusters * (rows**2).sum(), teams * (columns**2).sum(), (rest**2).sum()])
    parts = sums / freedoms / values.size
    variance = parts[0] + parts[1] - parts[2]
    larger = int(parts[1] > parts[0])
    if variance <= parts[larger]:
        return float(parts[larger]), float(freedoms[larger])
    return float(variance), float(variance**2 / (parts**2 / freedoms).sum())


def _student(freedom: float) -> float:
    """Return the quantile of Student's t that leaves half of 1 - LEVEL above it."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
