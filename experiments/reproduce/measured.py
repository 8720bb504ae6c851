"""What a file of results/ holds: whose engine made it, its networks, and how sure its shares are.

Nothing but the standard library is imported, for the makers of tables and pictures read it, too.
"""

import math
import re
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

ENGINE = (0, 2)  # what older releases made is not quoted as evidence

Networks = dict[str, list[dict[str, Any]]]
"""A network's name, with its part if there are some -> its row of each seed."""


def is_of_today(content: Any) -> bool:
    """Return whether `experiments.reproduce --store` wrote a file, with the engine of today.

    >>> is_of_today({"versions": {"jaxsnn": "0.2.0"}, "commit": "4fa2f36", "rows": []})
    True
    """
    if not isinstance(content, dict) or not content.get("commit") or "rows" not in content:
        return False
    release = re.findall(r"\d+", str(content["versions"].get("jaxsnn")))
    return tuple(map(int, release[:2])) >= ENGINE


def binomial(share: float, samples: int) -> float:
    """Return the standard error of a share of samples, never 0 (Agresti and Coull 1998).

    >>> round(binomial(0.9829, 10_000), 5), round(binomial(1.0, 100), 3)
    (0.0013, 0.014)
    """
    p = (samples * share + 2) / (samples + 4)
    return math.sqrt(p * (1 - p) / samples)


def samples_of(row: Mapping[str, Any], accuracy: str) -> int | None:
    """Return how many samples an accuracy was counted on, None if the row does not say so.

    >>> row = {"samples": 1000, "held_out_samples": 5000}
    >>> samples_of(row, "mean_accuracy"), samples_of(row, "held_out_accuracy")
    (1000, 5000)
    """
    if accuracy.startswith("held_out"):
        return row.get("held_out_samples")
    return row.get("samples") if accuracy in ("accuracy", "mean_accuracy") else None


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of some values, 0 of a single one."""
    return stdev(values) if len(values) > 1 else 0.0


def by_network(rows: Sequence[Mapping[str, Any]]) -> Networks:
    """Return the rows of each network, all seeds together.

    >>> list(by_network([{"name": "dense", "seed": 0}, {"name": "dense", "seed": 1}]))
    ['dense']
    """
    found: Networks = {}
    for row in rows:
        label = f"{row['name']} ({row['part']})" if row.get("part") else row["name"]
        found.setdefault(label, []).append(dict(row))
    return found
