"""`python -m experiments.bench`."""

from experiments.bench.command import main
from experiments.common import skeleton

if __name__ == "__main__":
    skeleton.main(main)
