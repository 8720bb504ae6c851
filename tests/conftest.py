"""What all tests share, also in processes they start: two devices, no implicit rank promotion."""

import os

# Before jax is imported: it reads the environment once.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"

# Tests compile much and compute little: leave out what makes long runs fast.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
