"""How long a preset takes on a GPU of the H100 class: an estimate, scaled from measured steps.

Two steps were measured on one H200 (JAX 0.11.2), compiled and in steady state:

    VGG-16, T = 4, batch 128, bfloat16      7.04 ms, 136 TFLOP/s; 28 s to compile
    784-800-10, T = 25, batch 128, float32  5.3 ms; 11 s to compile

and 50 epochs of the first in float32 took 2.45 s each, as long as its steps in bfloat16. From them

- products run at 136 TFLOP/s, in either type;
- a time step of a layer takes 53 us in each direction, however small the layer is: beside its
  products up to `UNROLL_LIMIT` steps, and behind them in the loop of a longer time axis;
- a program takes 8 s and another 1.4 s a layer to compile: one for each phase, and for evaluation
  one for each number of time steps and one for the network that is smaller in the end.

A pass without a gradient takes a third. Held-out images are evaluated after each epoch, test images
once for each network. Reading data, scores, files and pictures are left out: 60 s are for them.
Everything but the four figures above is an estimate, and no preset was timed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from experiments.common.options import flat
from jaxsnn import tree
from jaxsnn.methods import admm
from jaxsnn.network import Network
from jaxsnn.neurons.scanning import UNROLL_LIMIT
from jaxsnn.train import Task

RATE = 136e12  # floating point operations a second
LEAST = 5.3e-3 / (25 * 2 * 2)  # seconds a time step, layer and direction
COMPILE, COMPILE_LAYER = 8.2, 1.4  # seconds a program, and for each layer in it
REST = 60.0  # seconds for all else
LONGEST = 600.0  # seconds that a preset may take
SEARCHED = 45_000  # training images beside those on which the joint pipeline tries candidates


class Phase(NamedTuple):
    """A training of a run."""

    name: str
    epochs: float
    timesteps: int  # 1 of an ANN
    lanes: int = 1  # networks that one program trains
    again: bool = False  # whether its programs are those of another phase


@dataclass(frozen=True)
class Estimate:
    """Seconds of a run: steps, evaluations, compilation."""

    training: float
    evaluation: float
    compilation: float

    @property
    def seconds(self) -> float:
        """Return all of them, and what is kept for the rest."""
        return self.training + self.evaluation + self.compilation + REST


def multiply_adds(net: Network, task: Task) -> tuple[float, float]:
    """Return the multiply-adds of a sample: once for all steps, and at each step."""
    flow, kernels = net.flow(task.inputs), tree.named_leaves(net.params)
    once = each = 0.0
    for name, feed in flow.feeds.items():
        places = math.prod(feed.outputs[:-1])
        found = places * math.prod(kernels[name].shape)
        once, each = (once + found, each) if name in flow.cached else (once, each + found)
    return once, each


def estimate(
    net: Network, task: Task, samples: tuple[int, int, int], batch: int, phases: tuple[Phase, ...]
) -> Estimate:
    """Return how long a run takes.

    Args:
      net: the network; arrays or shapes.
      task: it is trained for, which says where an input is constant.
      samples: trained on, held out, and of the test.
      batch: samples of a step.
      phases: of the run.
    """
    once, each = multiply_adds(net, task)
    layers = len(net.order)
    train, held, test = samples

    def step(timesteps: int, lanes: int) -> float:
        flops = 3 * 2 * batch * (once + timesteps * each) * lanes
        products, others = flops / RATE, 2 * LEAST * timesteps * layers
        return products + others if timesteps > UNROLL_LIMIT else max(products, others)

    training = evaluation = 0.0
    for phase in phases:
        took = step(phase.timesteps, phase.lanes)
        training += phase.epochs * (train // batch) * took
        evaluation += (phase.epochs * held + phase.lanes * test) / batch * took / 3
    programs = sum(not phase.again for phase in phases)
    programs += len({phase.timesteps for phase in phases}) + 1
    return Estimate(training, evaluation, programs * (COMPILE + COMPILE_LAYER * layers))


# --- What each experiment trains ------------------------------------------------------------------


def phases_of(experiment: str, config: Any) -> tuple[Phase, ...]:
    """Return the phases of an experiment's run with a configuration, controls among them."""
    found = tuple(PHASES[experiment](config, flat(config)))
    return tuple(phase for phase in found if phase.epochs)


def _admm(config: Any, o: dict[str, Any]) -> Iterator[Phase]:
    steps, pull, retrain = o["timesteps"], o["pull_epochs"], o["retrain_epochs"]
    yield Phase("dense", o["dense_epochs"], steps)
    joint, longest = admm.epochs_of(config.method), []
    for way in o["ways"]:
        if way == "activity":
            parts = [Phase("activity", o["activity_epochs"], steps)]
        elif way == "one-shot":
            parts = [Phase("one-shot", pull + retrain, steps)]
        else:
            rounds = joint // (pull + retrain) if way == "joint" else 1
            parts = [Phase(f"{way} pull", rounds * pull, steps)]
            parts += [Phase(f"{way} retrain", rounds * retrain, steps)]
        longest.append(sum(part.epochs for part in parts))
        times = len(o["activity_weights"]) if way == "activity" else 1
        yield from times * parts
    if o["control"] and longest:
        yield Phase("control", max(longest), steps)


