"""The step in jaxsnn, by its public functions alone. The first word of the variant says which:

- "epoch": `loop.run_steps`, the compiled loop over an epoch, which shuffles and gathers the
  batches from a data set in memory (whole numbers of one byte, the batch repeated) by itself;
- "step": one call of the compiled `loop.train_step` on a batch that is ready on the device;
- "predict": `train.predict` over such a data set;
- "evaluate": `train.evaluate` over it, which also counts spikes and events;
- "call": one call of the compiled network on a batch that is ready, on one device.

Others may follow: `flavour=NAME` of `FLAVOURS`, `direct` (a direct-coded image is handed over once,
not at every step), `xla` (no oneDNN), `plain` (no process-wide settings), `micro_batches=N`,
`devices=N`, `dtype=NAME` (of the products).
"""

import os
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax

from experiments.bench.contenders import FLAVOURS
from jaxsnn import data, losses, models, native, neurons, surrogate, train, tree
from jaxsnn.compress.phase import as_phase
from jaxsnn.inputs import Inputs
from jaxsnn.train import host, loop, parallel

PACKAGES = ("jax", "jaxlib", "flax", "optax")


def options_of(variant):
    """Return the words of a variant as a dictionary.

    >>> options_of("epoch flavour=late plain")
    {'epoch': '', 'flavour': 'late', 'plain': ''}
    """
    return dict(word.partition("=")[::2] for word in variant.split())


def prepare_process(options):
    """Make the settings of the whole process, before JAX starts; none of them for "plain"."""
    if "xla" in options:
        os.environ["JAXSNN_NATIVE"] = "0"
    if "plain" not in options:
        host.tune()


def make_network(spec, flavour, dtype):
    """Return the problem's network, with start values of our own."""
    neuron = neurons.LIF(
        decay=spec["decay"],
        threshold=spec["threshold"],
        surrogate=surrogate.atan(spec["alpha"]),
        **FLAVOURS[flavour],
    )
    options = {"dtype": jnp.dtype(dtype or spec["dtype"])}
    if spec["builder"]:
        return getattr(models, spec["builder"])(spec["input_shape"], neuron, **options)
    return models.build(spec["layout"], spec["input_shape"], neuron, **options)


@dataclass(frozen=True)
class Repeated(Inputs):
    """Hand an image over at every step, as the peers do, and not once."""

    def prepare(self, key, samples):
        """Return `[T, B, *shape]`."""
        values = self.normalise(samples)
        return jnp.broadcast_to(values[None], (self.timesteps, *values.shape))


@dataclass(frozen=True)
class Ready(Inputs):
    """Take what is the network's input already."""

    def prepare(self, key, samples):
        """Return the samples."""
        return samples


def make_task(problem, options):
    """Return the task, and the network with the problem's weights."""
    spec = problem["spec"]
    net = make_network(spec, options.get("flavour", "subtract"), options.get("dtype"))
    if not spec["builder"]:
        weights = tree.map_named(lambda name, leaf: jnp.asarray(problem[name]), net.params)
        net = net.replace(params=weights)
    shape, steps = tuple(spec["input_shape"]), spec["timesteps"]
    if not spec["direct"]:
        inputs = Inputs(shape, steps, "events")
    else:
        inputs = (Inputs if "direct" in options else Repeated)(shape, steps)
    every = parallel.most_devices(len(problem["labels"]))
    task = train.Task(
        inputs,
        loss="ce",
        micro_batches=int(options.get("micro_batches", 1)),
        devices=int(options.get("devices", every)),
    )
    return task, net


def ready(task):
    """Return the task for batches that are the network's input already."""
    return replace(task, inputs=Ready(task.inputs.shape, task.inputs.timesteps))


def batch_of(problem):
    """Return the batch as the engine takes it, samples first, and the labels."""
    x = problem["x"] if problem["spec"]["direct"] else problem["x"].swapaxes(0, 1)
    return jnp.asarray(x), jnp.asarray(problem["labels"], jnp.int32)


def repeat(problem):
    """Return a data set of `steps` batches, all of them the problem's."""
    steps, (x, labels) = problem["spec"]["steps"], batch_of(problem)
    return jnp.tile(x, (steps,) + (1,) * (x.ndim - 1)), jnp.tile(labels, steps)


