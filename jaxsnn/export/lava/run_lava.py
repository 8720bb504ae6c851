"""Run the network beside this file in lava's bit-accurate model of Loihi.

    pip install lava-nc                                     # needs Python 3.10
    python run_lava.py SAMPLES.npy [SCORES.npy]

SAMPLES holds integers, `[N, *shape]` of an input that stays the same, `[N, T, *shape]` else. Each
connection takes a step, so a layer runs `first` steps behind the input.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["build", "load", "over_time", "scores_of", "spikes_of"]


def load(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what the file says of the network, and its arrays."""
    with np.load(Path(folder, "network.npz")) as file:
        arrays = dict(file)
    return json.loads(arrays.pop("network").tobytes()), arrays


def over_time(network: dict[str, Any], sample: np.ndarray) -> np.ndarray:
    """Return what a sample sends in each step, `[inputs, steps]`, 0 when it is over."""
    times = network["timesteps"]
    flat = sample.reshape(1, -1) if network["constant"] else sample.reshape(times, -1)
    sent = np.broadcast_to(flat, (times, flat.shape[1])).T
    behind = network["layers"][-1]["first"]
    return np.pad(sent, ((0, 0), (0, behind))).astype(np.int32)


def build(network: dict[str, Any], arrays: dict[str, np.ndarray], sent: np.ndarray) -> list[Any]:
    """Return the LIF processes of all layers, connected, with what is sent as their source."""
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIF
    from lava.proc.sparse.process import Sparse
    from scipy.sparse import csr_matrix

    def connect(source: Any, target: Any, layer: dict[str, Any], place: str, bits: int) -> None:
        rows, columns, weights = (
            arrays[f"{place}_{part}"] for part in ("targets", "sources", "weights")
        )
        matrix = csr_matrix((weights, (rows, columns)), shape=tuple(layer["size"]))
        wires = Sparse(weights=matrix, weight_exp=layer["exponent"], num_message_bits=bits)
        source.connect(wires.s_in)
        wires.a_out.connect(target.a_in)

    source = RingBuffer(data=sent).s_out
    bits = network["message_bits"]
    neurons = []
    for number, layer in enumerate(network["layers"]):
        get = {part: arrays[f"{number}.{part}"] for part in ("vth", "start")}
        found = LIF(
            shape=get["vth"].shape, vth=get["vth"], v=get["start"], du=4095, dv=layer["dv"],
            bias_mant=arrays[f"{number}.bias_mantissa"], bias_exp=arrays[f"{number}.bias_exponent"],
        )  # fmt: skip
        connect(source, found, layer["inward"], f"{number}.inward", bits)
        if layer["recurrent"] is not None:
            connect(found.s_out, found, layer["recurrent"], f"{number}.recurrent", 0)
        neurons.append(found)
        source, bits = found.s_out, 0
    return neurons


def spikes_of(
    network: dict[str, Any], arrays: dict[str, np.ndarray], sample: np.ndarray
) -> list[np.ndarray]:
    """Return each layer's spikes of a sample, `[T, neurons]`; of a read-out its potentials."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.monitor.process import Monitor

    sent = over_time(network, sample)
    neurons = build(network, arrays, sent)
    steps = sent.shape[1]
    monitors = [Monitor() for _ in neurons]
    probed = [each.s_out for each in neurons]
    if network["silent"]:
        probed[-1] = neurons[-1].v
    for monitor, port in zip(monitors, probed, strict=True):
        monitor.probe(port, steps)
    neurons[-1].run(
        condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt")
    )
    data = [next(iter(next(iter(each.get_data().values())).values())) for each in monitors]
    neurons[-1].stop()
    times = network["timesteps"]
    firsts = [layer["first"] for layer in network["layers"]]
    return [
        each[first : first + times].astype(np.int64)
        for each, first in zip(data, firsts, strict=True)
    ]


def scores_of(network: dict[str, Any], last: np.ndarray) -> np.ndarray:
    """Return the scores `[classes]` of what the last layer gave, `[T, neurons]`."""
    layer = network["layers"][-1]
    total = last[-1] if layer["summed"] else last.sum(0)
    units = total >> layer["behind"] if network["silent"] else total
    scores: np.ndarray = units.reshape(network["classes"], -1).sum(1)
    return scores


def main(samples: str, out: str | None = None) -> None:
    """Run samples, one after the other, and print or write their scores."""
    network, arrays = load(Path(__file__).parent)
    found = [scores_of(network, spikes_of(network, arrays, x)[-1]) for x in np.load(samples)]
    if out is None:
        print(np.stack(found))
    else:
        np.save(out, np.stack(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
