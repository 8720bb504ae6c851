"""The neurons of a NIR file as layers here, in the reading of one framework.

What a neuron multiplies its current by is no constant here: the weights before it take it up, and
those by which it hears itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsnn import layers
from jaxsnn.errors import UserError, shown
from jaxsnn.export.nir.dialects import Dialect
from jaxsnn.neurons import LIF, Neuron, SynapticLIF

__all__ = ["Reading", "exact", "refuse"]

Firing = layers.Neurons | layers.Integrator


def refuse(name: str, node: Any, what: str) -> UserError:
    """Return the error for a node that no layer here computes."""
    where = f"node {shown(name)} ({type(node).__name__})"
    return UserError(f"{where}: {what}; no layer here computes that")


def exact(gain: np.ndarray) -> np.ndarray:
    """Return the gain, and 1 where it differs only by the rounding of tau and r."""
    return np.where(np.isclose(gain, 1.0, rtol=1e-6, atol=0.0), 1.0, gain)


class Reading:
    """How neurons are read: by whose rules, with which step and reset."""

    def __init__(self, nir: Any, dialect: Dialect, dt: float, reset: str | None):
        self.nir = nir
        self.dialect, self.dt, self.reset = dialect, dt, reset

    def firing(self, name: str, node: Any, shape: Sequence[int]) -> tuple[Firing, np.ndarray]:
        """Return neurons or a read-out of a shape, and the factor of their current.

        Raises:
          UserError: for what no neuron here computes, and where nobody says how they reset.
        """
        for field in ("v_leak", "v_reset"):
            value = getattr(node, field, None)
            if value is not None and np.any(value):
                raise refuse(name, node, f"{field} other than 0")
        r = self._channels(name, node, "r", shape)
        if isinstance(node, self.nir.CubaLIF):
            return self._synaptic(name, node, r, shape)
        if isinstance(node, self.nir.LIF | self.nir.LI):
            decay, tau = self._decay(name, node, "tau", shape)
            gain = self.dialect.gain(tau, r, self.dt)
        else:
            decay = np.ones((), np.float32)
            gain = r * self.dt if self.dialect.reads_r else np.ones(())
        if isinstance(node, self.nir.LI | self.nir.I):
            return layers.Integrator(jnp.asarray(decay)), gain
        return self._neurons(name, node, shape, LIF, decay=decay), gain

    def _synaptic(
        self, name: str, node: Any, r: np.ndarray, shape: Sequence[int]
    ) -> tuple[Firing, np.ndarray]:
        """Return current-based neurons, and the factor of their current."""
        if not self.dialect.synaptic:
            raise refuse(name, node, f"neurons that {self.dialect.name} does not read")
        decay, tau = self._decay(name, node, "tau_mem", shape)
        synaptic, tau_syn = self._decay(name, node, "tau_syn", shape)
        w_in = self._channels(name, node, "w_in", shape)
        gain = self.dialect.synaptic_gain(tau, tau_syn, r, w_in, self.dt)
        found = self._neurons(
            name, node, shape, SynapticLIF, decay=decay, synaptic_decay=jnp.asarray(synaptic)
        )
        return found, gain

    def _neurons(
        self,
        name: str,
        node: Any,
        shape: Sequence[int],
        kind: Callable[..., Neuron],
        **constants: Any,
    ) -> layers.Neurons:
        threshold = self._channels(name, node, "v_threshold", shape).astype(np.float32)
        constants["decay"] = jnp.asarray(constants["decay"])
        options: dict[str, Any] = {"reset": self._reset(name, node), "strict": self.dialect.strict}
        return layers.Neurons(kind(threshold=jnp.asarray(threshold), **constants, **options))

    def _decay(
        self, name: str, node: Any, field: str, shape: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the share left after one step, and the time constant."""
        tau = self._channels(name, node, field, shape)
        decay = self.dialect.decay(tau, self.dt).astype(np.float32)
        if not np.all((decay >= 0.0) & (decay <= 1.0)):
            raise refuse(name, node, f"{field} {np.min(tau)} is below one step of {self.dt}")
        return decay, tau

    def _reset(self, name: str, node: Any) -> str:
        """Return the reset of neurons; ask for it where nobody says it."""
        if self.reset is None and node.v_reset is None:
            raise UserError(
                f"node {shown(name)} ({type(node).__name__}): does not say how it resets; pass "
                "reset='hard', 'soft' or 'soft_undecayed' (snnTorch's default)"
            )
        return self.reset or self.dialect.reset

    def _channels(self, name: str, node: Any, field: str, shape: Sequence[int]) -> np.ndarray:
        """Return a constant of neurons as a scalar or `[C]`."""
        values = np.asarray(getattr(node, field), np.float64)
        if np.unique(values).size == 1:
            return values.reshape(-1)[:1].reshape(())
        channels = values.reshape(len(values), -1)
        if len(values) != shape[-1] or np.any(channels != channels[:, :1]):
            raise refuse(name, node, f"{field} that is not the same over a channel")
        return channels[:, 0]
