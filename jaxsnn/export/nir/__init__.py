from jaxsnn.export.nir.graph import *  # noqa: F403
