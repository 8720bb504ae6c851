"""C that takes neurons through steps of time, in the narrowest integers that are proved enough."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxsnn.compile.digits import constants, table
from jaxsnn.compile.plan import Constants, Second, Weigh
from jaxsnn.compile.second import PREFIX, reached, second_numbers
from jaxsnn.export.integer.second import CURRENT, DELAYED

__all__ = ["NeuronCode", "chunk_of", "neurons_of"]

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

    @property
    def states(self) -> tuple[str, ...]:
        """Return the names of the arrays that hold `u` and, if there is one, `s`."""
        return ("potential",) if self.step.neurons.second is None else ("potential", "second")

    def lines(self, drive: str) -> list[str]:
        """Return a step of `u`, and of `s`: an unsigned expression is what they hear."""
        neurons, type_, known = self.step.neurons, f"int{self.bits}_t", self.known
        leak = self._leak("u", neurons, "")
        less = [f"u = ({type_})(u - ({known['theta']} & -on));"]
        if neurons.rises:
            less.append(f"u = ({type_})(u - (s & -on));")
        rest = {
            None: [leak],
            "hard": [leak, f"u = ({type_})(u & (on - 1));"],
            "soft": [*less, leak],
            "soft_undecayed": [leak, *less],
        }[neurons.reset]
        if neurons.reset is None:
            return [*rest, self._add("u", drive)]
        fires = reached(neurons, known["level"])
        fired = "on" if neurons.fires_first else fires
        second = neurons.second
        add = [self._add("u", drive)] if second is None else self._hear(second, drive)
        return [f"const int on = {fires};", *rest, *add, f"const int fires = {fired};"]

    def _hear(self, second: Second, drive: str) -> list[str]:
        """Return how both `u` and `s` go on after the reset."""
        leak, through = self._leak("s", second, PREFIX), self._add("u", "s")
        if second.kind == CURRENT:
            return [leak, self._add("s", drive), through]
        if second.kind == DELAYED:
            return [through, leak, self._add("s", drive)]
        jump = f"s = (int{self.bits}_t)(s + ({self.known[PREFIX + 'jump']} & -on));"
        return [leak, jump, self._add("u", drive)]

    def _add(self, state: str, drive: str) -> str:
        unsigned = f"uint{self.bits}_t"
        return f"{state} = (int{self.bits}_t)(({unsigned}){state} + ({unsigned})({drive}));"

    def _leak(self, state: str, leaks: Constants | Second, prefix: str) -> str:
        type_, factor, right = f"int{self.bits}_t", leaks.factor, self.known[f"{prefix}right"]
        if not (leaks.keep.any() or factor.any()):
            return f"{state} = 0;"
        product = state if (factor == 1).all() else f"{self.known[f'{prefix}factor']} * {state}"
        decayed = f"(({product}) >> {right})"
        if leaks.keep.any():
            decayed = f"{self.known[f'{prefix}keep']} * {state} + {decayed}"
        return f"{state} = ({type_})({decayed});"

    def state(self, positions: int, timesteps: int, *, last: bool) -> str:
        """Return the memory that a channel's positions need."""
        lines = []
        if self.fires:
            lines.append(f"static uint8_t fired[{timesteps * positions}];")
        if chunk_of(timesteps) < timesteps:
            lines += [f"static int{self.bits}_t {each}[{positions}];" for each in self.states]
        if last:
            lines.append(f"static int32_t total[{positions}];")
        return "\n".join(lines)

    def through_time(self, positions: int, timesteps: int, drive: str, *, last: bool) -> str:
        """Return loops over the positions of channel `o`; `drive` may name the step `TIME`."""
        chunk, outer, inner = chunk_of(timesteps), [], []
        whole = chunk == timesteps
        for name, array in zip("us", self.states, strict=False):
            inner.append(f"int{self.bits}_t {name} = {'0' if whole else f'{array}[i]'};")
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
            inner += [
                f"{array}[i] = {name};" for name, array in zip("us", self.states, strict=False)
            ]
            outer += [f"memset({array}, 0, sizeof {array});" for array in self.states]
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
    factors = [n.factor, *([] if n.second is None else [n.second.factor])]
    wide = n.bits + 1 + max(int(np.abs(factor).max()).bit_length() for factor in factors)
    narrow = narrow and wide <= 16 and int(np.abs(n.theta).max()) < 2**15
    level = n.level.clip(-(2 ** (n.bits - 1)), 2 ** (n.bits - 1)) if narrow else n.level
    numbers = {
        "shift": step.shift, "level": level, "theta": n.theta, "keep": n.keep,
        "factor": n.factor, "right": n.right,
    }  # fmt: skip
    known, arrays = constants(f"{prefix}_each", {**numbers, **second_numbers(n), **more})
    array, each = f"{prefix}_each_constant", (constant % 2**32).tolist()
    if len(set(each)) == 1:
        known["constant"] = f"UINT32_C({each[0]})"
    else:
        known["constant"], arrays[array] = f"{array}[o]", table("uint32_t", array, each)
    return NeuronCode(step, known, arrays, 16 if narrow else 32)


def chunk_of(timesteps: int) -> int:
    """Return the most steps, not beyond CHUNK, that divide all."""
    return max(n for n in range(1, CHUNK + 1) if timesteps % n == 0)
