"""What the papers claim, and what our stored rows say of it.

A claim is a list of tests about networks of one file of results/. All of them hold: *shown*. One is
decided the other way: *contradicted*. Otherwise: *not shown at our size*. Without a file of today's
engine: *not run yet*. Nobody writes a verdict by hand; `why` may say what the reason was found to
be.

The difference of two accuracies is decided if it is above two errors,
`d > 2 sqrt(s^2 / k + b1^2 + b2^2)`, with the mean `d` and the standard deviation `s` of the
differences at `k` seeds, whose networks start from one dense one, and both binomial errors `b`: too
wide an error, for both see the same test samples. Amounts ("20 times fewer bytes", "within a
point") hold or not by their means.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from experiments.reproduce.measured import (
    Networks,
    binomial,
    by_network,
    is_of_today,
    samples_of,
    spread,
)

SHOWN, NOT_SHOWN, CONTRADICTED = "shown", "not shown at our size", "contradicted"
NOT_RUN = "not run yet"
ERRORS = 2


@dataclass(frozen=True)
class Higher:
    """A network is more accurate than another one by more than their errors."""

    network: str
    than: str

    def judge(self, networks: Networks) -> tuple[str, str]:
        """Return the verdict, and the numbers in words."""
        own, other = shares(networks[self.network]), shares(networks[self.than])
        seeds = sorted(own.keys() & other.keys())
        differences = [own[seed] - other[seed] for seed in seeds]
        d = mean(differences)
        error = math.sqrt(
            spread(differences) ** 2 / len(seeds)
            + sum(
                binomial(mean(each.values()), networks[name][0]["samples"]) ** 2
                for name, each in ((self.network, own), (self.than, other))
            )
        )
        said = f"{100 * d:+.2f} ± {100 * error:.2f} points"
        if abs(d) <= ERRORS * error:
            return NOT_SHOWN, said
        return (SHOWN if d > 0 else CONTRADICTED), said


@dataclass(frozen=True)
class Within:
    """A network loses at most so many points against another one, in the mean over the seeds."""

    network: str
    points: float
    of: str = "dense"

    def judge(self, networks: Networks) -> tuple[str, str]:
        """Return the verdict, and the numbers in words."""
        own, other = shares(networks[self.network]), shares(networks[self.of])
        lost = 100 * (mean(other.values()) - mean(own.values()))
        return (SHOWN if lost <= self.points else NOT_SHOWN), f"{-lost:+.2f} points"


@dataclass(frozen=True)
class Fewer:
    """A network has at least so many times less of something than another one."""

    network: str
    times: float
    number: str  # synops, file_bytes, weight_bytes, spikes_per_sample
    of: str = "dense"

    def judge(self, networks: Networks) -> tuple[str, str]:
        """Return the verdict, and the numbers in words."""
        own, other = (
            mean(row[self.number] for row in networks[name]) for name in (self.network, self.of)
        )
        what = self.number.replace("_", " ").replace("synops", "SynOps")
        return (SHOWN if other >= self.times * own else NOT_SHOWN), f"{other / own:,.3g}x {what}"


@dataclass(frozen=True)
class AtLeast:
    """A network has at least some accuracy, in the mean over the seeds."""

    network: str
    accuracy: float

    number: str = "accuracy"

    def judge(self, networks: Networks) -> tuple[str, str]:
        """Return the verdict, and the numbers in words."""
        rows = networks[self.network]
        share = mean(row[self.number] for row in rows)
        said = f"{100 * share:.2f} %"
        if samples := samples_of(rows[0], self.number):
            said = f"{100 * share:.2f} ± {100 * binomial(share, samples):.2f} %"
        return (SHOWN if share >= self.accuracy else NOT_SHOWN), said


@dataclass(frozen=True)
class AtMost:
    """A network has at most so much of something, in the mean over the seeds."""

    network: str
    most: float
    number: str

    def judge(self, networks: Networks) -> tuple[str, str]:
        """Return the verdict, and the numbers in words."""
        found = mean(row[self.number] for row in networks[self.network])
        said = f"{found:,.0f} {self.number.replace('_', ' ')}"
        return (SHOWN if found <= self.most else NOT_SHOWN), said


Test = Higher | Within | Fewer | AtLeast | AtMost


@dataclass(frozen=True)
class Claim:
    """A sentence, where it is from, and what must hold in which file of results/."""

    text: str
    source: str
    file: str
    tests: tuple[Test, ...]
    why: str = ""


def shares(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Return seed -> accuracy, the mean of several draws where the input is random."""
    return {row["seed"]: row.get("mean_accuracy") or row["accuracy"] for row in rows}


