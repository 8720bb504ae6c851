from jaxsnn.report.page import *  # noqa: F403
