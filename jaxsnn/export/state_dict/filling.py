"""A network with the weights of a PyTorch network of the same layers.

A state dictionary holds numbers, and not what is computed with them: the network says that, its
layers and how its neurons integrate, fire and reset. What a file does say of its neurons is taken,
or compared; what neither says is asked for.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsnn import layers, tree
from jaxsnn.errors import UserError, first_of, shortened
from jaxsnn.export import architecture
from jaxsnn.export.state_dict.files import State, read_state
from jaxsnn.export.state_dict.modules import CONSTANTS, Module, modules_of
from jaxsnn.export.state_dict.pairing import Pairs, paired
from jaxsnn.export.state_dict.places import Place, firing, kernel_of, places_of
from jaxsnn.network import Network

__all__ = ["from_torch"]

# What neurons were in the middle of when they were saved, and counters: nothing of it is needed.
STATES = ("mem", "spk", "syn", "v_mem", "i_syn", "b", "v", "num_batches_tracked")
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
# snnTorch's word for its reset, a number in the file -> the resets here that may be meant.
RESETS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("subtract", ("soft_undecayed", "soft")),
    ("zero", ("hard",)),
    ("none", ()),
)
LARGEST = float(np.finfo(np.float32).max)


def from_torch(
    source: str | Path | Mapping[str, Any],
    net: Network,
    mapping: Mapping[str, str] | None = None,
    *,
    ignore: Sequence[str] = (),
    decay_input: bool | None = None,
) -> Network:
    """Return the network with the weights of a PyTorch network of the same layers.

    Kernels are transposed, and behind a flattening their inputs put into the order that they have
    here. Norms bring their running statistics, neurons the constants that the weights hold: `beta`,
    `threshold`, recurrent weights (snnTorch), `w` (SpikingJelly's PLIF), `tau_mem`,
    `spike_threshold` (sinabs), Norse's recurrent cells. All else of the neurons, the order of their
    steps and their reset above all, is that of `net`.

    Args:
      source: a file of `torch.save(model.state_dict(), path)` or of safetensors, in which nothing
        is executed; or a state dictionary, name -> tensor.
      net: the network of these layers, such as `models.build(layout, shape, neuron)`.
      mapping: place here -> module there, such as {"conv1": "features.0", "conv1/norm":
        "features.1", "conv1/neurons": "lif1", "dense1/recurrent": "rec"}. What it leaves out is
        guessed by order and shape, where that is beyond doubt.
      ignore: patterns of names in the weights that are not for this network, such as "head.*".
      decay_input: whether the neurons there multiply their input by `1 - decay`, as those of Norse,
        SpikingJelly (`decay_input`) and sinabs (`norm_input`) do; thresholds are divided by it
        here, and the weights of a leaky read-out multiplied. snnTorch's do not.

    Raises:
      UserError: if the file is damaged or no file of weights; if places cannot be told apart, or
        nobody says what a neuron there computes; and one line with everything that is missing, left
        over or of another shape.

    Example:
      >>> from jaxsnn import models
      >>> from jaxsnn.neurons import LIF
      >>> net = models.build("3", (4,), LIF(0.5, reset="soft_undecayed"))
      >>> weights = {"fc.weight": np.ones((3, 4)), "fc.bias": np.zeros(3), "lif.beta": 0.75}
      >>> from_torch(weights, net).module.dense1.neurons.decay.item()
      0.75
    """
    where = f"{source}: " if isinstance(source, str | Path) else ""
    try:
        return _filled(read_state(source), net, dict(mapping or {}), ignore, decay_input)
    except UserError as error:
        raise (error if str(error).startswith(where) else UserError(f"{where}{error}")) from None


def _filled(
    state: State,
    net: Network,
    mapping: Mapping[str, str],
    ignore: Sequence[str],
    decay_input: bool | None,
) -> Network:
    """Return the network with the weights of a state dictionary."""
    arrays = {
        name: each
        for name, each in state.arrays.items()
        if not any(fnmatchcase(name, pattern) for pattern in ignore)
    }
    modules = modules_of(arrays)
    pairs = paired(places_of(net), modules, mapping, state.ordered)
    filling = _Filling(net)
    with np.errstate(all="ignore"):  # what is not finite is found by name
        for place, module in pairs:
            filling.take(place, module)
    filling.check(modules)
    filled = _with_leaves(net, filling.found)
    if decay_input is None:
        told = {place.name for place, module in pairs if "beta" in module.fields}
        _ask_for_gain([name for name, _ in _leaks(filled) if name not in told])
    gains = _gains(filled, bool(decay_input), pairs)
    filled = _scaled(filled, gains) if gains else filled
    architecture.check_constants(filled.module)
    return filled


class _Filling:
    """The leaves of a network that were found, and everything that does not fit."""

    def __init__(self, net: Network):
        self.params, stats = tree.named_leaves(net.params), tree.named_leaves(net.stats)
        self.leaves = self.params | stats
        self.neurons = firing(net.module)
        self.found: dict[str, np.ndarray] = {}
        self.seen: set[str] = set()  # leaves for which there was something
        self.used: set[str] = set()  # entries of the weights
        self.unlike: list[str] = []  # of another shape
        self.rules: list[str] = []  # what is computed otherwise

    def take(self, place: Place, module: Module) -> None:
        """Take the fields of a module."""
        if place.kind == "norm":
            for field, leaf in NORM.items():
                self._set(f"{place.name}/{leaf}", module, field)
        elif place.kind == "neurons":
            self._neurons(place, module)
        elif place.name.endswith("/recurrent"):
            layer = place.name.removesuffix("/recurrent")
            self._set(place.name, module, "weight")
            self._set(f"{layer}/bias", module, "bias", add=True)
        elif "input_weights" in module.fields:
            self._set(f"{place.name}/kernel", module, "input_weights", place)
            self._set(f"{place.name}/recurrent", module, "recurrent_weights")
        else:
            self._set(f"{place.name}/kernel", module, "weight", place)
            self._set(f"{place.name}/bias", module, "bias", add=True)

    def _set(
        self, leaf: str, module: Module, field: str, place: Place | None = None, add: bool = False
    ) -> None:
        """Put a field, if the module has it, into a leaf."""
        if field not in module.fields:
            return
        value = np.asarray(module.fields[field])
        value = value.astype(np.float32 if value.ndim > 1 else np.float64)  # kernels are large
        origin = None if place is None else place.origin
        if value.ndim > 1 and leaf in self.leaves:
            value = kernel_of(value, len(self.leaves[leaf].shape), origin)
        self._put(leaf, value, module, field, add)

    def _put(
        self, leaf: str, value: np.ndarray, module: Module, field: str, add: bool = False
    ) -> None:
        entry = module.entry(field)
        if leaf not in self.leaves:
            return  # then the field is left over
        self.used.add(entry)
        self.seen.add(leaf)
        expected = tuple(self.leaves[leaf].shape)
        if value.shape != expected:
            found = module.fields[field].shape
            said = f"{shortened(entry)} {found}"
            self.unlike.append(f"{leaf} is {expected}, {said} would be {value.shape}")
        elif not np.all(np.abs(value) <= LARGEST):
            self.rules.append(f"{shortened(entry)} holds numbers that are not finite in float32")
        else:
            self.found[leaf] = value + self.found.get(leaf, 0.0) if add else value

    def _neurons(self, place: Place, module: Module) -> None:
        """Take what the weights hold of neurons."""
        if "tau_adapt" in module.fields or "alpha_adapt" in module.fields:
            self.used.add(module.entry("spike_threshold"))  # a state of adaptive neurons
        for field, constant, function in CONSTANTS:
            if field in module.fields and module.entry(field) not in self.used:
                values = function(_channels(module.fields[field]))
                self._constant(place, constant, values, module, field)
        layer = place.layer
        for field in ("recurrent.weight", "rec_connect.weight"):
            self._set(f"{layer}/recurrent", module, field)
        for field in ("recurrent.bias", "rec_connect.bias"):
            self._set(f"{layer}/bias", module, field, add=True)
        for field in ("recurrent.V", "V"):  # each neuron hears itself alone
            if field in module.fields and f"{layer}/recurrent" in self.leaves:
                values = np.broadcast_to(_channels(module.fields[field]), place.shape)
                self._put(f"{layer}/recurrent", np.diag(values), module, field)
        self._check_rules(place, module)

    def _constant(
        self, place: Place, constant: str, value: np.ndarray, module: Module, field: str
    ) -> None:
        """Put a constant into its leaf, which may become one number for each channel."""
        leaf, entry = f"{place.name}/{constant}", module.entry(field)
        if leaf not in self.leaves:
            if constant == "threshold" and self._integrates(place):
                self.used.add(entry)  # a read-out never fires
            return
        self.used.add(entry)
        if not np.all(np.abs(value) <= LARGEST):
            self.rules.append(
                f"{shortened(entry)} gives a {constant} that is not finite in float32"
            )
        elif value.shape in ((), place.shape):
            self.found[leaf] = value
        else:
            self.unlike.append(f"{leaf} is () or {place.shape}, {shortened(entry)} {value.shape}")

    def _integrates(self, place: Place) -> bool:
        return isinstance(self.neurons[place.name], layers.Integrator)

    def _check_rules(self, place: Place, module: Module) -> None:
        """Compare what the weights say of the rules of neurons."""
        fields, neurons = module.fields, self.neurons[place.name]
        if "graded_spikes_factor" in fields:
            self.used.add(module.entry("graded_spikes_factor"))
            if np.any(np.asarray(fields["graded_spikes_factor"]) != 1):
                self.rules.append(f"{shortened(module.entry('graded_spikes_factor'))} is not 1")
        if "reset_mechanism_val" not in fields:
            return
        entry = module.entry("reset_mechanism_val")
        self.used.add(entry)
        number = np.asarray(fields["reset_mechanism_val"]).reshape(-1)
        if number.size != 1 or number[0] not in (0, 1, 2):
            self.rules.append(f"{shortened(entry)} is {number.tolist()[:4]}, no reset of snnTorch")
            return
        word, allowed = RESETS[int(number[0])]
        wanted = " or ".join(map(repr, allowed)) or "a leaky read-out instead"
        if isinstance(neurons, layers.Integrator):
            ours = "never resets" if allowed else ""
        else:
            reset = getattr(neurons.options, "reset", None)
            ours = "" if reset in allowed else f"resets {reset!r}"
        if ours:
            self.rules.append(
                f"{shortened(entry)} says {word!r} ({wanted} here), and {place.name} {ours}"
            )

    def check(self, modules: Sequence[Module]) -> None:
        """Raise if anything does not fit, with all of it in one line."""
        stats = ("/norm/mean", "/norm/var")
        missing = [
            f"{leaf} {tuple(array.shape)}"
            for leaf, array in self.leaves.items()
            if leaf not in self.seen
            and "/neurons/" not in leaf
            and (leaf in self.params or leaf.endswith(stats))
        ]
        left = [
            f"{shortened(module.entry(field))} {tuple(array.shape)}"
            for module in modules
            for field, array in module.fields.items()
            if module.entry(field) not in self.used and field not in STATES
        ]
        parts = {
            "missing in the weights": missing,
            "left over": left,
            "of another shape": self.unlike,
            "computed otherwise": self.rules,
        }
        if any(parts.values()):
            listed = (f"{what}: {first_of(each, ', ')}" for what, each in parts.items() if each)
            raise UserError(f"the weights do not fit the network; {'; '.join(listed)}")


def _channels(values: np.ndarray) -> np.ndarray:
    """Return a constant as a number or one for each channel."""
    values = np.asarray(values, np.float64)
    if values.size == 1:
        return values.reshape(())
    flat = values.reshape(-1)
    return flat if flat.size == max(values.shape) else values


def _with_leaves(net: Network, found: Mapping[str, np.ndarray]) -> Network:
    """Return the network with other leaves, of neurons in other shapes."""
    values = {name: jnp.asarray(each, jnp.float32) for name, each in found.items()}
    filled = net.replace(
        params=tree.substitute(net.params, values), stats=tree.substitute(net.stats, values)
    )
    return Network.of(filled.module, net.input_shape).in_range()


def _leaks(net: Network) -> list[tuple[str, np.ndarray]]:
    """Return the layers whose neurons leak, with `1 - decay`; 1 of those that do not."""
    found = []
    for name, neurons in firing(net.module).items():
        variable = getattr(neurons, "decay", None)
        if variable is not None:
            decay = np.asarray(variable[...], np.float64)
            if np.any(decay < 1.0):
                found.append((name, np.where(decay < 1.0, 1.0 - decay, 1.0)))
    return found


def _gains(net: Network, decay_input: bool, pairs: Pairs) -> dict[str, np.ndarray]:
    """Return neurons -> what they multiply their current by there and not here.

    sinabs lets a synaptic current decay before it is heard: `i[t] = alpha (i[t-1] + x[t])`.
    """
    gains = dict(_leaks(net)) if decay_input else {}
    fires = firing(net.module)
    for place, module in pairs:
        synaptic = getattr(fires.get(place.name), "synaptic_decay", None)
        if synaptic is not None and ("tau_syn" in module.fields or "alpha_syn" in module.fields):
            share = np.asarray(synaptic[...], np.float64)
            gains[place.name] = gains.get(place.name, np.ones(())) * share
    return gains


def _ask_for_gain(asked: Sequence[str]) -> None:
    if asked:
        raise UserError(
            f"nothing says whether {', '.join(asked)} multiply their input by "
            "1 - decay: pass decay_input=True (Norse; SpikingJelly and sinabs by default) or False"
        )


def _scaled(net: Network, gains: Mapping[str, np.ndarray]) -> Network:
    """Return a network whose neurons fire as those whose input is multiplied by a gain.

    With `v = (1 - decay) u`, `v[t] = decay v[t-1] + (1 - decay) x[t]` is `u[t] = decay u[t-1] +
    x[t]`, and `v > theta` is `u > theta / (1 - decay)`; so are the resets. A read-out gives `v`.
    """
    module = net.module
    neurons, synapses = firing(module), layers.synapses(module)
    for name, gain in gains.items():
        if isinstance(found := neurons[name], layers.Neurons):
            if found.options.scaled is None:
                kind = type(found.options).__name__
                raise UserError(f"{name}: {kind} does not say how it scales, for decay_input=True")
            with np.errstate(divide="ignore"):
                divided = 1.0 / gain  # infinite where nothing of a current is heard
            for constant in found.options.scaled:
                _multiply(found, constant, divided)
            continue
        layer = synapses[name.removesuffix("/neurons")]
        holder, kernel = (layer, "kernel") if layer.norm is None else (layer.norm, "scale")
        _multiply(holder, kernel, gain)
        if holder.bias is not None:
            _multiply(holder, "bias", gain)
    return Network.of(module, net.input_shape)


def _multiply(module: Any, name: str, factor: np.ndarray) -> None:
    """Multiply a variable of a module, which may become one number for each channel."""
    variable = getattr(module, name)
    values = np.asarray(variable[...], np.float64) * factor
    setattr(module, name, type(variable)(jnp.asarray(values, jnp.float32)))
