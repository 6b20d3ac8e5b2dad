"""How often intervals hold the truth, tests err, and detectable differences are found.

Simulated evaluations of a known truth, more of them and of more shapes than the tests have time
for: shares, samples of each problem, problems of one passage, documents, paired differences. Every
interval is meant to hold the truth 95 times in 100, every test to err at most 5 times, and every
detectable difference to be found 80 times. Beside ours: plain percentiles, BCa, and intervals that
do not know of samples or passages.

    python bench/intervals.py                  # 4,000 evaluations a line
    python bench/intervals.py --rounds 400 --seed 7
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from scipy import stats

from posttrain.evaluation.statistics import (
    bootstrap_interval,
    compare_values,
    detectable_difference,
    estimate_ratio,
    estimate_share,
    wilson_interval,
)
from posttrain.evaluation.statistics.intervals import sum_clusters
from posttrain.evaluation.statistics.paired import flip_signs, mcnemar_exact, newcombe_interval

Bounds = tuple[float, float]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def holds(interval: Bounds, truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def measure(rounds: int, once: Callable[[], dict[str, bool]]) -> dict[str, float]:
    """Share of the rounds in which each thing is so."""
    found = defaultdict(list)
    for _ in range(rounds):
        for name, so in once().items():
            found[name].append(so)
    return {name: float(np.mean(marks)) for name, marks in found.items()}


def show(title: str, found: dict[str, float]) -> None:
    cells = "; ".join(f"{name} {100 * share:.1f} %" for name, share in found.items())
    print(f"{title}: {cells}", flush=True)


def cover_shares(draw, rounds: int) -> None:
    for total in (30, 200, 1319):
        for truth in (0.05, 0.5, 0.9):
            rights = draw.binomial(total, truth, size=rounds)
            wilson = np.mean([holds(wilson_interval(int(n), total), truth) for n in rights])
            show(f"share {truth} of {total} problems", {"Wilson": float(wilson)})


def cover_samples(draw, rounds: int) -> None:
    for problems, samples in ((30, 4), (200, 8), (200, 64)):
        truth = 1.5 / 2.2

        def once(problems=problems, samples=samples, truth=truth) -> dict[str, bool]:
            values = draw.binomial(samples, draw.beta(1.5, 0.7, size=problems)) / samples
            found = estimate_share(values.tolist(), samples=problems * samples).interval
            blind = wilson_interval(round(values.sum() * samples), problems * samples)
            return {"ours": holds(found, truth), "blind Wilson": holds(blind, truth)}

        show(f"{problems} problems x {samples} samples", measure(rounds, once))


def cover_clusters(draw, rounds: int) -> None:
    for clusters, offset in ((12, 0.8), (40, 0.8), (40, 3.0), (200, 0.8)):
        truth = float(np.mean(sigmoid(offset + draw.normal(scale=1.2, size=2_000_000))))

        def once(clusters=clusters, offset=offset, truth=truth) -> dict[str, bool]:
            names = np.repeat(np.arange(clusters), draw.integers(1, 8, size=clusters))
            chance = sigmoid(offset + draw.normal(scale=1.2, size=clusters))
            values = (draw.random(len(names)) < chance[names]).astype(float)
            found = estimate_share(values.tolist(), clusters=names.tolist()).interval
            totals, sizes = sum_clusters(values.tolist(), names.tolist())
            plain = estimate_ratio(totals, sizes).interval
            return {
                "ours": holds(found, truth),
                "t by cluster": holds(plain, truth),
                "bootstrap": holds(bootstrap_interval(totals, sizes, draws=2000), truth),
                "blind Wilson": holds(wilson_interval(int(values.sum()), len(values)), truth),
            }

        show(f"{clusters} passages, {100 * truth:.0f} % right", measure(rounds, once))


def cover_differences(draw, rounds: int) -> None:
    for total, (both, wins, losses) in (
        (100, (0.5, 0.1, 0.1)),
        (100, (0.9, 0.02, 0.01)),
        (1319, (0.5, 0.12, 0.09)),
    ):

        def once(total=total, both=both, wins=wins, losses=losses) -> dict[str, bool]:
            table = draw.multinomial(total, [both, wins, losses, 1 - both - wins - losses])
            b, w, n = map(int, table[:3])
            marks = [1] * w + [-1] * n + [0] * (total - w - n)
            drawn = bootstrap_interval(marks, [1] * total, draws=2000)
            truth = wins - losses
            return {
                "Newcombe": holds(newcombe_interval(b, w, n, total), truth),
                "bootstrap": holds(drawn, truth),
            }

        show(f"paired, {total} problems, {wins} against {losses} alone", measure(rounds, once))


def cover_means(draw, rounds: int) -> None:
    """Skewed differences: what expanded percentiles do against others' bootstraps."""
    for clusters in (12, 40, 200):

        def once(clusters=clusters) -> dict[str, bool]:
            values = draw.exponential(size=clusters) * draw.choice([1, 1, -0.5], size=clusters)
            ones, truth = np.ones(clusters), 0.5
            marks = {"ours": bootstrap_interval(values, ones, draws=2000)}
            for name in ("percentile", "BCa"):
                found = stats.bootstrap(
                    (values,), np.mean, method=name, n_resamples=999, rng=draw, vectorized=True
                ).confidence_interval
                marks[name] = (found.low, found.high)
            return {name: holds(interval, truth) for name, interval in marks.items()}

        show(f"skewed differences of {clusters} clusters", measure(rounds, once))


