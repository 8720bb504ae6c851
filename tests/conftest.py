"""What all tests share: implicit rank promotion is an error, here and in processes tests start."""

import os

# Before jax is imported: it reads the environment once.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
