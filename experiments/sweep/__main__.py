"""The command `python -m experiments.sweep`."""

from experiments.common import main
from experiments.sweep.run import EXPERIMENT

if __name__ == "__main__":
    main(EXPERIMENT)
