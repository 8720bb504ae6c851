"""What a step costs at least: its operations and its memory traffic against the machine's rates.

Operations are those of the weights' products, two a multiply-add: forward, gradient of the weights,
gradient of the inputs (none for the first layer). Neurons, pooling and Adam are not counted.

Traffic is what cannot stay on the chip if each layer's activities are larger than its caches. With
`I` inputs and `O` currents of a layer over all samples and steps, four bytes each, in bfloat16 two:

- forward: inputs read, currents written and read, spikes written (I + 3 O), and in training the
  potentials written (O);
- backward: potentials and derivatives of the spikes read, of the currents written, and read twice
  with the inputs for both gradients (I + 5 O); derivatives of the inputs written (I);
- weights: read in both directions, and seven times for the gradient and Adam's two moments, four
  bytes each.

The estimate is the larger of both times: operations over the rate of a large matrix product, bytes
over that of a copy. A CPU whose caches hold a small network's activities may be faster.

Between the passes a step must keep the inputs of each layer with weights, for their gradient, a
byte each if they are spikes or the maxima of spikes, and one potential for each of its neurons and
steps. The network's input is an argument, which is there anyway.
"""

import math
from typing import Any

from experiments.bench.contenders import Contender, Interpreters, run_script
from experiments.bench.problems import Workload, layers_of

NUMBER = 4  # bytes of a weight
BYTES = {"float32": 4, "bfloat16": 2}  # of an activity


def multiply_adds(workload: Workload) -> list[int]:
    """Return the multiply-adds of each weighted layer, for one sample and step."""
    counts = []
    for layer in layers_of(workload.layout, workload.input_shape):
        if layer.kernel:
            places = math.prod(layer.outputs[:-1])
            feedback = layer.outputs[0] ** 2 if layer.recurrent else 0
            counts.append(places * math.prod(layer.kernel) + feedback)
    return counts


def operations(workload: Workload) -> int:
    """Return the floating point operations of a step's matrix products."""
    first, *rest = multiply_adds(workload)
    passes = (2 * first + 3 * sum(rest)) if workload.train else first + sum(rest)
    return 2 * passes * workload.timesteps * workload.batch


def traffic(workload: Workload, dtype: str = "float32") -> int:
    """Return the bytes that a step moves, as the module counts them."""
    numbers, moved, samples, is_first = 0, 0, workload.timesteps * workload.batch, True
    for layer in layers_of(workload.layout, workload.input_shape):
        if not layer.kernel:
            continue
        inputs, outputs = (samples * math.prod(s) for s in (layer.inputs, layer.outputs))
        weights = math.prod(layer.kernel) + (layer.outputs[0] ** 2 if layer.recurrent else 0)
        numbers += inputs + 3 * outputs
        moved += NUMBER * weights
        if workload.train:
            numbers += inputs + 6 * outputs + (0 if is_first else inputs)
            moved += NUMBER * 8 * weights
        is_first = False
    return moved + BYTES[dtype] * numbers


def kept(workload: Workload, dtype: str = "float32") -> int:
    """Return the least bytes that a training step keeps between its passes, arguments left out."""
    samples, number, size = workload.timesteps * workload.batch, BYTES[dtype], 0
    before = "input"
    for layer in layers_of(workload.layout, workload.input_shape):
        if layer.kernel:
            if before != "input":  # the network's input is an argument
                each = number if before == "average" else 1
                size += each * samples * math.prod(layer.inputs)
            size += number * samples * math.prod(layer.outputs)
        before = layer.kind
    return size


def estimate(workload: Workload, rates: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the operations, the bytes and the least milliseconds of a step."""
    flops, moved, rate = operations(workload), traffic(workload, dtype), rates[dtype]
    products, memory = 1e3 * flops / rate, 1e3 * moved / rates["bytes"]
    return {
        "flops": flops,
        "bytes": moved,
        "products_ms": products,
        "memory_ms": memory,
        "limit_ms": max(products, memory),
    }


def measure_rates(peers: dict[str, Contender], interpreters: Interpreters) -> dict[str, Any]:
    """Return the best rates of JAX and, if it is among the peers, PyTorch; one process each."""
    where = interpreters.environment
    found = {"jax": run_script(interpreters.of(Contender("")), "rates.py", "jax", **where)}
    if any(not peer.jax for peer in peers.values()):
        found["torch"] = run_script(interpreters.torch, "rates.py", "torch", **where)
    best = {
        what: max(one[what] for one in found.values()) for what in ("float32", "bfloat16", "bytes")
    }
    return {**best, "each": found}
