"""A small tree of parameters, and how the tests of transformations train it and compare trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsnn.compress import masks
from jaxsnn.compress import projections as pr

DRAW = np.random.default_rng(0)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(DRAW.normal(size=shape), dtype)


PARAMS = {
    "a": {"bias": normal(3), "kernel": normal(4, 3)},
    "b": {"kernel": normal(3, 2, dtype=jnp.bfloat16)},
}
GRADIENTS = jax.tree.map(lambda p: normal(*p.shape, dtype=p.dtype), PARAMS)
RECIPE = {"*/kernel": pr.keep_largest(0.5)}
MASKS = masks.keep_fraction(PARAMS, {"*/kernel": 0.5})


def steps_of(optimizer, params, gradients, num_steps=3):
    """Run some updates under jit and return parameters and state."""

    @jax.jit
    def run(params):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, num_steps, step, (params, optimizer.init(params)))

    return run(params)


def assert_trees_close(found, expected):
    """Compare up to the order of sums, and up to where a compiler rounds to bfloat16."""

    def compare(a, b):
        assert a.dtype == b.dtype
        rtol = 4 * float(jnp.finfo(a.dtype).eps) if jnp.issubdtype(a.dtype, jnp.floating) else 0
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)

    jax.tree.map(compare, found, expected)
