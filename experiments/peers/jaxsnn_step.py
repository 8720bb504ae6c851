"""The step in jaxsnn, as its training engine takes it. Two variants:

- "step": one call of the compiled `train.train_step` on a batch that is ready on the device;
- "epoch": `train.run_steps`, the compiled loop over an epoch, which shuffles and gathers the
  batches from a data set in memory (whole numbers of one byte, the batch repeated) by itself.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxsnn import encode, functional, losses, models, neurons, surrogate, train, tree

STEPS = 10  # of an epoch


def make_task(problem):
    """Return the task and the start values of the problem's network, with the problem's weights."""
    spec = problem["spec"]
    constants = spec["constants"]
    neuron = neurons.LIF(
        decay=constants["decay"],
        threshold=constants["threshold"],
        surrogate=surrogate.rectangle(constants["width"]),
    )
    module = models.build(spec["layout"], spec["input_shape"], neuron, rngs=nnx.Rngs(0))
    net = functional.split(module)
    params = tree.map_named(lambda name, leaf: jnp.asarray(problem[name]), net.params)
    shapes = [jax.tree.map(jnp.shape, made) for made in (params, net.params)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the problem's weights {shapes[0]} are not the network's {shapes[1]}")

    def prepare(key, x, is_training):
        del key, is_training
        if spec["constant_input"]:
            return encode.direct(x.astype(jnp.float32) / 255, spec["timesteps"])
        return jnp.moveaxis(x, 1, 0).astype(jnp.float32)

    def loss(output, labels):
        return losses.mean_squared_error(output.readout, labels)

    return train.Task(net.apply, prepare, loss), params, net.stats


def build(problem, variant):
    """Return what `measure` times; `variant` is "step" or "epoch"."""
    task, params, stats = make_task(problem)
    x, labels = jnp.asarray(problem["x"]), jnp.asarray(problem["labels"])
    if not problem["spec"]["constant_input"]:
        x = jnp.moveaxis(x, 0, 1)  # the engine's data have the samples first
    optimizer = optax.adam(problem["spec"]["learning_rate"])
    key = jax.random.key(0)

    def objective(params):
        return task.loss(task.apply(params, stats, task.prepare(key, x, True), train=True), labels)

    value, gradient = jax.jit(jax.value_and_grad(objective))(params)
    norm = optax.tree.norm(gradient)
    run, steps = (one_step if variant == "step" else one_epoch)(
        task, optimizer, train.init(params, stats, optimizer, key), x, labels
    )
    return float(value), float(norm), run, steps


def one_step(task, optimizer, state, x, labels):
    """Return run() for a single compiled step, its input laid out as the network takes it."""
    ready = jax.jit(lambda x: task.prepare(None, x, True))(x)
    task = task._replace(prepare=lambda key, x, is_training: x)
    step = jax.jit(train.train_step, static_argnums=(0, 1), donate_argnums=2)

    def run():
        nonlocal state
        state, sums = step(task, optimizer, state, ready, labels)
        jax.block_until_ready((state, sums))

    return run, 1


def one_epoch(task, optimizer, state, x, labels):
    """Return run() for an epoch of `STEPS` steps, and the number of its steps."""
    split = (jnp.tile(x, (STEPS,) + (1,) * (x.ndim - 1)), jnp.tile(labels, STEPS))
    zero = train.Sums(*(jnp.zeros((), dtype) for dtype in (float, float, float, int)))

    def run():
        nonlocal state
        sums = jax.tree.map(jnp.copy, zero)
        stop = state.step + STEPS
        state, sums = train.run_steps(task, optimizer, len(labels), state, sums, split, stop)
        jax.block_until_ready((state, sums))

    return run, STEPS
