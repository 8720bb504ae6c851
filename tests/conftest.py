"""What all tests share, also in processes they start: two devices, no implicit rank promotion."""

import os

# Before jax is imported: it reads the environment once.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"
