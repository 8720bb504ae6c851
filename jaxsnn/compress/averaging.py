"""Averages of the weights over the steps of a training: less noise than those of the last step.

    m_0 = w_0        m_t = d m_(t-1) + (1 - d) w_t

with the weights `w_t` after step t, which the network shows, and the average `m_t`, which it hands
over. Running statistics of norms belong to the weights that made them: those of an average are
measured anew (`train.settling`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsnn.arrays import Number, at_least_float32, check_range
from jaxsnn.compress.phase import Finished, Phase, plain_optimizer
from jaxsnn.compress.states import find, require_params

__all__ = ["AverageState", "averaged"]


class AverageState(NamedTuple):
    """State of `averaged`."""

    mean: Any  # the averages, like the parameters, float32 or wider


def averaged(inner: optax.GradientTransformation, decay: Number) -> Phase:
    """Train with an optimizer, and hand over the average of its weights.

    >>> phase, params = averaged(optax.sgd(1.0), 0.5), {"w": jnp.asarray([0.0])}
    >>> state = phase.optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = phase.optimizer.update({"w": jnp.asarray([-8.0])}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params["w"].tolist(), phase.finish(params, state).params["w"].tolist()
    ([16.0], [10.0])

    Args:
      inner: the optimizer.
      decay: `d`, in [0, 1), may be traced; the average is over about 1 / (1 - d) steps.

    Raises:
      UserError: if the decay is out of range or `inner` is no optimizer.

    References: Polyak and Juditsky 1992, https://doi.org/10.1137/0330046; Izmailov et al. 2018,
    https://arxiv.org/abs/1803.05407, who measure the statistics of norms anew, too.
    """
    check_range("decay of the average", decay, 0, 1, open_high=True)

    def init_fn(params: Any) -> AverageState:
        copied = lambda w: jnp.array(at_least_float32(w))  # noqa: E731
        return AverageState(jax.tree.map(copied, params))

    def update_fn(
        updates: Any, state: AverageState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AverageState]:
        del extra_args
        require_params(params, "averaged")
        after = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, w: m + (1 - decay) * (w - m), state.mean, after)
        return updates, AverageState(mean)

    def finish(params: Any, opt_state: optax.OptState) -> Finished:
        mean = find(opt_state, AverageState).mean
        return Finished(jax.tree.map(lambda w, m: m.astype(w.dtype), params, mean), {})

    follow = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return Phase(optax.chain(plain_optimizer(inner), follow), finish=finish)
