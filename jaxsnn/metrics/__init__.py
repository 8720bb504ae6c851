"""What a network is worth and what it costs."""

from jaxsnn.metrics.counts import *  # noqa: F403
from jaxsnn.metrics.report import *  # noqa: F403
