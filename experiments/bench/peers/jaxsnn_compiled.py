"""A compressed network as C, beside the same weights in XLA; one core each. The variant says which:

- "dense": the network in float32, as `net(x)` computes it;
- "integers": the integer network in XLA;
- "many", "one": the C of it, a batch at a time or a sample at a time.

A step is one pass over the problem's samples.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):  # threads of XLA and oneDNN: all on one core
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxsnn import compile as compiling  # noqa: E402
from jaxsnn import export, models, neurons, tree  # noqa: E402
from jaxsnn.encode import Signal  # noqa: E402
from jaxsnn.export import run_integer, to_integer  # noqa: E402
from jaxsnn.inputs import Inputs  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax")


def network_of(problem):
    """Return the network of a problem, packed or drawn, and its inputs."""
    spec = problem["spec"]
    if "file" in spec:
        model = export.load(spec["file"])
        return model.network, model.inputs
    inputs = Inputs(tuple(spec["input_shape"]), spec["timesteps"])
    neuron = neurons.LIF(spec["decay"], spec["threshold"], reset="soft_undecayed")
    net = models.build(spec["layout"], inputs.shape, neuron)
    weights = tree.map_named(lambda name, leaf: jnp.asarray(problem[name]), net.params)
    return net.replace(params=weights), inputs


def build(problem, variant):
    """Return what `measure` times."""
    net, inputs = network_of(problem)
    samples = problem["x"]
    if variant == "dense":
        run = _passes(lambda x: net(inputs.prepare(jax.random.key(0), x)).readout.mean(0), samples)
    else:
        integers = to_integer(net, inputs)
        if variant == "integers":
            run = _passes(
                lambda x: run_integer(
                    integers, Signal(x.astype(jnp.int32), inputs.timesteps, constant=True)
                ).readout.sum(0),
                samples,
            )
        else:
            function = compiling.build(integers, inputs)
            run = _calls(function, samples, batched=variant == "many")
    return {"run": run, "check": lambda: _check(run), "unit": 1}


def _passes(function, samples):
    compiled, x = jax.jit(function), jnp.asarray(samples)

    def run(steps):
        for _ in range(steps):
            scores = compiled(x)
        return np.asarray(scores.block_until_ready())

    return run


def _calls(function, samples, *, batched):
    def run(steps):
        for _ in range(steps):
            scores = function(samples, batched=batched)
        return scores

    return run


def _check(run):
    """Return sums that are equal exactly where the scores are."""
    scores = np.asarray(run(1), np.float64)
    weights = np.arange(1, scores.size + 1).reshape(scores.shape)
    return {"loss": float((scores * weights).sum()), "rate": float(np.abs(scores).sum())}
