"""A sweep of several networks in jaxsnn: the lanes of one program, or one program called for each.

A step is one training step of all of them on the same batch. The variant's first word says how:

- "vmap": `jax.vmap` of `train.train_step` over the stacked states;
- "loop": one compiled `train.train_step`, called once for each network;
- "spread": as "vmap", the lanes shared out over the local devices (one for each core of a CPU).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from experiments.peers.jaxsnn_step import batch_of, check_in, options_of, prepare_process, start
from jaxsnn import train, tree

PACKAGES = ("jax", "jaxlib", "flax", "optax")
TAKES_LANES = True  # the weights have the lanes as first axis


def lane(problem, number):
    """Return the problem of one network."""
    return {k: v[number] if "/" in k else v for k, v in problem.items()}


def build(problem, variant):
    """Return what `measure` times."""
    options = options_of(variant)
    prepare_process(options)
    lanes = problem["spec"]["lanes"]
    task, optimizer, first = start(lane(problem, 0), options)
    weights = [
        tree.map_named(lambda name, leaf, i=i: jnp.asarray(problem[name][i]), first.params)
        for i in range(lanes)
    ]
    states = [train.init(p, first.stats, optimizer, jax.random.key(0)) for p in weights]
    x, labels = batch_of(problem)
    x = jax.jit(lambda x: task.prepare(None, x, True))(x)
    task = task._replace(prepare=lambda key, x, is_training: x)

    def one(state, x, labels):
        return train.train_step(task, optimizer, state, x, labels)

    def check():
        found = [check_in(lane(problem, i), options) for i in range(lanes)]
        return {name: float(np.mean([one[name] for one in found])) for name in ("loss", "rate")}

    if "loop" in options:
        step = jax.jit(one, donate_argnums=0)

        def run(steps):
            nonlocal states
            for _ in range(steps):
                states = [step(state, x, labels)[0] for state in states]
            jax.block_until_ready(states)

        return {"run": run, "check": check}

    all_lanes = jax.vmap(one, in_axes=(0, None, None))
    if "spread" in options:
        devices = np.array(jax.local_devices())
        if lanes % len(devices):
            raise ValueError(f"{lanes} lanes cannot be shared out over {len(devices)} devices")
        split, whole = PartitionSpec("lanes"), PartitionSpec()
        all_lanes = jax.shard_map(
            all_lanes,
            mesh=Mesh(devices, ("lanes",)),
            in_specs=(split, whole, whole),
            out_specs=split,
            check_vma=False,
        )
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step = jax.jit(all_lanes, donate_argnums=0)

    def run(steps):
        nonlocal stacked
        for _ in range(steps):
            stacked, _ = step(stacked, x, labels)
        jax.block_until_ready(stacked)

    return {"run": run, "check": check, "devices": jax.local_device_count()}
