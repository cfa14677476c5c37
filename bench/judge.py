"""How fast the judge sees what is wrong, and how often it is wrong itself: `python -m bench.judge`, seeded.

Every figure goes through the product's own classes. Only errors, pairs and scores move the evidence, so that
requests between errors are not drawn one by one but counted: an hour at 100 requests/s is some thousand steps.
"""

import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deployment.releases.judge import JudgeLimits
from deployment.releases.judge.errors import Rate, Regression
from deployment.releases.judge.latency import Pairs
from deployment.releases.judge.model import ERROR_LIMIT, ERRORS, FIRST_TOKEN, QUALITY
from deployment.releases.judge.quality import Scores

RESULTS = Path(__file__).parent / "results" / "judge.json"
SEED = 20261125
LIMITS = JudgeLimits()
# As the strategy's paper states them: (candidate's errors, share) -> median seconds at 10 requests/s, alpha 0.01.
WANTED = {(0.05, 0.05): 272, (0.05, 0.1): 158, (0.05, 0.25): 78, (0.05, 0.5): 69, (0.1, 0.1): 46, (0.1, 0.5): 22}
WANTED_PAIRS = {(2, 0.6): 145, (2, 1.0): 458, (3, 0.6): 24, (3, 1.0): 71, (5, 0.6): 14}
HEALTHY = 0.01


def _errors(
    rng: random.Random, rate: float, share: float, bad: float, good: float
) -> Iterator[tuple[float, bool, int]]:
    """The errors as they come: (seconds, the candidate's, the candidate's requests since the one before)."""
    mine, theirs = share * bad, (1 - share) * good
    now = 0.0
    while True:
        step = rng.expovariate(rate * (mine + theirs))
        now += step
        served = _poisson(rng, rate * share * (1 - bad) * step)
        yield now, rng.random() < mine / (mine + theirs), served


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count


def seconds_to_fail(rng: random.Random, rate: float, share: float, bad: float, *, most: float) -> float:
    """Until either error check fails; infinity when `most` seconds pass first."""
    regression, candidate = Regression(), Rate()
    for now, is_candidate, served in _errors(rng, rate, share, bad, HEALTHY):
        if now > most:
            break
        candidate.requests += served + is_candidate
        candidate.failed += is_candidate
        regression.error(candidate=is_candidate, weight=share)
        if regression.evidence >= 1 / LIMITS.part(ERRORS):
            return now
        over = candidate.requests and candidate.failed / candidate.requests >= LIMITS.error_limit
        if over and candidate.too_many(LIMITS.error_limit) >= 1 / LIMITS.part(ERROR_LIMIT):
            return now
    return math.inf


def pairs_to_fail(rng: random.Random, ratio: float, sigma: float, alpha: float, most: int) -> float:
    """Pairs until the latency check fails; infinity when `most` are not enough."""
    pairs = Pairs()
    for count in range(1, most + 1):
        before = pairs.slower
        pairs.add(("", 0), ratio * math.exp(rng.gauss(0, sigma)), candidate=True)
        pairs.add(("", 0), math.exp(rng.gauss(0, sigma)), candidate=False)
        if pairs.slower == before and ratio == 1:
            continue  # evidence only grows with a slower one
        if pairs.evidence >= 1 / alpha and (pairs.ratio or 0) >= LIMITS.latency_ratio:
            return count
    return math.inf


def requests_to_pass(rng: random.Random, share: float) -> float:
    """Requests until it is sure that fewer fail than the limit."""
    rate = Rate()
    while rate.few_enough(LIMITS.error_limit) < 1 / LIMITS.safe_alpha:
        rate.add(failed=rng.random() < share)
    return rate.requests


def scores_to_fail(rng: random.Random, new: float, old: float, most: int) -> float:
    """Pairs of right-or-wrong answers until the quality check fails."""
    scores = Scores(LIMITS.quality_margin)
    for count in range(1, most + 1):
        scores.add(float(rng.random() < new), candidate=True)
        scores.add(float(rng.random() < old), candidate=False)
        if scores.evidence >= 1 / LIMITS.part(QUALITY):
            return count
    return math.inf


def _spread(runs: int, draw: Callable[[], float]) -> dict[str, Any]:
    found = sorted(draw() for _ in range(runs))
    return {"runs": runs, "median": round(statistics.median(found), 1), "p90": round(found[int(runs * 0.9)], 1)}


def main() -> None:
    """Run everything, print it and keep it."""
    rng, began = random.Random(SEED), time.perf_counter()
    rows: dict[str, Any] = {"seed": SEED, "alpha": LIMITS.alpha, "errors": [], "latency": [], "false_alarms": []}
    for (bad, share), wanted in WANTED.items():
        row = _spread(1000, lambda bad=bad, share=share: seconds_to_fail(rng, 10, share, bad, most=1e5))  # type: ignore[misc]
        rows["errors"].append({"errors": bad, "share": share, "wanted_s": wanted} | row)
        print("errors", rows["errors"][-1])
    row = _spread(1000, lambda: seconds_to_fail(rng, 10, 0.1, 1.0, most=1e5) * 10 * 0.1)
    rows["all_fail_requests"] = row
    print("all fail", row)
    for (ratio, sigma), wanted in WANTED_PAIRS.items():
        for alpha in (0.01, LIMITS.part(FIRST_TOKEN)):
            row = _spread(
                200,
                lambda ratio=ratio, sigma=sigma, alpha=alpha: pairs_to_fail(rng, ratio, sigma, alpha, 20_000),  # type: ignore[misc]
            )
            rows["latency"].append({"times": ratio, "sigma": sigma, "alpha": alpha, "wanted": wanted} | row)
            print("latency", rows["latency"][-1])
    rows["safe"] = _spread(1000, lambda: requests_to_pass(rng, HEALTHY))
    print("safe", rows["safe"])
    rows["quality"] = _spread(1000, lambda: scores_to_fail(rng, 23 / 173, 172 / 173, 1000))
    print("quality, 13 % right against 99 %", rows["quality"])
    for rate, runs in ((0.1, 2000), (1, 2000), (10, 2000), (100, 500)):
        for share in (0.05, 0.5):
            failed = sum(seconds_to_fail(rng, rate, share, HEALTHY, most=3600) < math.inf for _ in range(runs))
            rows["false_alarms"].append({"rate": rate, "share": share, "runs": runs, "alarms": failed})
            print("false alarms", rows["false_alarms"][-1])
    slow = sum(pairs_to_fail(rng, 1, 0.6, LIMITS.part(FIRST_TOKEN), 3600) < math.inf for _ in range(300))
    rows["false_alarms_latency"] = {"runs": 300, "pairs": 3600, "alarms": slow}
    worse = sum(scores_to_fail(rng, 0.9, 0.9, 3600) < math.inf for _ in range(300))
    rows["false_alarms_quality"] = {"runs": 300, "pairs": 3600, "alarms": worse}
    print(rows["false_alarms_latency"], rows["false_alarms_quality"])
    rows["took_s"] = round(time.perf_counter() - began, 1)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
