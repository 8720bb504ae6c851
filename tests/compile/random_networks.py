"""Random networks over all kinds of layers and neurons, and their C beside a reference in int64."""

import ctypes
import subprocess
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxsnn import models, tree
from jaxsnn.compile import call, source
from jaxsnn.compile.plan import PROCESSORS, Plan, make_plan
from jaxsnn.errors import UserError
from jaxsnn.export import to_integer
from jaxsnn.export.integer import IntegerGrid
from jaxsnn.native.builder import build
from jaxsnn.neurons import LIF, AdaptiveLIF, SynapticLIF
from tests.export.integer.integer_cases import reference

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror")
GRIDS = [
    IntegerGrid(unit, low, high)
    for unit, low, high in (
        (1.0, 0, 1),
        (1 / 255, 0, 255),
        (1.0, -1, 1),
        (0.5, 0, 255),
        (0.25, -100, 90),
        (1.0, -300, 999),
    )
]
LAYOUTS = (
    "{a}-{b}", "{a}-{b}-{c}", "{a}R-{c}", "{a}-{b}R-{c}", "{a}R", "{a}-{b}-V{v}",
    "{a}C3-{c}", "{a}C3-AP2-{b}C3V-{c}", "{a}C5-MP2-{b}C3S2-{c}", "AP2-{a}C3-MP3-{b}-{c}",
    "{a}C2S2-{b}C3-AP2-AP2-{c}", "{a}C3-{b}B3-AP2-{c}", "{a}B3S2-{b}B3M3-{c}",
    "{a}C3V-MP2-{b}R-{c}", "MP2-{a}C1-{b}C4V-{c}", "{a}C3-AP2-{a}B3-{b}-V{v}",
)  # fmt: skip
OTHER = len(LAYOUTS) * 100_000  # to another seed of the same layout


@dataclass(frozen=True)
class Case:
    """A network of integers and samples for it."""

    layout: str
    integers: object
    shape: tuple[int, ...]
    samples: np.ndarray  # [N, *shape] if constant, [N, T, *shape] else
    constant: bool
    processor: str = PROCESSORS[0]  # that the C is made for

    @property
    def plan(self) -> Plan:
        return make_plan(
            self.integers, self.shape, constant=self.constant, processor=self.processor
        )

    @property
    def over_time(self) -> np.ndarray:
        """The samples, `[T, N, *shape]`."""
        if self.constant:
            return np.broadcast_to(self.samples, (self.integers.timesteps, *self.samples.shape))
        return self.samples.swapaxes(0, 1)


def neurons_of(seed: int, layout: str, plain: LIF) -> object:
    """Return the neurons of a seed: LIF for half of them, else two of the others."""
    random = np.random.default_rng([seed, 1])
    if random.integers(2):
        return plain
    options = {"reset": plain.reset, "strict": plain.strict}

    def other() -> SynapticLIF | AdaptiveLIF:
        slow = float(random.choice([0.0, 0.25, 0.5, 0.9, 1.0]))
        if random.integers(2):
            delayed = bool(random.integers(2))
            return SynapticLIF(plain.decay, plain.threshold, slow, delayed=delayed, **options)
        jump = float(random.choice([0.0, 0.1, 0.25, 2.0]))
        return AdaptiveLIF(plain.decay, plain.threshold, jump, slow, **options)

    if "-" not in layout:
        return other()
    return {"dense*" if set("CB") & set(layout) else "dense1": other(), "*": other()}