def build(problem, variant):
    """Return what `measure` times."""
    options = options_of(variant)
    prepare_process(options)
    kind = next(iter(options))
    kinds = {f.__name__: f for f in (epoch, step, predict, evaluate, call)}
    return kinds[kind](problem, options)


def check_in(problem, options):
    """Return what the problem's weights give on its batch: loss, rate and the gradient's norm."""
    task, net = make_task(problem, options)
    x, labels = batch_of(problem)

    def objective(params):
        prepared = task.prepare(jax.random.key(0), x, True)
        output = task.run(net.replace(params=params), prepared, train=True)
        return task.objective(output, labels, prepared), output.readout.mean()

    if not problem["spec"]["train"]:
        loss, rate = jax.jit(objective)(net.params)
        return {"loss": float(loss), "rate": float(rate)}
    (loss, rate), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(net.params)
    norm = optax.global_norm(gradient)
    return {"loss": float(loss), "rate": float(rate), "gradient_norm": float(norm)}


def start(problem, options):
    """Return the task, the optimizer and the state before the first step."""
    task, net = make_task(problem, options)
    phase = as_phase(optax.adam(problem["spec"]["learning_rate"]))
    return task, phase.optimizer, loop.init(net, phase, jax.random.key(0))


def subject(problem, options, run, unit=1, **facts):
    """Return what `measure` wants."""
    where = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "native": native.describe(),
    }

    def check():
        stats = jax.local_devices()[0].memory_stats() or {}  # before the check needs more
        peak = stats.get("peak_bytes_in_use")
        found = {"device_mib": None if peak is None else peak / 2**20}
        return check_in(problem, options) | found

    return {"run": run, "check": check, "unit": unit, **where, **facts}


def epoch(problem, options):
    """Train by whole epochs, each one compiled loop."""
    task, optimizer, state = start(problem, options)
    split, size, unit = repeat(problem), len(problem["labels"]), problem["spec"]["steps"]

    def run(steps):
        nonlocal state
        for _ in range(steps // unit):
            sums, stop = loop.no_sums(), state.step + unit
            state, sums = loop.run_steps(task, optimizer, size, state, sums, split, stop)
        jax.block_until_ready((state, sums))

    return subject(problem, options, run, unit)


def step(problem, options):
    """Train by single steps, on a batch that lies on the device as the network takes it."""
    task, optimizer, state = start(problem, options)
    x, labels = batch_of(problem)
    x = jax.jit(lambda x: task.prepare(jax.random.key(0), x, True))(x)
    here = ready(task)
    jitted = jax.jit(loop.train_step, static_argnums=1, donate_argnums=2)
    compiled = jitted.lower(here, optimizer, state, x, labels).compile()

    def run(steps):
        nonlocal state
        for _ in range(steps):
            state, sums = compiled(here, state, x, labels)
        jax.block_until_ready((state, sums))

    memory = compiled.memory_analysis()
    temporaries = None if memory is None else memory.temp_size_in_bytes / 2**20
    return subject(problem, options, run, temporaries_mib=temporaries)


def predict(problem, options):
    """Predict on a data set."""
    task, net = make_task(problem, options)
    (images, _), size, unit = repeat(problem), len(problem["labels"]), problem["spec"]["steps"]

    def run(steps):
        for _ in range(steps // unit):
            scores = train.predict(task, net, images, batch_size=size)
        scores.block_until_ready()

    return subject(problem, options, run, unit)


def evaluate(problem, options):
    """Evaluate on a data set, as after an epoch."""
    task, net = make_task(problem, options)
    split, size, unit = repeat(problem), len(problem["labels"]), problem["spec"]["steps"]
    whole = data.Split(*split)

    def run(steps):
        for _ in range(steps // unit):
            train.evaluate(task, net, whole, batch_size=size)

    return subject(problem, options, run, unit)


def call(problem, options):
    """Pass a batch through the network that lies on the device as it takes it."""
    task, net = make_task(problem, options)
    x, _ = batch_of(problem)
    x = jax.jit(lambda x: task.prepare(jax.random.key(0), x, False))(x)
    forward = jax.jit(lambda net, x: losses.rate(net(x).readout))

    def run(steps):
        for _ in range(steps):
            rates = forward(net, x)
        rates.block_until_ready()

    return subject(problem, options, run)
