"""How sure a counted share is: Wilson's interval of an accuracy."""

import math

__all__ = ["wilson"]

NORMAL_95 = 1.959963984540054  # the quantile 0.975 of the normal distribution


def wilson(share: float, samples: int, quantile: float = NORMAL_95) -> tuple[float, float]:
    """Return the interval of a share that was counted on some samples.

        low, high = (p + q^2 / 2n -+ q sqrt(p (1 - p) / n + q^2 / 4n^2)) / (1 + q^2 / n)

    with the share p, n samples and the quantile q: the shares from which p is no more than q
    standard deviations away. It stays within [0, 1], and has a width where p is 0 or 1. It tells
    what other test samples of the same kind would give, not what another seed of the training
    would.

    Args:
      share: p, in [0, 1].
      samples: n, at least 1.
      quantile: q > 0; that of 95 % if left out.

    Returns:
      Its two ends, in [0, 1].

    Example:
      >>> low, high = wilson(0.98, 1000)
      >>> round(low, 4), round(high, 4)
      (0.9693, 0.987)

    References: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    square = quantile**2 / samples
    middle = share + square / 2
    reach = quantile * math.sqrt(share * (1 - share) / samples + square / (4 * samples))
    low, high = (middle - reach) / (1 + square), (middle + reach) / (1 + square)
    return max(low, 0.0), min(high, 1.0)
