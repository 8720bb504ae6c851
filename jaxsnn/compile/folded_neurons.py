"""C that takes neurons through steps of time, in the narrowest integers that are proved enough."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxsnn.compile.digits import constants, table
from jaxsnn.compile.plan import Weigh

__all__ = ["NeuronCode", "neurons_of"]

CHUNK = 8  # steps of time that a loop over positions takes a neuron through


@dataclass(frozen=True)
class NeuronCode:
    """The neurons of a layer.

    Attributes:
      step: the layer.
      known: how C reads the constants of channel `o`.
      arrays: those that differ: name -> definition.
      bits: of a potential, 16 or 32.
    """

    step: Weigh
    known: dict[str, str]
    arrays: dict[str, str]
    bits: int

    @property
    def fires(self) -> bool:
        """Return whether they are more than a read-out."""
        return self.step.neurons.reset is not None

    def lines(self, drive: str) -> list[str]:
        """Return a step of potential `u`: an unsigned expression is added to it."""
        type_, known, reset = f"int{self.bits}_t", self.known, self.step.neurons.reset
        leak = f"u = ({type_})({self._leak()});"
        less = f"u = ({type_})(u - (on ? {known['theta']} : 0));"
        rest = {
            None: [leak],
            "hard": [leak, f"u = ({type_})(on ? 0 : u);"],
            "soft": [less, leak],
            "soft_undecayed": [leak, less],
        }[reset]
        add = f"u = ({type_})((uint{self.bits}_t)u + {drive});"
        if reset is None:
            return [*rest, add]
        reached = f"u >= {known['level']}"
        fired = "on" if self.step.neurons.fires_first else reached
        return [f"const int on = {reached};", *rest, add, f"const int fires = {fired};"]

    def _leak(self) -> str:
        neurons, known = self.step.neurons, self.known
        if not (neurons.keep.any() or neurons.factor.any()):
            return "0"
        product = "u" if (neurons.factor == 1).all() else f"{known['factor']} * u"
        decayed = f"(({product}) >> {known['right']})"
        return f"{known['keep']} * u + {decayed}" if neurons.keep.any() else decayed

    def state(self, positions: int, timesteps: int, *, last: bool) -> str:
        """Return the memory that a channel's positions need."""
        lines = []
        if self.fires:
            lines.append(f"static uint8_t fired[{timesteps * positions}];")
        if _chunk(timesteps) < timesteps:
            lines.append(f"static int{self.bits}_t potential[{positions}];")
        if last:
            lines.append(f"static int32_t total[{positions}];")
        return "\n".join(lines)

    def through_time(self, positions: int, timesteps: int, drive: str, *, last: bool) -> str:
        """Return loops over the positions of channel `o`; `drive` may name the step `TIME`."""
        chunk, outer, inner = _chunk(timesteps), [], []
        whole = chunk == timesteps
        inner.append(f"int{self.bits}_t u = {'0' if whole else 'potential[i]'};")
        if last:
            inner.append(f"int32_t all = {'0' if whole else 'total[i]'};")
        for k in range(chunk):
            time = str(k) if whole else f"(t + {k})"
            step = self.lines(drive.replace("TIME", time))
            if self.fires:
                step.append(f"fired[{time} * {positions} + i] = (uint8_t)fires;")
            if last:
                step.append(f"all += {'fires' if self.fires else 'u'};")
            inner += ["{", *("  " + line for line in step), "}"]
        if last:
            inner.append("total[i] = all;")
        if not whole:
            inner.append("potential[i] = u;")
            outer.append("memset(potential, 0, sizeof potential);")
            outer += ["memset(total, 0, sizeof total);"] if last else []
            outer.append(f"for (int t = 0; t < {timesteps}; t += {chunk})")
        loop = f"for (int i = 0; i < {positions}; i++) {{"
        return "\n".join([*outer, loop, *("  " + line for line in inner), "}"])


def neurons_of(
    prefix: str, step: Weigh, constant: np.ndarray, more: Mapping[str, np.ndarray], *, narrow: bool
) -> NeuronCode:
    """Return the neurons of a layer.

    Args:
      prefix: of the arrays.
      step: the layer.
      constant: int64 `[O]`: added to the current at each step.
      more: further constants of channels.
      narrow: whether 16 bits are welcome where they are enough.
    """
    n = step.neurons
    wide = n.bits + 1 + int(np.abs(n.factor).max()).bit_length()
    narrow = narrow and wide <= 16 and int(np.abs(n.theta).max()) < 2**15
    level = n.level.clip(-(2 ** (n.bits - 1)), 2 ** (n.bits - 1)) if narrow else n.level
    numbers = {
        "shift": step.shift, "level": level, "theta": n.theta, "keep": n.keep,
        "factor": n.factor, "right": n.right,
    }  # fmt: skip
    known, arrays = constants(f"{prefix}_each", {**numbers, **more})
    array, each = f"{prefix}_each_constant", (constant % 2**32).tolist()
    if len(set(each)) == 1:
        known["constant"] = f"UINT32_C({each[0]})"
    else:
        known["constant"], arrays[array] = f"{array}[o]", table("uint32_t", array, each)
    return NeuronCode(step, known, arrays, 16 if narrow else 32)


def _chunk(timesteps: int) -> int:
    """Return the most steps, not beyond CHUNK, that divide all."""
    return max(n for n in range(1, CHUNK + 1) if timesteps % n == 0)
