"""Experiments: a folder or module per claim, run from a checkout: `python -m experiments.NAME`."""
