from jaxsnn.coding.forms import *  # noqa: F403
