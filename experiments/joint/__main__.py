"""The command `python -m experiments.joint`."""

from experiments.common import main
from experiments.joint.run import EXPERIMENT

if __name__ == "__main__":
    main(EXPERIMENT)
