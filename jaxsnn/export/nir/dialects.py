"""How each framework reads the neurons of a NIR file.

NIR (Pedersen et al. 2024, "Neuromorphic intermediate representation", Nature Communications 15)
writes a neuron as an equation in continuous time,

    tau dv/dt = (v_leak - v) + r I        spike where v > v_threshold, then v = v_reset

and leaves the step of time to the reader. Each reader makes another recurrence of it. With
`u[t] = lambda rest(u[t-1]) + x[t]` here, and `u` the same there, a file must say

| target       | lambda there | tau                    | r        | I              | spike | reset |
|--------------|--------------|------------------------|----------|----------------|-------|-------|
| nir          | 1 - dt/tau   | dt / (1 - lambda)      | tau / dt | x              | >     | hard  |
| snntorch     | 1 - dt/tau   | dt / (1 - lambda)      | tau / dt | x              | >     | hard  |
| spikingjelly | 1 - dt/tau   | dt / (1 - lambda)      | tau / dt | x              | >=    | hard  |
| norse        | 1 - dt/tau   | dt / (1 - lambda)      | 1        | x / (1-lambda) | >     | hard  |
| sinabs       | exp(-1/tau)  | -1 / ln(lambda), steps | 1        | x              | >=    | soft  |

Current-based neurons (`CubaLIF`) are those of "nir", "snntorch" and "norse": decays 1 - dt/tau_mem
and 1 - dt/tau_syn, gains (dt/tau_mem) r and (dt/tau_syn) w_in.

"nir" is the standard with the forward Euler step that most readers take. Checked in the sources of
snnTorch 1.0.0, SpikingJelly 2.0.0, Norse 1.1.0, sinabs 3.1.3 and nir 1.0.8:

- snnTorch always steps by 1e-4, makes a leaky neuron (beta 0.9) of `IF`, and wants one threshold a
  layer. A LIF whose tau is 2^30 steps has a beta of exactly 1 in float32: that is our IF.
- SpikingJelly wants one decay and one threshold a layer, and tau above one step.
- Norse ignores `r`, so the weights take it up; average pooling gets lost, so sums are written.
- sinabs ignores `v_reset`, subtracts the threshold, and fires `trunc(v / threshold)` spikes. It
  bounds the potential of `IF`, and cannot read constants laid out as `[C, H, W]`, which the
  standard demands: they are written as `[C, 1, 1]`, and such a file is read without type check.
- Norse and sinabs run branches in the order of a depth-first walk, so that a block may add the
  shortcut of the step before: no residual blocks for them.
- A recurrent layer is neurons with a `Linear` from them back to them. Norse and SpikingJelly (by
  nirtorch) let a spike arrive one step later, as here; snnTorch cannot read its own, and sinabs
  none.
- A threshold that another comparison reads is moved by one float32: `u > theta` is the same as
  `u >= nextafter(theta)`, so that ties come out as here. They do where the reader's arithmetic is
  exact, as without a leak or with half of it left; where tau or weights / (1 - lambda) are rounded,
  a tie can come out either way. Hence `to_nir` counts them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxsnn.arrays import check_range
from jaxsnn.errors import UserError
from jaxsnn.neurons import LIF, SynapticLIF

__all__ = ["DIALECTS", "Dialect", "NodeConstants", "dialect_of"]

LONG = 2.0**30  # steps of a time constant whose decay rounds to 1 in float32


class NodeConstants(NamedTuple):
    """The numbers of a neuron in the file; each a scalar or `[C]`."""

    kind: str  # "LIF" or "IF"; of read-outs "LI" or "I"
    tau: np.ndarray
    r: np.ndarray
    gain: np.ndarray  # by which weights and bias are to be multiplied


@dataclass(frozen=True)
class Dialect:
    """How one reader understands a file; the columns of the table above."""

    name: str
    dt: float = 1e-4  # seconds a step, as its importer has it unless told
    free_dt: bool = True  # whether its importer takes another dt
    exponential: bool = False  # exp(-1/tau) instead of 1 - dt/tau
    reads_r: bool = True
    strict: bool = True
    reset: str = "hard"
    several_spikes: bool = False  # trunc(v / threshold) spikes a step
    integrate_and_fire: bool = True  # whether its IF is one
    one_decay: bool = False  # the same for all channels of a layer
    one_threshold: bool = False
    forgetful: bool = True  # whether it takes a decay of 0
    average: bool = True  # whether it reads AvgPool2d; if not, SumPool2d
    integrators: tuple[str, ...] = ()  # read-outs it reads, of "I" and "LI"
    branches: bool = True
    recurrent: bool = False  # whether neurons hear their own spikes one step later
    grouped: bool = False  # whether it reads convolutions of groups, and of sequences
    synaptic: bool = False  # whether it reads current-based neurons, CubaLIF
    flat_constants: bool = False  # constants over images as [C, 1, 1]

    def timestep(self, dt: float | None) -> float:
        """Return the seconds of one step, checked; the reader's own if None."""
        if dt is None:
            return self.dt
        check_range("dt", dt, 0.0, float("inf"), open_low=True, open_high=True)
        if dt != self.dt and not self.free_dt:
            raise UserError(f"dt is {self.dt} for target {self.name}, found {dt}")
        return float(dt)

    def refuse(self, name: str, what: str) -> UserError:
        """Return the error for a layer that the target cannot express."""
        return UserError(
            f"{name}: {what}: NIR for target {self.name!r} cannot express it, StableHLO can"
        )

    def constants(self, name: str, decay: np.ndarray, dt: float, *, spiking: bool) -> NodeConstants:
        """Return what to write so that the reader's decay and gain are ours.

        Args:
          name: of the layer, for messages.
          decay: share left after one step, in [0, 1], a scalar or `[C]`.
          dt: seconds a step.
          spiking: whether the neuron fires, or is a read-out.

        Raises:
          UserError: if the target has no such neuron.
        """
        decay = np.asarray(decay, np.float64)
        if self.one_decay and np.unique(decay).size > 1:
            raise self.refuse(name, "a decay for each channel")
        if not self.forgetful and np.any(decay == 0.0):
            raise self.refuse(name, "decay 0")
        never = bool(np.all(decay == 1.0))
        if not spiking and not self.integrators:
            raise self.refuse(name, "a read-out that integrates")
        alone = np.ones_like(decay)
        if never and ("I" in self.integrators if not spiking else self.integrate_and_fire):
            r = alone / dt if self.reads_r else alone
            return NodeConstants("IF" if spiking else "I", alone, r, alone)
        with np.errstate(divide="ignore"):
            steps = -1.0 / np.log(decay) if self.exponential else 1.0 / (1.0 - decay)
        steps = np.where(decay == 1.0, LONG, steps)
        kind = "LIF" if spiking else "LI"
        if self.exponential:
            return NodeConstants(kind, steps * dt, alone, alone)
        if self.reads_r:
            return NodeConstants(kind, steps * dt, steps, alone)
        return NodeConstants(kind, steps * dt, alone, steps)

    def synaptic_constants(
        self, name: str, neuron: SynapticLIF, dt: float
    ) -> dict[str, np.ndarray]:
        """Return the numbers of a CubaLIF whose decays are ours and whose gains are 1.

        Raises:
          UserError: if the target has no such neuron.
        """
        if not self.synaptic:
            raise self.refuse(name, "neurons with a synaptic current")
        if neuron.delayed:
            raise self.refuse(name, "a synaptic current that is heard one step later")
        steps = {}
        for field, decay in (("tau_mem", neuron.decay), ("tau_syn", neuron.synaptic_decay)):
            share = np.asarray(decay, np.float64)
            with np.errstate(divide="ignore"):
                steps[field] = np.where(share == 1.0, LONG, 1.0 / (1.0 - share))
        times = {field: count * dt for field, count in steps.items()}
        return times | {"r": steps["tau_mem"], "w_in": steps["tau_syn"]}

    def synaptic_gain(
        self, tau: np.ndarray, tau_syn: np.ndarray, r: np.ndarray, w_in: np.ndarray, dt: float
    ) -> np.ndarray:
        """Return the factor from current to potential of a CubaLIF."""
        return np.asarray(w_in * dt / tau_syn * r * dt / tau)

    def threshold(self, name: str, neuron: LIF | SynapticLIF) -> np.ndarray:
        """Return the threshold to write, float32, with ties as the neuron has them."""
        threshold = np.asarray(neuron.threshold, np.float32)
        if self.one_threshold and np.unique(threshold).size > 1:
            raise self.refuse(name, "a threshold for each channel (fold norms into the kernel)")
        if neuron.strict == self.strict:
            return threshold
        return np.nextafter(threshold, np.float32(np.inf if neuron.strict else 0.0))

    def check_neuron(self, name: str, neuron: LIF | SynapticLIF) -> None:
        """Refuse a neuron of another order or reset."""
        if isinstance(neuron, LIF) and neuron.order != "integrate_then_fire":
            raise self.refuse(name, f"order {neuron.order!r}")
        if neuron.reset != self.reset:
            raise self.refuse(name, f"reset {neuron.reset!r} (only {self.reset!r})")

    def decay(self, tau: np.ndarray, dt: float) -> np.ndarray:
        """Return the share that the reader leaves of a potential after one step."""
        with np.errstate(divide="ignore"):
            return np.exp(-dt / tau) if self.exponential else 1.0 - dt / tau

    def gain(self, tau: np.ndarray, r: np.ndarray, dt: float) -> np.ndarray:
        """Return the factor from current to potential of a LIF or LI."""
        return np.ones_like(tau) if self.exponential else (r if self.reads_r else 1.0) * dt / tau


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("nir", integrators=("I", "LI"), recurrent=True, grouped=True, synaptic=True),
        Dialect(
            "snntorch",
            free_dt=False,
            integrate_and_fire=False,
            one_threshold=True,
            synaptic=True,
        ),
        Dialect(
            "norse",
            dt=1e-3,
            reads_r=False,
            average=False,
            branches=False,
            synaptic=True,
            recurrent=True,
        ),
        Dialect(
            "spikingjelly",
            recurrent=True,
            strict=False,
            one_decay=True,
            one_threshold=True,
            forgetful=False,
        ),
        Dialect(
            "sinabs",
            dt=1.0,
            free_dt=False,
            exponential=True,
            reads_r=False,
            strict=False,
            reset="soft",
            several_spikes=True,
            integrate_and_fire=False,
            forgetful=False,
            average=False,
            integrators=("LI",),
            branches=False,
            flat_constants=True,
        ),
    )
}


def dialect_of(target: str) -> Dialect:
    """Return the dialect of a target.

    Raises:
      UserError: for an unknown target.
    """
    if target not in DIALECTS:
        raise UserError(f"target {target!r} is unknown; choose one of {', '.join(DIALECTS)}")
    return DIALECTS[target]
