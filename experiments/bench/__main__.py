"""`python -m experiments.bench`."""

from experiments import skeleton
from experiments.bench.command import main

if __name__ == "__main__":
    skeleton.main(main)
