"""What a training step keeps for its backward pass, by layer, and what XLA makes of the step.

Nothing here is timed: these are facts of the program, whatever machine runs it. What JAX keeps is
read off the program of the forward pass, for this processor and for a GPU; what XLA's program for
this processor takes in temporary memory, and how many bytes it moves, off the compiled step. Next
to them stands the least: inputs and potentials of every weighted layer (`limits.kept`), and the
traffic of `limits.traffic`. XLA may compute again what JAX keeps, and on a CPU it does.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal
from rich.console import Console

from experiments.bench import limits
from experiments.bench.contenders import Contender
from experiments.bench.peers import jaxsnn_step
from experiments.bench.problems import WORKLOADS, Workload, make_problem
from experiments.bench.rounds import Effort
from experiments.bench.tables import new_table
from jaxsnn import train
from jaxsnn.network import Network
from jaxsnn.train import loop

SHOWN = ("W1", "W2", "W3", "W4", "vgg16")
DTYPES = ("float32", "bfloat16")
MIB = 2**20

# What lays an array out anew and needs no memory of its own.
VIEWS = {"reshape", "squeeze", "expand_dims"}

OUTSIDE = "between layers"
COLUMNS = ("kept", "kept_gpu", "least", "temporaries", "moved", "traffic")


class Kept(NamedTuple):
    """An array that the forward pass hands to the backward pass."""

    layer: str  # of whose pass it is
    what: str  # operation that made it
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Return its size."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


def kept(
    loss: Callable[..., Array], layers: tuple[str, ...], params: Any, *rest: Any
) -> list[Kept]:
    """Return what the forward pass of a loss keeps, without the arguments, which are there anyway.

    Args:
      loss: `params, *rest -> []`.
      layers: names to look for; a chain runs each layer in a scope of its name.
      params: by which the loss is differentiated; arrays or shapes.
      *rest: further arguments.
    """

    def forward(params: Any, *rest: Any) -> Any:
        return jax.vjp(lambda p: loss(p, *rest), params)[1]

    program = jax.make_jaxpr(forward)(params, *rest).jaxpr
    makers = {v: equation for equation in program.eqns for v in equation.outvars}
    found = {}
    for variable in program.outvars:
        if isinstance(variable, Literal):
            continue
        while variable in makers and makers[variable].primitive.name in VIEWS:
            variable = makers[variable].invars[0]
        made = makers.get(variable)
        if made is not None and not all(isinstance(v, Literal) for v in made.invars):
            found[variable] = made  # what is made of numbers alone needs no memory
    # Longest names first: "conv1" is in "conv12", too.
    names = sorted(layers, key=len, reverse=True)
    return [
        Kept(
            next((n for n in names if n in str(made.source_info.name_stack)), OUTSIDE),
            made.primitive.name,
            tuple(variable.aval.shape),
            str(variable.aval.dtype),
        )
        for variable, made in found.items()
    ]


def kept_of(task: train.Task, net: Network, batch: int, layers: tuple[str, ...]) -> list[Kept]:
    """Return what a training step of a task keeps; nothing is computed."""

    def loss(params: Any, samples: Array, labels: Array) -> Array:
        x = task.prepare(jax.random.key(0), samples, True)
        keys = jax.random.split(jax.random.key(1), batch)
        output = task.run(net.replace(params=params), x, train=True, key=keys, remat=task.remat)
        return task.objective(output, labels, x)

    samples = jax.ShapeDtypeStruct((batch, *task.inputs.sample_shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return kept(loss, layers, net.params, samples, labels)


def problem_of(workload: Workload, seed: int, dtype: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a workload's problem, and how ours solves it: an image is handed over once."""
    made = make_problem(workload, seed, dtype)
    options = {"step": "", "devices": "1"} | ({"direct": ""} if workload.rate is None else {})
    return made | {"spec": json.loads(str(made["spec"]))}, options


def step_of(problem: dict[str, Any], options: dict[str, str]) -> dict[str, Any]:
    """Compile a training step on one device, and return its temporaries, bytes and operations."""
    task, optimizer, state = jaxsnn_step.start(problem, options)
    x, labels = jaxsnn_step.batch_of(problem)
    prepared = jax.eval_shape(lambda x: task.prepare(jax.random.key(0), x, True), x)
    step = jax.jit(loop.train_step, static_argnums=1, donate_argnums=2)
    compiled = step.lower(jaxsnn_step.ready(task), optimizer, state, prepared, labels).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return {
        "temporaries": None if memory is None else memory.temp_size_in_bytes,
        "moved": cost.get("bytes accessed"),
        "flops": cost.get("flops"),
    }


def residuals(
    console: Console, peers: dict[str, Contender], effort: Effort, seed: int
) -> list[dict[str, Any]]:
    """Show what the steps of the workloads keep, layer by layer, and what XLA makes of them."""
    del peers
    records = []
    for name in SHOWN:
        workload = WORKLOADS[name]
        for dtype in DTYPES:
            effort.say(f"{name} {dtype}")
            record = {"workload": name, "dtype": dtype, **facts(workload, seed, dtype)}
            records.append(record)
            show(console, record)
    summary = new_table(
        "A training step on one device, MiB", "", "", "kept", "on a GPU", "least",
        "temporaries", "moved", "least",
    )  # fmt: skip
    for record in records:
        numbers = (record[n] for n in COLUMNS)
        cells = ("" if n is None else f"{n / MIB:.1f}" for n in numbers)
        summary.add_row(record["workload"], record["dtype"], *cells)
    console.print(summary)
    return records


def facts(workload: Workload, seed: int, dtype: str) -> dict[str, Any]:
    """Return what is known of a workload's step without running it."""
    problem, options = problem_of(workload, seed, dtype)
    task, net = jaxsnn_step.make_task(problem, options)
    own = kept_of(task, net, workload.batch, net.order)
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):
        found = kept_of(task, net, workload.batch, net.order)
    layers: dict[str, int] = defaultdict(int)
    for each in found:
        layers[each.layer] += each.bytes
    return {
        "kept": sum(each.bytes for each in own),
        "kept_gpu": sum(each.bytes for each in found),
        "least": limits.kept(workload, dtype),
        "traffic": limits.traffic(workload, dtype),
        "layers": dict(layers),
        "arrays": [each._asdict() | {"bytes": each.bytes} for each in found],
        **step_of(problem, options),
    }


def show(console: Console, record: dict[str, Any]) -> None:
    """Print what is kept in one step, layer by layer."""
    title = f"{record['workload']}, {record['dtype']}: kept on a GPU"
    table = new_table(title, "layer", "MiB", "arrays")
    for layer, size in record["layers"].items():
        arrays = [each for each in record["arrays"] if each["layer"] == layer]
        largest = sorted(arrays, key=lambda each: -each["bytes"])[:4]
        words = (f"{each['dtype']}{list(each['shape'])} {each['what']}" for each in largest)
        table.add_row(layer, f"{size / MIB:.2f}", "; ".join(words))
    console.print(table)
