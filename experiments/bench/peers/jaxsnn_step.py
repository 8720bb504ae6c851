"""The step in jaxsnn, by its public functions alone. The first word of the variant says which:

- "epoch": `train.run_steps`, the compiled loop over an epoch, which shuffles and gathers the
  batches from a data set in memory (whole numbers of one byte, the batch repeated) by itself;
- "step": one call of the compiled `train.train_step` on a batch that is ready on the device;
- "predict": `train.predict` over such a data set;
- "evaluate": `train.evaluate` over it, which also counts spikes and events;
- "call": one call of the compiled network on a batch that is ready, on one device.

Others may follow: `flavour=NAME` of `FLAVOURS`, `direct` (a direct-coded image is handed over once,
not at every step), `plain` (no process-wide settings), `micro_batches=N`, `devices=N`.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.bench.contenders import FLAVOURS
from jaxsnn import data, encode, losses, models, neurons, surrogate, train, tree
from jaxsnn import network as functional
from jaxsnn.train import host, parallel

PACKAGES = ("jax", "jaxlib", "flax", "optax")


def options_of(variant):
    """Return the words of a variant as a dictionary.

    >>> options_of("epoch flavour=late plain")
    {'epoch': '', 'flavour': 'late', 'plain': ''}
    """
    return dict(word.partition("=")[::2] for word in variant.split())


def prepare_process(options):
    """Make the settings of the whole process, before JAX starts; none of them for "plain"."""
    if "plain" not in options:
        host.tune()


def make_network(spec, flavour):
    """Return the problem's network, with start values of our own."""
    neuron = neurons.LIF(
        decay=spec["decay"],
        threshold=spec["threshold"],
        surrogate=surrogate.atan(spec["alpha"]),
        **FLAVOURS[flavour],
    )
    options = {"dtype": jnp.dtype(spec["dtype"]), "rngs": nnx.Rngs(0)}
    if spec["builder"]:
        return getattr(models, spec["builder"])(spec["input_shape"], neuron, **options)
    return models.build(spec["layout"], spec["input_shape"], neuron, **options)


def make_task(problem, options):
    """Return the task, the problem's weights and the network's other arrays."""
    spec = problem["spec"]
    net = functional.split(make_network(spec, options.get("flavour", "subtract")))
    params = net.params
    if not spec["builder"]:
        params = tree.map_named(lambda name, leaf: jnp.asarray(problem[name]), net.params)

    def prepare(key, x, is_training):
        del key, is_training
        if not spec["direct"]:
            return jnp.moveaxis(x, 1, 0).astype(jnp.float32)
        x = x.astype(jnp.float32) / 255
        if "direct" in options:
            return encode.direct(x, spec["timesteps"])
        return jnp.broadcast_to(x[None], (spec["timesteps"], *x.shape))

    def loss(output, labels):
        return losses.cross_entropy(output.readout, labels)

    every = parallel.most_devices(len(problem["labels"]))
    task = train.Task(
        net.apply,
        prepare,
        loss,
        micro_batches=int(options.get("micro_batches", 1)),
        devices=int(options.get("devices", every)),
    )
    return task, params, net.stats


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
    task, params, stats = make_task(problem, options)
    x, labels = batch_of(problem)

    def objective(params):
        output = task.apply(params, stats, task.prepare(None, x, True), train=True)
        return task.loss(output, labels), output.readout.mean()

    if not problem["spec"]["train"]:
        loss, rate = jax.jit(objective)(params)
        return {"loss": float(loss), "rate": float(rate)}
    (loss, rate), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    norm = optax.global_norm(gradient)
    return {"loss": float(loss), "rate": float(rate), "gradient_norm": float(norm)}


def start(problem, options):
    """Return the task, the optimizer and the state before the first step."""
    task, params, stats = make_task(problem, options)
    optimizer = optax.adam(problem["spec"]["learning_rate"])
    return task, optimizer, train.init(params, stats, optimizer, jax.random.key(0))


def subject(problem, options, run, unit=1, **facts):
    """Return what `measure` wants."""
    where = {"device": jax.devices()[0].device_kind, "devices": jax.local_device_count()}
    check = lambda: check_in(problem, options)  # noqa: E731
    return {"run": run, "check": check, "unit": unit, **where, **facts}


def epoch(problem, options):
    """Train by whole epochs, each one compiled loop."""
    task, optimizer, state = start(problem, options)
    split, size, unit = repeat(problem), len(problem["labels"]), problem["spec"]["steps"]
    zero = train.Sums(jnp.float32(0), jnp.float32(0), jnp.float32(0), jnp.int32(0))

    def run(steps):
        nonlocal state
        for _ in range(steps // unit):
            sums = jax.tree.map(jnp.copy, zero)
            stop = state.step + unit
            state, sums = train.run_steps(task, optimizer, size, state, sums, split, stop)
        jax.block_until_ready((state, sums))

    return subject(problem, options, run, unit)


def step(problem, options):
    """Train by single steps, on a batch that lies on the device as the network takes it."""
    task, optimizer, state = start(problem, options)
    x, labels = batch_of(problem)
    x = jax.jit(lambda x: task.prepare(None, x, True))(x)
    ready = task._replace(prepare=lambda key, x, is_training: x)
    jitted = jax.jit(train.train_step, static_argnums=(0, 1), donate_argnums=2)
    compiled = jitted.lower(ready, optimizer, state, x, labels).compile()

    def run(steps):
        nonlocal state
        for _ in range(steps):
            state, sums = compiled(state, x, labels)
        jax.block_until_ready((state, sums))

    memory = compiled.memory_analysis()
    temporaries = None if memory is None else memory.temp_size_in_bytes / 2**20
    return subject(problem, options, run, temporaries_mib=temporaries)


def predict(problem, options):
    """Predict on a data set."""
    task, params, stats = make_task(problem, options)
    (images, _), size, unit = repeat(problem), len(problem["labels"]), problem["spec"]["steps"]

    def run(steps):
        for _ in range(steps // unit):
            scores = train.predict(task, params, stats, images, batch_size=size)
        scores.block_until_ready()

    return subject(problem, options, run, unit)


def evaluate(problem, options):
    """Evaluate on a data set, as after an epoch."""
    task, params, stats = make_task(problem, options)
    split, size, unit = repeat(problem), len(problem["labels"]), problem["spec"]["steps"]
    whole = data.Split(*split)

    def run(steps):
        for _ in range(steps // unit):
            train.evaluate(task, params, stats, whole, batch_size=size)

    return subject(problem, options, run, unit)


def call(problem, options):
    """Pass a batch through the network that lies on the device as it takes it."""
    task, params, stats = make_task(problem, options)
    x, _ = batch_of(problem)
    x = jax.jit(lambda x: task.prepare(None, x, False))(x)
    forward = jax.jit(lambda params, x: losses.rate(task.apply(params, stats, x).readout))

    def run(steps):
        for _ in range(steps):
            rates = forward(params, x)
        rates.block_until_ready()

    return subject(problem, options, run)