def draw(seed: int, samples: int = 5) -> Case:
    """Return the network of a seed; half of them fill int8 or int16 potentials to the brim."""
    random = np.random.default_rng(seed)
    pick = lambda *options: options[random.integers(len(options))]  # noqa: E731
    shape = (int(random.integers(5, 9)), int(random.integers(5, 9)), int(random.integers(1, 4)))
    layout = LAYOUTS[seed % len(LAYOUTS)]
    sizes = {name: int(random.integers(2, 7)) for name in "abc"}
    layout = layout.format(**sizes, v=pick(*(n for n in range(1, 7) if sizes["b"] % n == 0)))
    if "C" not in layout and "B" not in layout:
        shape = (int(np.prod(shape)) // 3,)
    recurrent = "R" in layout
    neuron = LIF(
        pick(0.0, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0),
        float(random.choice([0.3, 0.5, 1.0, 1.5])),
        reset=pick("hard", "soft", "soft_undecayed"),
        order="integrate_then_fire"
        if recurrent
        else pick("integrate_then_fire", "fire_then_integrate"),
        strict=bool(random.integers(2)),
    )
    bits = int(random.integers(1, 8))
    readout = "spikes" if layout.endswith("R") else pick("spikes", "leaky", "current")
    try:
        net = models.build(layout, shape, neurons_of(seed, layout, neuron), readout=readout)
    except UserError:  # windows that leave nothing of a small image, blocks that cannot add
        return draw(seed + OTHER, samples)

    def weights(name, leaf):
        codes = random.integers(-(2**bits), 2**bits + 1, leaf.shape)
        codes = codes * (random.random(leaf.shape) < random.choice([0.1, 0.5, 1.0]))
        scale = random.uniform(0.1, 2.0) / max(1, np.abs(codes).max()) / np.sqrt(leaf.ndim)
        return jnp.asarray(codes * scale, jnp.float32)

    net = net.replace(params=tree.map_named(weights, net.params))
    grid, constant, steps = pick(*GRIDS), bool(random.integers(2)), int(random.integers(1, 7))
    options = {"leak": pick("multiply", "power_of_two"), "leak_bits": int(random.integers(2, 9))}
    for state_bits in (pick(8, 16), 24, 32) if random.integers(2) else (32,):
        try:
            integers = to_integer(net, grid, steps, state_bits=state_bits, **options)
            break
        except UserError:
            continue
    else:
        return draw(seed + OTHER, samples)
    size = (samples, *shape) if constant else (samples, steps, *shape)
    x = random.integers(grid.low, grid.high + 1, size)
    x[0] = grid.high  # the largest potentials
    return Case(layout, integers, shape, x, constant, PROCESSORS[seed // 3 % len(PROCESSORS)])


def compiled(case: Case, flags: tuple[str, ...] = ("-O1",), compiler: str | None = None):
    """Return the traced C library of a network."""
    code = source.assemble(case.plan, "net", {}, target="cpu").code
    return ctypes.CDLL(str(build(code, (*STRICT, "-DNET_TRACE", *flags), compiler=compiler)))


MAIN = """
#include <stdio.h>
static SAMPLE sample[SAMPLE_SIZE];
static int32_t scores[CLASSES], counts[COUNTS + 1];
int main(void) {
  while (fread(sample, sizeof sample, 1, stdin) == 1) {
    net_trace(sample, scores, counts);
    fwrite(scores, sizeof scores, 1, stdout);
    fwrite(counts, sizeof(int32_t), COUNTS, stdout);
#ifdef NET_BATCH
    net_trace_batch(sample, scores, counts, 1);
    fwrite(scores, sizeof scores, 1, stdout);
    fwrite(counts, sizeof(int32_t), COUNTS, stdout);
#endif
  }
  return 0;
}
"""


def run_program(case: Case, folder, flags, compiler, values=None):
    """Compile the network with a `main`, run it, and return what it gives, a row a sample."""
    target = "cpu" if "-DNET_BATCH" in flags else "mcu"
    code = source.assemble(case.plan, "net", {}, target=target).code
    (folder / "net.c").write_text(code + MAIN)
    command = [*compiler, *STRICT, "-DNET_TRACE", *flags, "net.c", "-o", "net"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    values = values or call.checked(case.samples, case.plan).tobytes()
    done = subprocess.run([folder / "net"], input=values, capture_output=True, check=True)
    assert done.stderr == b""
    return np.frombuffer(done.stdout, np.int32).reshape(len(case.samples), -1)


def run(case: Case, library, *, batched: bool):
    """Return the scores and the spike counts that the C code gives."""
    plan = case.plan
    values = call.checked(case.samples, plan)
    scores = np.full((len(values), plan.classes), -7, np.int32)
    counts = np.full((len(values), max(1, source.counts_size(plan))), -7, np.int32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (values, scores, counts)]
    if batched:
        library.net_trace_batch(*pointers, ctypes.c_int32(len(values)))
    else:
        for i in range(len(values)):
            library.net_trace(
                *(a[i].ctypes.data_as(ctypes.c_void_p) for a in (values, scores, counts))
            )
    return scores, counts[:, : source.counts_size(plan)]


def expected(case: Case):
    """Return the scores and counts of the reference in int64."""
    readout, counts, _ = reference(case.integers, case.over_time)
    spikes = [counts[layer.name].reshape(len(case.samples), -1) for layer in case.plan.counted]
    return readout.sum(0), np.concatenate(spikes, 1) if spikes else np.zeros((len(case.samples), 0))


def assert_equal(case: Case, library):
    """Assert that both engines give the scores and every neuron's count of the reference."""
    scores, counts = expected(case)
    for batched in (True, False):
        found = run(case, library, batched=batched)
        np.testing.assert_array_equal(found[0], scores, err_msg=case.layout)
        np.testing.assert_array_equal(found[1], counts, err_msg=case.layout)
