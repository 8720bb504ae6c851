"""Start values for networks whose layers' own, uniform in +-1/sqrt(fan_in), are too small."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn import draws, layers, tree
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.network import Network

__all__ = ["fan_out_start", "firing_start", "he_start"]


def he_start(key: Array, params: Any) -> Any:
    """Return weights under which rectified activations keep their size.

        W ~ Normal(0, 2 / fan_in)

    of every kernel, independently. A deep network of ReLUs without norms does not learn without it:
    the layers' own values shrink what passes through by `sqrt(6)` a layer.

    >>> found = he_start(jax.random.key(0), {"dense1": {"kernel": jnp.zeros((200, 50))}})
    >>> round(float(found["dense1"]["kernel"].std()), 2)
    0.1

    Args:
      key: random key.
      params: tree of the weights; leaves called "kernel" `[..., O]` are drawn anew, the product of
        all axes but the last being `fan_in`. All others stay.

    References: He et al. 2015, https://arxiv.org/abs/1502.01852, equation 10. The networks of Rathi
    et al. 2020 take the number of outputs in the place of `fan_in` and, in dense layers, 0.01.
    """
    return _drawn(key, params, lambda shape: math.sqrt(2.0 / math.prod(shape[:-1])))


def fan_out_start(key: Array, params: Any) -> Any:
    """Return the start values of the codes of VGG: normal, by the number of outputs.

        W ~ Normal(0, 2 / (k^2 C_out)) of convolutions      W ~ Normal(0, 0.01^2) of dense layers

    >>> found = fan_out_start(jax.random.key(0), {"dense1": {"kernel": jnp.zeros((200, 50))}})
    >>> round(float(found["dense1"]["kernel"].std()), 3)
    0.01

    Args:
      key: random key.
      params: tree of the weights; leaves called "kernel" are drawn anew, `[k, k, I, O]` as
        convolutions, `[I, O]` as dense layers. All others stay.

    Example:
      >>> found = fan_out_start(jax.random.key(0), {"dense1": {"kernel": jnp.zeros((100, 100))}})
      >>> 0.0095 < jnp.std(found["dense1"]["kernel"]) < 0.0105
      Array(True, dtype=bool)

    References: the released code of Wei et al. 2025, https://arxiv.org/abs/2502.05905.
    """

    def deviation(shape: tuple[int, ...]) -> float:
        return 0.01 if len(shape) == 2 else math.sqrt(2.0 / (math.prod(shape[:-2]) * shape[-1]))

    return _drawn(key, params, deviation)


def _drawn(key: Array, params: Any, deviation: Callable[[tuple[int, ...]], float]) -> Any:
    """Return weights whose kernels are normal, with a deviation that depends on their shape."""
    names = [name for name in tree.named_leaves(params) if name.rpartition("/")[2] == "kernel"]
    keys = dict(zip(names, jax.random.split(key, max(len(names), 1)), strict=False))

    def draw(name: str, leaf: Array) -> Array:
        if name not in keys:
            return leaf
        return draws.normal(keys[name], leaf.shape, deviation(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(jnp.asarray, tree.map_named(draw, params))


def firing_start(net: Network, x: Array | Signal) -> Network:
    """Return a spiking network whose start values are scaled until every layer fires.

        W_l <- g_l W_l      b_l <- g_l b_l      g_l = threshold_l / std(W_l o_(l-1) + b_l)

    first layer to last, those before it scaled already; the deviation is over time, samples and
    neurons. In a deep network without norms the spikes die out otherwise, and where nothing fires
    near the threshold no gradient comes back.

    Args:
      net: with start values, without norms.
      x: the input of some training samples, `[T, B, ...]` or constant.

    Raises:
      UserError: for a network with norms, which would undo the scale.

    Example:
      >>> from jaxsnn import encode, models
      >>> net = models.build("64-64-64-10", (16,))
      >>> x = encode.direct(jax.random.uniform(jax.random.key(0), (8, 16)), 4)
      >>> rates = [float(jnp.mean(each(x).activity.spikes["dense3"])) / 4
      ...          for each in (net, firing_start(net, x))]
      >>> rates[0] < 0.02 < 0.1 < rates[1]
      True

    References: after Mishkin and Matas 2016, https://arxiv.org/abs/1511.06422, who bring the
    variance of a layer's output to 1; here that of the current is brought to the threshold.
    """
    if net.has_norms:
        raise UserError("a start that fires is for networks without norms, which undo the scale")
    watched = Network.of(layers.watch(net.module))

    @jax.jit
    def deviations(params: Any) -> dict[str, Array]:
        current = watched.replace(params=params)(x).activity.current
        return {layer: jnp.std(each) for layer, each in current.items()}

    params, found = net.params, layers.synapses(net.module)
    for layer in net.flow(jax.eval_shape(lambda: x)).order:
        neurons = found[layer].neurons
        if not isinstance(neurons, layers.Neurons):
            continue
        deviation = deviations(params)[layer]
        threshold = getattr(neurons.constants(), "threshold", None)
        if threshold is None:
            kind = type(neurons.options).__name__
            raise UserError(
                f"layer {layer!r} fires by {kind}, which has no threshold to start from"
            )
        gain = jnp.where(deviation > 0, threshold / deviation, 1.0)
        own = {f"{layer}/{part}" for part in ("kernel", "recurrent", "bias")}
        scale = lambda name, leaf: leaf * gain if name in own else leaf  # noqa: B023, E731
        params = tree.map_named(scale, params)
    return net.replace(params=params)