def judge(claim: Claim, content: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the verdict on a claim, and its numbers in words.

    Args:
      claim: the claim.
      content: of its file; None if there is none.
    """
    if content is None or not is_of_today(content):
        return NOT_RUN, ""
    networks, found = by_network(content["rows"]), []
    for test in claim.tests:
        others = {getattr(test, name, test.network) for name in ("than", "of")}
        if missing := sorted({test.network, *others} - networks.keys()):
            return NOT_RUN, f"no row {missing[0]!r}"
        if isinstance(test, Higher) and not networks[test.network][0].get("samples"):
            return NOT_RUN, "the number of test samples is not stored"
        if isinstance(test, AtMost) and any(test.number not in r for r in networks[test.network]):
            return NOT_RUN, f"{test.number.replace('_', ' ')} of a resumed run are not known"
        found.append(test.judge(networks))
    verdicts = {verdict for verdict, _ in found}
    said = ", ".join(numbers for _, numbers in found)
    if CONTRADICTED in verdicts:
        return CONTRADICTED, said
    return (SHOWN if verdicts == {SHOWN} else NOT_SHOWN), said


DENG, WEI = "Deng et al. 2019", "Wei et al. 2025"
CHOWDHURY, KUNDU = "Chowdhury et al. 2021", "Kundu et al. 2021"

CLAIMS = (
    *(
        Claim(
            f"ADMM keeps more accuracy than one-shot pruning at {left} % of the connections",
            DENG, "rivals-mnist", (Higher(f"ADMM {left} %", f"one-shot {left} %"),),
        )
        for left in (10, 5, 2, 1)
    ),
    *(
        Claim(
            f"ADMM keeps more accuracy than gradual pruning at {left} % of the connections",
            "our question", "rivals-mnist", (Higher(f"ADMM {left} %", f"gradual {left} %"),),
        )
        for left in (10, 5, 2, 1)
    ),
    Claim(
        "Few connections, bits and spikes go together: 10 times fewer bytes within a point",
        DENG, "admm-mnist", (Fewer("compressed", 10, "file_bytes"), Within("compressed", 1.0)),
    ),
    Claim(
        "Activity regularization halves the spikes within half a point",
        DENG, "admm-mnist",
        (  # the smallest weight that halves them
            Fewer("quiet 0.03", 2, "spikes_per_sample", of="quiet 0"),
            Within("quiet 0.03", 0.5, of="quiet 0"),
        ),
    ),
    Claim(
        "The rescaled quantizer is better than the vanilla one (before pruning)",
        WEI, "qp_snn-mnist", (Higher("quantized rescaled", "quantized vanilla"),),
    ),
    Claim(
        "Rescaling and singular values together beat the baseline",
        WEI, "qp_snn-mnist", (Higher("compressed", "baseline"),),
    ),
    Claim(
        "Rescaling and singular values together beat the baseline on CIFAR-10",
        WEI, "qp_snn-cifar10", (Higher("compressed", "baseline"),),
    ),
    Claim(
        "Widths by principal components are better than uniform ones of the same size",
        CHOWDHURY, "spatiotemporal-mnist", (Higher("narrow", "uniform"),),
    ),
    Claim(
        "Fewer time steps one after the other are better than at once",
        CHOWDHURY, "spatiotemporal-mnist", (Higher("short", "direct"),),
    ),
    Claim(
        "Fewer time steps one after the other are better than at once, at T = 4",
        CHOWDHURY, "spatiotemporal-mnist", (Higher("T 4", "direct T 4"),),
    ),
    Claim(
        "A sparse network guided by a dense one is better than by labels alone",
        KUNDU, "spike_thrift-mnist", (Higher("compressed", "ce tuned"),),
    ),
    Claim(
        "19 times fewer weights, all of convolutions, within a point",
        KUNDU, "spike_thrift-mnist", (Fewer("compressed", 19, "density"), Within("compressed", 1)),
    ),
    Claim(
        "From 99.2 %, the whole file becomes 250 times smaller within half a point",
        "our goal", "joint-mnist",
        (
            AtLeast("dense", 0.992), Fewer("compressed", 250, "file_bytes"),
            Within("compressed", 0.5),
        ),
    ),
    Claim(
        "A dense spiking network reaches 88 % of 10,000 held-out images in an hour on two cores",
        "our goal", "fast-cifar10",
        (AtLeast("dense", 0.88, "held_out_accuracy"), AtMost("dense", 7200, "core_seconds")),
    ),
    Claim(
        "The same, each image seen both ways round (twice the work)",
        "our goal", "fast-cifar10",
        (
            AtLeast("dense", 0.88, "held_out_mirrored_accuracy"),
            AtMost("dense", 7200, "core_seconds"),
        ),
    ),
)  # fmt: skip
