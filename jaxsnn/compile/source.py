"""A network as one C file with its header: both engines, the input, and the entry points."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from jaxsnn.compile import choice, lanes, mcu, products
from jaxsnn.compile.events import Engine
from jaxsnn.compile.plan import Plan

__all__ = ["Source", "assemble", "one_sample"]


@dataclass(frozen=True)
class Source:
    """The text of a network in C.

    Attributes:
      name: prefix of what it defines.
      code: of the `.c` file.
      header: of the `.h` file.
      table_bytes: of the constants of one sample at a time.
      state_bytes: of the static memory that it writes.

    Example:
      >>> Source("net", "int32_t net(void);", "").name
      'net'
    """

    name: str
    code: str
    header: str
    table_bytes: int = 0
    state_bytes: int = 0


def assemble(plan: Plan, name: str, notes: Mapping[str, str], *, target: str) -> Source:
    """Return the C file of a plan.

    Args:
      plan: the network.
      name: prefix of the functions, a C identifier.
      notes: what the comment on top says: provenance, one line each.
      target: "cpu", both engines; "mcu", one sample at a time alone.
    """
    guard = name.upper()
    one = choice.fastest(plan) if target == "cpu" else mcu.emit(plan)
    if target == "cpu":
        notes = {**notes, "Made to be fast on": f"{plan.processor}, and right on any processor"}
    prototypes = _prototypes(plan, name, target, one)
    top = _comment(name, notes, plan)
    include = "#include <stdint.h>\n"
    header = f"{top}#ifndef {guard}_H\n#define {guard}_H\n\n{include}\n{prototypes}\n#endif\n"
    memory = "#include <string.h>\n" if target == "cpu" else ""
    parts = [top, f"{include}{memory}\n", prototypes, one_sample(plan, name, one)]
    if target == "cpu" and choice.many_by_products(plan, one):
        if not one.takes_many:
            parts.append(products.emit(plan).functions)
        parts.append(_predict_batch(plan, name, OF_BYTES))
    elif target == "cpu":
        parts.append(_by_lanes(plan, name))
    return Source(name, "\n".join(parts), header, one.table_bytes, one.state_bytes)


def many_samples(plan: Plan, name: str) -> str:
    """Return the functions for many samples, a bit each, all but their prototypes."""
    return f"{_common(plan, name)}\n{_by_lanes(plan, name)}"


def _by_lanes(plan: Plan, name: str) -> str:
    many = lanes.emit(plan)
    types = f"\ntypedef {many.offset_type} OFFSET;\ntypedef {many.run_type} RUN;\n\n"
    parts = [types, _resource("lanes.c"), "\n", _load(plan), many.functions]
    return "\n".join([*parts, _predict_batch(plan, name, _of_lanes(plan, many))])


def one_sample(plan: Plan, name: str, one: Engine) -> str:
    """Return the functions for one sample, all but their prototypes."""
    return "\n".join([_common(plan, name), one.functions, _predict(plan, name, one)])


def _resource(name: str) -> str:
    return (resources.files("jaxsnn.compile") / name).read_text(encoding="utf-8")


def _comment(name: str, notes: Mapping[str, str], plan: Plan) -> str:
    lines = [f"{name}: a spiking network of integers."]
    lines += [f"{key}: {value}" for key, value in notes.items()]
    shape = " x ".join(map(str, plan.input.shape))
    lines += [f"Input {shape}, {plan.timesteps} steps of time, {plan.classes} scores."]
    text = "\n   ".join(line.replace("*/", "* /") for line in lines)
    return f"/* {text} */\n\n"


def sample_type(plan: Plan) -> str:
    """Return the C type of a sample's values."""
    low, high = plan.input.low, plan.input.high
    for bits in (8, 16):
        if low >= 0 and high < 2**bits:
            return f"uint{bits}_t"
        if low >= -(2 ** (bits - 1)) and high < 2 ** (bits - 1):
            return f"int{bits}_t"
    return "int32_t"


def sample_size(plan: Plan) -> int:
    """Return the number of values of a sample, over all steps if they differ."""
    return plan.input.size * (1 if plan.input.constant else plan.timesteps)


def counts_size(plan: Plan) -> int:
    """Return the number of neurons that spike."""
    return sum(layer.size for layer in plan.counted)


