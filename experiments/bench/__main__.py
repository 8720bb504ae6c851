"""`python -m experiments.bench`."""

from experiments.bench.command import main
from experiments.common.command import guard

if __name__ == "__main__":
    guard(main)
