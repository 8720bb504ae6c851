"""The loops of a layer with weights, for many samples at once (`lanes.c`).

Time is the innermost loop, so that a neuron's potential stays at hand and no potential is stored;
only a layer that hears itself takes all its neurons through a step before the next one.
"""

from dataclasses import dataclass

import numpy as np

from jaxsnn.compile.digits import Gather
from jaxsnn.compile.plan import Constants, Plan, Second, Weigh, Wire
from jaxsnn.compile.second import PREFIX
from jaxsnn.export.integer.second import CURRENT, DELAYED

__all__ = ["LayerCode"]


@dataclass(frozen=True)
class LayerCode:
    """A layer, the lists of its bits, and how C reads its constants."""

    plan: Plan
    step: Weigh
    main: Gather  # of the kernel
    extra: Gather | None  # of the recurrent weights, or of a shortcut
    known: dict[str, str]

    @property
    def name(self) -> str:
        return f"many_{self.step.identifier}"

    @property
    def source(self) -> Wire:
        return self.plan.signals[self.step.source]

    @property
    def target(self) -> Wire:
        return self.plan.signals[self.step.target]

    @property
    def last(self) -> bool:
        """Whether its outputs are the scores."""
        return self.step is self.plan.steps[-1]

    @property
    def hears_itself(self) -> bool:
        return self.step.recurrent is not None

    @property
    def total(self) -> int:
        """The bits of an output's sum over time."""
        bits, steps = self.step.neurons.bits, self.plan.timesteps.bit_length()
        return 32 if self.step.neurons.reset is not None else min(64, bits + steps)

    @property
    def own_words(self) -> int:
        """The words that a layer that hears itself keeps over time: `own` in its function."""
        if not self.hears_itself:
            return 0
        return self.step.shape[2] * (self._before_second + self._second_words)

    @property
    def _before_second(self) -> int:
        """The words of a neuron that hears itself, but for what it carries besides."""
        return 1 + self.step.neurons.bits + self.last * self.total

    @property
    def _second_words(self) -> int:
        neurons = self.step.neurons
        return 0 if neurons.second is None else neurons.bits

    @property
    def unit(self) -> str:
        """The place of a neuron among those of its layer."""
        _, columns, outputs = self.step.shape
        return f"(y * {columns} + x) * {outputs} + o"

    def body(self) -> str:
        """Return the body of the layer's function."""
        rows, columns, _ = self.step.shape
        inner = self._time_outside() if self.hears_itself else self._time_inside()
        lines = (
            [] if self.last else [f"clear(out, {self.target.words(self.plan.timesteps)}, 1, 0);"]
        )
        lines += [
            f"for (int y = 0; y < {rows}; y++)",
            f"  for (int x = 0; x < {columns}; x++) {{",
            *_in(2, [*self._pointers(), *inner]),
            "  }",
        ]
        if not self.last:
            lines.insert(0, "(void)scores, (void)samples;")
        elif not self.hears_itself:
            lines.insert(0, "(void)out;")
        return "\n".join(_in(1, lines))

    def _pointers(self) -> list[str]:
        """Return where a position reads and writes."""
        step, source = self.step, self.source
        cell = source.shape[2] * source.planes
        row = source.padded[1] * cell
        lines = [f"const V *window = in + y * {step.stride * row} + x * {step.stride * cell};"]
        if step.shortcut is not None:
            signal, apart = self.plan.signals[step.shortcut.signal], step.shortcut.stride
            across = signal.shape[2] * signal.planes
            down = signal.padded[1] * across
            place = f"{signal.border[0] * (down + across)} + y * {apart * down}"
            lines.append(f"const V *beside = more + {place} + x * {apart * across};")
        if not self.last or self.hears_itself:
            _, columns, outputs = step.shape
            out_row = (columns + sum(self.target.border)) * outputs
            begin = self.target.border[0] * (out_row + outputs)
            lines.append(f"V *cell = out + {begin} + y * {out_row} + x * {outputs};")
        lines += [f"const RUN *run = {self.name}_runs;", f"const OFFSET *bit = {self.name}_bits;"]
        if self.extra is not None:
            lines += [
                f"const RUN *more_run = {self.name}_more_runs;",
                f"const OFFSET *more_bit = {self.name}_more_bits;",
            ]
        return lines

    def _time_inside(self) -> list[str]:
        neurons, outputs = self.step.neurons, self.step.shape[2]
        before = "NONE" if neurons.reset is None else f"pick(0 >= {self.known['level']})"
        lines = [f"V u[{neurons.bits}], before = {before};", _zero("u", neurons.bits)]
        if neurons.second is not None:
            lines += [f"V s[{neurons.bits}];", _zero("s", neurons.bits)]
        if self.last:
            lines += [f"V sum[{self.total}];", _zero("sum", self.total)]
        if self.source.constant:
            lines += self._collect("window")
        lines += [
            f"for (int t = 0; t < {self.plan.timesteps}; t++) {{",
            *_in(1, self._step()),
            "}",
            *self._advance(),
        ]
        if self.last:
            lines.append(f"to_integers(sum, {self.total}, scores + {self.unit}, samples, UNITS);")
        return [f"for (int o = 0; o < {outputs}; o++) {{", *_in(1, lines), "}"]

    def _time_outside(self) -> list[str]:
        bits, outputs, name = self.step.neurons.bits, self.step.shape[2], self.name
        lines = [
            "V *at_rest = own;",
            f"V (*state)[{bits}] = (V (*)[{bits}])(own + {outputs});",
        ]
        begin = [_zero("state[o]", bits), f"at_rest[o] = pick(0 >= {self.known['level']});"]
        now = ["V *u = state[o];", "const V before = beside[o];"]
        if self.last:
            behind = outputs * (1 + bits)
            lines.append(f"V (*totals)[{self.total}] = (V (*)[{self.total}])(own + {behind});")
            begin.append(_zero("totals[o]", self.total))
            now.append("V *sum = totals[o];")
        if self._second_words:
            behind = outputs * self._before_second
            lines.append(f"V (*seconds)[{bits}] = (V (*)[{bits}])(own + {behind});")
            begin.append(_zero("seconds[o]", bits))
            now.append("V *s = seconds[o];")
        loop = f"for (int o = 0; o < {outputs}; o++) {{"
        lines += [
            loop,
            *_in(1, begin),
            "}",
            f"for (int t = 0; t < {self.plan.timesteps}; t++) {{",
            f"  const V *beside = t ? cell + (t - 1) * {self.target.stride} : at_rest;",
            f"  run = {name}_runs, bit = {name}_bits;",
            f"  more_run = {name}_more_runs, more_bit = {name}_more_bits;",
            f"  {loop}",
            *_in(2, [*now, *self._step(), *self._advance()]),
            "  }",
            "}",
        ]
        if self.last:
            place = f"scores + {self.unit}"
            lines += [
                f"for (int o = 0; o < {outputs}; o++)",
                f"  to_integers(totals[o], {self.total}, {place}, samples, UNITS);",
            ]
        return lines

    def _advance(self) -> list[str]:
        """Return how the lists go on to the next output."""
        lines = ["bit = past_bits(run, bit);", "run = past_runs(run);"]
        if self.extra is not None:
            lines += [
                "more_bit = past_bits(more_run, more_bit);",
                "more_run = past_runs(more_run);",
            ]
        return lines

    def _collect(self, base: str) -> list[str]:
        """Return how the weighted input is counted into `a`."""
        planes = self.main.planes
        return [f"V a[{planes}];", _zero("a", planes), f"collect(a, {planes}, {base}, run, bit);"]

    def _step(self) -> list[str]:
        """Return one step of time of one neuron: rest, current, fire."""
        bits = self.step.neurons.bits
        lines = []
        if self.hears_itself or not self.source.constant:
            lines += self._collect(f"window + t * {self.source.stride}")
        state = "s" if self.step.neurons.current else "u"
        lines += self._rest()
        lines.append(f"add({state}, {bits}, a, {self.main.planes}, {self.known['shift']});")
        if self.extra is not None:
            planes, added = self.extra.planes, self.step.shortcut
            apart = 0 if added is None else self.plan.signals[added.signal].stride
            lines += [
                f"V b[{planes}];",
                _zero("b", planes),
                f"collect(b, {planes}, beside + t * {apart}, more_run, more_bit);",
                f"add({state}, {bits}, b, {planes}, 0);",
            ]
        if self.step.neurons.current == CURRENT:
            lines.append(f"add_signed(u, {bits}, s, {bits});")
        return [*lines, *self._fire()]

    def _rest(self) -> list[str]:
        """Return what reset and decay leave of all that is carried, and the constant."""
        neurons, known, bits = self.step.neurons, self.known, self.step.neurons.bits
        lines = self._rest_of_potential()
        if neurons.second is None:
            return lines
        if neurons.current == DELAYED:
            lines.append(f"add_signed(u, {bits}, s, {bits});")
        lines.append(self._leak("s", neurons.second, PREFIX))
        if neurons.rises:
            return [*lines, f"add_number(s, {bits}, {known[PREFIX + 'jump']}, before);"]
        return [*lines, f"add_number(s, {bits}, {known['constant']}, ALL);"]

    def _rest_of_potential(self) -> list[str]:
        """Return what reset and decay leave of a potential, and its constant."""
        neurons, known = self.step.neurons, self.known
        bits, reset = neurons.bits, neurons.reset
        leak, constant = self._leak("u", neurons, ""), []
        if not neurons.current:
            constant.append(f"add_number(u, {bits}, {known['constant']}, ALL);")
        risen = [f"take_away(u, {bits}, s, before);"] if neurons.rises else []
        if _forgets(neurons) and reset in (None, "hard", "soft"):
            return ["(void)before;", leak, *constant]
        if reset is None:
            return ["(void)before;", leak, *constant]
        less = f"add_number(u, {bits}, -{known['theta']}, before);"
        if reset == "hard":
            return [f"for (int i = 0; i < {bits}; i++) u[i] &= ~before;", leak, *constant]
        if reset == "soft":
            return [less, *risen, leak, *constant]
        if not constant:
            return [leak, less]
        both = f"(int64_t){known['constant']} - {known['theta']}"
        return [leak, f"add_either(u, {bits}, {known['constant']}, {both}, before);", *risen]

    def _leak(self, state: str, leaks: Constants | Second, prefix: str) -> str:
        """Return how a state decays."""
        bits, factor = self.step.neurons.bits, leaks.factor
        if _forgets(leaks):
            return _zero(state, bits)
        more = max(1, int(np.abs(factor).max()).bit_length())
        constants = ", ".join(self.known[prefix + part] for part in ("keep", "factor", "right"))
        return f"leak({state}, {bits}, {more}, {constants});"

    def _fire(self) -> list[str]:
        """Return how a neuron fires, or a read-out is summed up."""
        neurons = self.step.neurons
        bits = neurons.bits
        if neurons.reset is None:
            return [f"add_signed(sum, {self.total}, u, {bits});"]
        fired = "before" if neurons.fires_first else "after"
        level = self.known["level"]
        after = (
            f"reaches_above(u, s, {bits}, {level})"
            if neurons.rises
            else (f"reaches(u, {bits}, {level})")
        )
        lines = [f"const V after = {after}, fired = {fired};"]
        if not self.hears_itself:
            lines.append("before = after;")
        if self.last:
            lines.append(f"carry_on(sum, {self.total}, fired);")
        if not self.last or self.hears_itself:
            lines.append(f"cell[t * {self.target.stride} + o] = fired;")
        counter = f"counts + {self.plan.first_count(self.step)} + {self.unit}"
        return [*lines, f"TRACE(tally(fired, {counter}, samples, COUNTS);)"]


def _forgets(leaks: Constants | Second) -> bool:
    """Return whether nothing is left after a step."""
    return not (leaks.keep.any() or leaks.factor.any())


def _zero(array: str, planes: int) -> str:
    return f"for (int i = 0; i < {planes}; i++) {array}[i] = NONE;"


def _in(depth: int, lines: list[str]) -> list[str]:
    return ["  " * depth + line for line in lines]