def _rivals(config: Any, o: dict[str, Any]) -> Iterator[Phase]:
    del config
    steps, pull, retrain = o["timesteps"], o["pull_epochs"], o["retrain_epochs"]
    for seed in o["seeds"]:
        # Programs of further seeds are those of the first.
        again = seed != o["seeds"][0]
        yield Phase("dense", o["dense_epochs"], steps, again=again)
        if o["control"]:
            yield Phase("control", pull + retrain, steps, again=again)
        for rival in len(o["sparsity"]) * o["rivals"]:
            if rival == "ADMM":
                yield Phase("pull", pull, steps, again=again)
                yield Phase("retrain", retrain, steps, again=again)
            else:
                yield Phase(rival, pull + retrain, steps, again=again)


def _qp_snn(config: Any, o: dict[str, Any]) -> Iterator[Phase]:
    del config
    steps, train, tune = o["timesteps"], o["train_epochs"], o["tune_epochs"]
    dense = train if o["dense_epochs"] is None else o["dense_epochs"]
    for seed in o["seeds"]:
        again = seed != o["seeds"][0]
        yield Phase("dense", dense, steps, again=again)
        # Ways share a quantized network if they share its quantizer.
        rescaled = {way in ("full", "rescaled-only") for way in o["ways"]}
        for kind in rescaled:
            yield Phase(f"quantized {kind}", train, steps, again=again)
        for way in o["ways"]:
            yield Phase(f"{way} tune", tune, steps, again=again)
        if o["control"]:
            yield Phase("control", max(train + tune - dense, tune), steps, again=again)


def _joint(config: Any, o: dict[str, Any]) -> Iterator[Phase]:
    del config
    steps, stages = o["timesteps"], o["stages"]
    yield Phase("dense", o["dense_epochs"], steps)
    if o["bytes"] is not None or o["points"] is not None:
        tried = [len(o[f"search_{what}"]) for what in ("channels", "bits", "sparsity")]
        share = min(o["search_samples"] / SEARCHED, 1.0)
        yield Phase("search", share * o["search_epochs"], steps, math.prod(tried))
    more = 0.0
    for stage in stages:
        each = {
            "connections": o["pull_epochs"] + o["connections_epochs"],
            "timesteps": len(o["timesteps_schedule"]) * o["timesteps_epochs"],
        }.get(stage, o.get(f"{stage}_epochs", 0))
        more += each
        yield Phase(stage, each, steps)
    if o["control"]:
        yield Phase("control", more, steps)
    if o["same_bytes"]:
        for bits in (8, 32):
            yield Phase(f"ann of {bits} bits", o["dense_epochs"] + more, 1)


def _spatiotemporal(config: Any, o: dict[str, Any]) -> Iterator[Phase]:
    del config
    steps, tune, each = o["timesteps"], o["tune_epochs"], o["fewer_epochs"]
    for name in ("dense", "narrow", "uniform")[: 3 if o["uniform"] else 2]:
        yield Phase(f"{name} ann", o["ann_epochs"], 1)
        yield Phase(f"{name} tune", tune, steps)
    for stage, fewer in enumerate(o["fewer"], 1):
        yield Phase(f"T {fewer}", each, fewer)
        if o["control_every"]:
            yield Phase(f"direct {fewer}", tune + stage * each, fewer)
    more, last = len(o["fewer"]) * each, o["fewer"][0] if o["fewer"] else steps  # at most
    if not o["control_every"]:
        yield Phase("direct", tune + more, last)
    yield Phase("quantized", o["qat_epochs"], last)
    if o["control"]:
        yield Phase("control", more + o["qat_epochs"], steps)


def _spike_thrift(config: Any, o: dict[str, Any]) -> Iterator[Phase]:
    del config
    steps, ann, sparse, tune = (
        o[name] for name in ("timesteps", "ann_epochs", "sparse_epochs", "tune_epochs")
    )
    yield Phase("dense ann", ann, 1)
    own = o["dense_tune_epochs"]
    yield Phase("dense tune", tune if own is None else own, steps)
    for way in o["ways"]:
        yield Phase(f"{way} ann", 4 / 3 * sparse, 1)  # the meta-model looks on
    for way in o["ways"] if o["tune_each"] else o["ways"][-1:]:
        yield Phase(f"{way} tune", tune, steps)
    if o["control"]:
        had = ann if o["begin"] == "teacher" else 0
        yield Phase("control ann", max(had + sparse - ann, 0), 1)
        yield Phase("control tune", tune, steps)


def _sweep(config: Any, o: dict[str, Any]) -> Iterator[Phase]:
    lanes = math.prod(len(values) for values in config.sweep.grid().values())
    steps, epochs = o["timesteps"], o["pull_epochs"] + o["tune_epochs"]
    yield Phase("dense", o["dense_epochs"], steps)
    yield Phase("lanes", epochs, steps, lanes)
    if o["control"]:
        yield Phase("control", epochs, steps)


def _fast(config: Any, o: dict[str, Any]) -> Iterator[Phase]:
    del config
    yield Phase("ann", o["ann_epochs"], 1)
    yield Phase("short", o["short_epochs"], 1)
    yield Phase("long", o["epochs"], o["timesteps"])


PHASES: dict[str, Callable[[Any, dict[str, Any]], Iterator[Phase]]] = {
    "admm": _admm,
    "rivals": _rivals,
    "qp_snn": _qp_snn,
    "joint": _joint,
    "spatiotemporal": _spatiotemporal,
    "spike_thrift": _spike_thrift,
    "sweep": _sweep,
    "fast": _fast,
}