def _prototypes(plan: Plan, name: str, target: str, one: Engine) -> str:
    upper, type_ = name.upper(), sample_type(plan)
    order = "row by row, channels last" + ("" if plan.input.constant else ", step after step")
    batch = f"""
/* The same for many samples, which lie one after the other. With -fopenmp several threads share
   them; the scores do not depend on how many. */
void {name}_predict_batch(const {type_} *samples, int32_t *scores, int32_t count);
"""
    traced = f"""\
void {name}_trace_batch(
    const {type_} *samples, int32_t *scores, int32_t *counts, int32_t count);"""
    return f"""\
#define {upper}_SAMPLE {sample_size(plan)} /* values of a sample, {order} */
#define {upper}_CLASSES {plan.classes}
#define {upper}_NEURONS {counts_size(plan)} /* that spike */
#define {upper}_TABLES {one.table_bytes} /* bytes of constants of one sample at a time */
#define {upper}_STATE {one.state_bytes} /* bytes of static memory for it */

/* Write the scores of one sample: the sum over time of what the last layer gives.
   Values beyond {plan.input.low}..{plan.input.high} count as the nearest of these.
   Memory is static: one call of a function at a time. */
void {name}_predict(const {type_} sample[{upper}_SAMPLE], int32_t scores[{upper}_CLASSES]);
{batch if target == "cpu" else ""}
#ifdef {upper}_TRACE
/* Instead of them: the same, with the spikes of each neuron, summed over time, layer by layer. */
void {name}_trace(const {type_} *sample, int32_t *scores, int32_t *counts);
{traced if target == "cpu" else ""}
#endif
"""


def _common(plan: Plan, name: str) -> str:
    units = plan.classes * plan.voters
    return f"""
#ifdef {name.upper()}_TRACE
#define TRACE(...) __VA_ARGS__
#else
#define TRACE(...)
#endif
#ifdef __GNUC__
#define HELPER __attribute__((unused)) static inline /* no network needs them all */
#else
#define HELPER static inline
#endif
typedef {sample_type(plan)} SAMPLE;
#define UNITS {units} /* neurons of the last layer */
#define COUNTS {counts_size(plan)}
#define CLASSES {plan.classes}
#define SAMPLE_SIZE {sample_size(plan)}

static inline int32_t clip(int32_t value) {{
  if (value < {plan.input.low}) return {plan.input.low};
  return value > {plan.input.high} ? {plan.input.high} : value;
}}

static inline void vote(const int32_t *units, int32_t *scores) {{
  for (int c = 0; c < CLASSES; c++) {{
    scores[c] = 0;
    for (int v = 0; v < UNITS / CLASSES; v++) scores[c] += units[c * (UNITS / CLASSES) + v];
  }}
}}
"""


def _predict(plan: Plan, name: str, one: Engine) -> str:
    return f"""\
static void run_one(const SAMPLE *sample, int32_t *scores TRACE(, int32_t *counts)) {{
  static int32_t units[UNITS];
{one.calls}
  vote(units, scores);
}}

#ifdef {name.upper()}_TRACE
void {name}_trace(const SAMPLE *sample, int32_t *scores, int32_t *counts) {{
  for (int n = 0; n < COUNTS; n++) counts[n] = 0;
  run_one(sample, scores, counts);
}}
#else
void {name}_predict(
    const SAMPLE sample[{name.upper()}_SAMPLE], int32_t scores[{name.upper()}_CLASSES]) {{
  run_one(sample, scores);
}}
#endif
"""


def _load(plan: Plan) -> str:
    """Return the function that turns samples into planes."""
    source = plan.input
    rows, columns, channels = source.shape
    time = 1 if source.constant else plan.timesteps
    planes, low = source.planes, source.low
    out_row = source.padded[1] * channels * planes
    begin = source.border[0] * (out_row + channels * planes)
    return f"""\
/* {time} steps of {rows} x {columns} x {channels} values, each as {planes} planes */
static void load(const SAMPLE *sample, int samples, V *out) {{
  clear(out, {source.words(plan.timesteps)}, {planes}, {-low});
  for (int t = 0; t < {time}; t++)
    for (int y = 0; y < {rows}; y++)
      for (int i = 0; i < {columns * channels}; i++) {{
        const SAMPLE *from = sample + (t * {rows} + y) * {columns * channels} + i;
        uint64_t words[{planes}][WORDS];
        memset(words, 0, sizeof words);
        for (int s = 0; s < samples; s += 8) transpose(from, s, samples - s, words);
        V *to = out + t * {source.stride} + {begin} + y * {out_row} + i * {planes};
        for (int p = 0; p < {planes}; p++) memcpy(to + p, words[p], sizeof(V));
      }}
}}
""".replace("static void load", _transpose(planes, low) + "\nstatic void load", 1)


