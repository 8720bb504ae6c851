from experiments import common
from experiments.fast.run import EXPERIMENT

if __name__ == "__main__":
    common.main(EXPERIMENT)
