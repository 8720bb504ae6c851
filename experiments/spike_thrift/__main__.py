from experiments import common
from experiments.spike_thrift.run import EXPERIMENT

if __name__ == "__main__":
    common.main(EXPERIMENT)
