from experiments import common
from experiments.qp_snn.run import EXPERIMENT

if __name__ == "__main__":
    common.main(EXPERIMENT)
