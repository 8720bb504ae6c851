from jaxsnn.metrics.report import *  # noqa: F403