def _transpose(planes: int, low: int) -> str:
    if planes > 8:
        return f"""\
/* the planes of the same value of eight samples */
static inline void transpose(const SAMPLE *from, int s, int left, uint64_t (*words)[WORDS]) {{
  for (int k = 0; k < 8 && k < left; k++) {{
    const uint32_t value = (uint32_t)(clip(from[(s + k) * SAMPLE_SIZE]) - ({low}));
    for (int p = 0; p < {planes}; p++)
      words[p][s / 64] |= (uint64_t)((value >> p) & 1) << ((s + k) % 64);
  }}
}}
"""
    return f"""\
/* the planes of the same value of eight samples: a matrix of 8 x 8 bits, turned over */
static inline void transpose(const SAMPLE *from, int s, int left, uint64_t (*words)[WORDS]) {{
  uint64_t x = 0, y;
  for (int k = 0; k < 8 && k < left; k++)
    x |= (uint64_t)(uint8_t)(clip(from[(s + k) * SAMPLE_SIZE]) - ({low})) << (8 * k);
  y = (x ^ (x >> 7)) & UINT64_C(0x00AA00AA00AA00AA), x ^= y ^ (y << 7);
  y = (x ^ (x >> 14)) & UINT64_C(0x0000CCCC0000CCCC), x ^= y ^ (y << 14);
  y = (x ^ (x >> 28)) & UINT64_C(0x00000000F0F0F0F0), x ^= y ^ (y << 28);
  for (int p = 0; p < {planes}; p++)
    words[p][s / 64] |= ((x >> (8 * p)) & 0xFF) << (s % 64);
}}
"""


OF_BYTES = """\
/* What a thread works in. */
typedef struct {
  Bytes bytes;
  int32_t units[UNITS];
} Work;

#define AT_ONCE 1
static void run_many(const SAMPLE *sample, int samples, Work *work TRACE(, int32_t *counts)) {
  (void)samples;
  run_bytes(&work->bytes, sample, work->units TRACE(, counts));
}
"""


def _of_lanes(plan: Plan, many: lanes.Lanes) -> str:
    units = plan.classes * plan.voters
    return f"""\
/* What a thread works in: {many.arena * 8 + 256 * units} bytes for each 64 samples of a word. */
typedef struct {{
  V arena[{many.arena}];
  int32_t units[LANES * UNITS];
}} Work;

#define AT_ONCE LANES
static void run_many(const SAMPLE *sample, int samples, Work *work TRACE(, int32_t *counts)) {{
  V *arena = work->arena;
  int32_t *scores = work->units;
  load(sample, samples, arena);
{many.calls}
}}
"""


def _predict_batch(plan: Plan, name: str, engine: str) -> str:
    """Return the entry for many samples.

    Args:
      plan: the network.
      name: prefix of its functions.
      engine: what defines the type `Work`, and `run_many` for at most `AT_ONCE` samples.
    """
    upper = name.upper()
    return f"""\
{engine}
#ifdef _OPENMP
#include <omp.h>
#ifndef {upper}_THREADS
#define {upper}_THREADS 16 /* at most; the memory of others stays untouched */
#endif
static Work works[{upper}_THREADS];

static int threads(void) {{
  return omp_get_max_threads() < {upper}_THREADS ? omp_get_max_threads() : {upper}_THREADS;
}}
static Work *my_work(void) {{ return &works[omp_get_thread_num()]; }}
#else
static Work *my_work(void) {{
  static Work work;
  return &work;
}}
#endif

static void run_batch(const SAMPLE *samples, int32_t *scores, int32_t count
    TRACE(, int32_t *counts)) {{
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(threads())
#endif
  for (int32_t first = 0; first < count; first += AT_ONCE) {{
    const int used = count - first < AT_ONCE ? (int)(count - first) : AT_ONCE;
    Work *work = my_work();
    run_many(samples + (size_t)first * SAMPLE_SIZE, used, work
        TRACE(, counts + (size_t)first * COUNTS));
    for (int s = 0; s < used; s++)
      vote(work->units + s * UNITS, scores + (size_t)(first + s) * CLASSES);
  }}
}}

#ifdef {upper}_TRACE
void {name}_trace_batch(const SAMPLE *samples, int32_t *scores, int32_t *counts, int32_t count) {{
  memset(counts, 0, (size_t)count * COUNTS * sizeof(int32_t));
  run_batch(samples, scores, count, counts);
}}
#else
void {name}_predict_batch(const SAMPLE *samples, int32_t *scores, int32_t count) {{
  run_batch(samples, scores, count);
}}
#endif
"""
