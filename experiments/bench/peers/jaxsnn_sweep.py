"""A sweep of several networks in jaxsnn: the lanes of one program, or one program called for each.

A step is one training step of all of them on the same batch. The variant's first word says how:

- "vmap": `jax.vmap` of `loop.train_step` over the stacked states, on one device;
- "loop": one compiled `loop.train_step`, called once for each network, the batch shared out over
  the local devices;
- "spread": as "vmap", the lanes shared out over the local devices (one for each core of a CPU).
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.bench.peers.jaxsnn_step import (
    batch_of,
    check_in,
    options_of,
    prepare_process,
    ready,
    start,
)
from jaxsnn import tree
from jaxsnn.compress.phase import as_phase
from jaxsnn.train import loop, parallel

PACKAGES = ("jax", "jaxlib", "flax", "optax")
TAKES_LANES = True  # the weights have the lanes as first axis

LANES, EVERYWHERE = PartitionSpec("lanes"), PartitionSpec()


def lane(problem, number):
    """Return the problem of one network."""
    return {k: v[number] if "/" in k else v for k, v in problem.items()}


def stack(states):
    """Return the states of all lanes as one, with the lanes as first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def make_step(problem, options):
    """Return a function of the states of all lanes that takes a step, and the first states."""
    task, optimizer, first = start(lane(problem, 0), options)
    weights = [
        tree.map_named(lambda name, leaf, i=i: jnp.asarray(problem[name][i]), first.net.params)
        for i in range(problem["spec"]["lanes"])
    ]
    phase, key = as_phase(optimizer), jax.random.key(0)
    states = [loop.init(first.net.replace(params=w), phase, key) for w in weights]
    x, labels = batch_of(problem)
    x = jax.jit(lambda x: task.prepare(key, x, True))(x)
    task = ready(task)

    def one(state, x, labels):
        return loop.train_step(task, optimizer, state, x, labels)[0]

    if "loop" in options:
        states, x, labels = parallel.replicate((states, x, labels), task.devices)
        call = jax.jit(one, donate_argnums=0)
        return lambda states: [call(state, x, labels) for state in states], states

    task = replace(task, devices=1)
    every, states = jax.vmap(one, in_axes=(0, None, None)), stack(states)
    if "spread" in options:
        mesh = Mesh(np.array(jax.local_devices()), ("lanes",))
        specs = (LANES, EVERYWHERE, EVERYWHERE)
        every = jax.shard_map(every, mesh=mesh, in_specs=specs, out_specs=LANES, check_vma=False)
        states = jax.device_put(states, NamedSharding(mesh, LANES))
        x, labels = jax.device_put((x, labels), NamedSharding(mesh, EVERYWHERE))
    call = jax.jit(every, donate_argnums=0)
    return lambda states: call(states, x, labels), states


def build(problem, variant):
    """Return what `measure` times."""
    options = options_of(variant)
    prepare_process(options)
    step, states = make_step(problem, options)

    def run(steps):
        nonlocal states
        for _ in range(steps):
            states = step(states)
        jax.block_until_ready(states)

    def check():
        found = [check_in(lane(problem, i), options) for i in range(problem["spec"]["lanes"])]
        return {name: float(np.mean([one[name] for one in found])) for name in ("loss", "rate")}

    return {"run": run, "check": check, "devices": jax.local_device_count()}
