"""The rows: what is run for each file of results/, and which of its numbers are compared."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

# A number -> what one network's own is uncertain by, as a share of it; None: the binomial error.
COMPARED: Mapping[str, float | None] = {
    "accuracy": None,
    "held_out_accuracy": None,  # of a second test set, where a row has one
    "density": 0.03,
    "file_bytes": 0.03,
    "synops": 0.05,
}
# Of networks with random input the mean of several draws, in place of the first one's accuracy.
OF_DRAWS = {"mean_accuracy": None} | {k: x for k, x in COMPARED.items() if k != "accuracy"}
THREE = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """One file of results/.

    Attributes:
      experiment: the program, `experiments.NAME`.
      dataset: its data set.
      shows: what the row is there for, in a line.
      minutes: of one seed on two cores, an estimate until it is stored.
      more: further options.
      preset: of the program.
      seeds: that are run.
      parts: a seed's runs, name -> its further options; one run without a name by itself.
      compared: number -> its own error.
      start: the row whose dense network of the same seed this one starts from.
    """

    experiment: str
    dataset: str
    shows: str
    minutes: float
    more: str = ""
    preset: str = "cpu"
    seeds: tuple[int, ...] = THREE
    parts: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    compared: Mapping[str, float | None] = field(default_factory=lambda: COMPARED)
    start: str = ""

    def arguments(self, seed: int, part: str = "") -> list[str]:
        """Return the options of a run, but for the folders."""
        words = ["--preset", self.preset, "--dataset", self.dataset]
        words += shlex.split(f"{self.more} {self.parts[part]}")
        return [*words, "--seed", str(seed)]


# Programs with seeds of their own get one at a time: "--seeds 0", to which --seed is added.
ROWS: dict[str, Row] = {
    "quickstart": Row(
        "quickstart", "digits", "The embedded digits, joint ADMM: the first thing to try.", 2
    ),
    "smoke": Row(
        "quickstart", "digits", "Seconds of nothing: that this program itself works.", 0.5,
        preset="smoke", seeds=(0, 1),
    ),
    "admm-mnist": Row(
        "admm", "mnist", "Connections, bits and spikes reduced alone and together; five rates.", 25
    ),
    "admm-nmnist": Row(
        "admm", "nmnist", "The same on 1,000 recordings of an event camera.", 13,
        more="--start uniform",
    ),
    "rivals-mnist": Row(
        "rivals", "mnist", "ADMM, one-shot and gradual pruning at 10, 5, 2 and 1 %.", 25,
        more="--seeds 0",
    ),
    "qp_snn-digits": Row(
        "qp_snn", "digits", "QP-SNN's four ways on the embedded digits.", 3.5, more="--seeds 0"
    ),
    "qp_snn-mnist": Row(
        "qp_snn", "mnist", "QP-SNN's four ways.", 15, more="--seeds 0"
    ),
    "qp_snn-cifar10": Row(
        "qp_snn", "cifar10", "QP-SNN on a quarter-width VGG-16.", 58, more="--seeds 0", seeds=(0,)
    ),
    "spatiotemporal-mnist": Row(
        "spatiotemporal", "mnist", "Widths by principal components, then fewer time steps.", 25,
        compared=OF_DRAWS,
    ),
    "spatiotemporal-cifar10": Row(
        "spatiotemporal", "cifar10", "The same on a quarter-width VGG9.", 61, seeds=(0,),
        compared=OF_DRAWS,
    ),
    "spike_thrift-mnist": Row(
        "spike_thrift", "mnist", "A sparse network guided by a dense one, or by labels alone.", 21,
        compared=OF_DRAWS,
    ),
    "spike_thrift-cifar10": Row(
        "spike_thrift", "cifar10", "The same on a narrow VGG.", 37, seeds=(0,), compared=OF_DRAWS
    ),
    "joint-digits": Row("joint", "digits", "The whole pipeline on the embedded digits.", 2),
    "joint-mnist": Row(
        "joint", "mnist", "The whole pipeline: a 250th of the bytes within half a point.", 70
    ),
    "joint-nmnist": Row(
        "joint", "nmnist", "The whole pipeline on recordings of an event camera.", 15
    ),
    "fast-cifar10": Row(
        "fast", "cifar10", "The fast recipe: a dense network, 10,000 images held out.", 60,
        seeds=(0,),
    ),
    "fast_half-cifar10": Row(
        "fast", "cifar10", "The fast recipe in half of the time.", 30,
        more="--ann-epochs 8 --short-epochs 7 --epochs 2", seeds=(0,),
    ),
    "fast_quarter-cifar10": Row(
        "fast", "cifar10", "The fast recipe in a quarter of the time, without an ANN first.", 15,
        more="--ann-epochs 0 --short-epochs 7 --epochs 1", seeds=(0,),
    ),
    "fast_gpu-cifar10": Row(
        "fast", "cifar10", "The same on a GPU, twice as wide, 5,000 images held out.", 5,
        preset="gpu", seeds=(0,),
    ),
    "fast_parts-cifar10": Row(
        "fast", "cifar10", "What each part of the fast recipe is worth, at half the width.", 55,
        more="--width 0.5 --ann-epochs 5 --short-epochs 4 --epochs 1 --ways dense 'spikes only' "
        "'no whitening' sgd adam 'random flips' 'sharp labels' average 'one step' 'all steps'",
        seeds=(0,),
    ),
    "joint-cifar10": Row(
        "joint", "cifar10", "The fast recipe's network in a 50th of its bytes.", 110,
        more="--dense-epochs 0 --bytes 67700", seeds=(0,), start="fast-cifar10",
    ),
    "joint_100-cifar10": Row(
        "joint", "cifar10", "The same in a 100th.", 50,
        more="--dense-epochs 0 --bytes 33850 --no-control", seeds=(0,), start="fast-cifar10",
    ),
    "sweep-mnist": Row("sweep", "mnist", "Twenty networks as one program, and their fronts.", 7),
}  # fmt: skip