def cover_texts(draw, rounds: int) -> None:
    for documents in (5, 30, 200):

        def once(documents=documents) -> dict[str, bool]:
            sizes = draw.lognormal(4, 0.6, size=documents)
            totals = sizes * draw.normal(2.0, 0.4, size=documents)
            found = estimate_ratio(totals.tolist(), sizes.tolist()).interval
            drawn = bootstrap_interval(totals, sizes, draws=2000)
            return {"t": holds(found, 2.0), "bootstrap": holds(drawn, 2.0)}

        show(f"nats per token of {documents} documents", measure(rounds, once))


def draw_sides(draw, clusters: int, members: int, samples: int, shift: float):
    """Two models' shares of right samples; problems of a cluster are alike to each of them."""
    common, own = draw.normal(size=(clusters, 1)), draw.normal(size=(clusters, members))
    taste = draw.normal(scale=0.7, size=(2, clusters, 1))
    shares = sigmoid(common + own + taste + np.array([shift, 0.0])[:, None, None])
    return draw.binomial(samples, shares) / samples


def err(draw, rounds: int) -> None:
    for uneven in (8, 30, 300):
        wins = draw.binomial(uneven, 0.5, size=rounds)
        wrong = np.mean([mcnemar_exact(int(w), uneven - int(w)) < 0.05 for w in wins])
        show(f"errors, {uneven} problems of one side alone", {"exact McNemar": float(wrong)})
    for clusters, members, samples in ((10, 5, 1), (40, 5, 1), (40, 5, 8), (200, 1, 8)):

        def once(clusters=clusters, members=members, samples=samples) -> dict[str, bool]:
            first, second = draw_sides(draw, clusters, members, samples, 0.0)
            marks = {"signs flipped": flip_signs((first - second).sum(axis=1)) < 0.05}
            if samples == 1:
                wins, losses = int((first > second).sum()), int((first < second).sum())
                marks["blind McNemar"] = mcnemar_exact(wins, losses) < 0.05
            return marks

        title = f"errors, {clusters} clusters x {members} problems x {samples} samples"
        show(title, measure(rounds, once))


def find(draw, rounds: int) -> None:
    for total, discordance in ((50, 0.4), (200, 0.0), (500, 0.1), (1319, 0.2)):
        size = detectable_difference(total, discordance)
        apart = max(discordance, size)
        wins = (apart + size) / 2
        tables = draw.multinomial(total, [wins, apart - wins, 1 - apart], size=rounds)
        found = np.mean([mcnemar_exact(int(w), int(n)) < 0.05 for w, n, _ in tables])
        title = f"found, {100 * size:.1f} points on {total} problems, {discordance} discordant"
        show(title, {"exact McNemar": float(found)})
    for clusters in (15, 60):
        names = [str(n // 4) for n in range(4 * clusters)]

        def draw_once(shift: float, clusters=clusters):
            common = draw.normal(scale=0.2, size=(clusters, 1))
            return shift + common + draw.normal(scale=0.3, size=(clusters, 4))

        sizes = [
            compare_values(draw_once(0).ravel(), [0.0] * len(names), clusters=names).detectable
            for _ in range(100)
        ]
        shift = float(np.mean(sizes))
        found = [flip_signs(draw_once(shift).sum(axis=1)) < 0.05 for _ in range(rounds)]
        show(f"found, {clusters} clusters", {"signs flipped": float(np.mean(found))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = np.random.default_rng(options.seed)
    print(f"{options.rounds} evaluations a line, seed {options.seed}")
    parts = (cover_shares, cover_samples, cover_clusters, cover_differences, cover_means)
    for part in (*parts, cover_texts, err, find):
        part(draw, options.rounds)


if __name__ == "__main__":
    main()
