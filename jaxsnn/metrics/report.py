"""The noun `Report`: what one network is worth and what it costs.

It is made on the host from the totals that an evaluation counted, the weights and the synapses, and
is one row of `results.json` and of the printed table. Several of them are a `Comparison`.

Reference of the definitions: L. Deng et al., "Comprehensive SNN compression using ADMM optimization
and activity regularization", arXiv 1911.00822; S. Kundu et al., "Spike-Thrift", WACV 2021 (energy).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import jax
import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.metrics import columns, facts, warnings
from jaxsnn.metrics.counts import Counts
from jaxsnn.network import Network

__all__ = ["Comparison", "Evaluated", "LayerReport", "Report", "Row"]

Row = dict[str, Any]  # one network in results.json


class Evaluated(Protocol):
    """What an evaluation found: `train.Evaluation`."""

    @property
    def accuracy(self) -> float:
        """Share of the samples classified right, in [0, 1]."""

    @property
    def accuracy_over_time(self) -> Any:
        """The same after each time step, `[T]`."""

    @property
    def counts(self) -> Counts:
        """Spikes and events over the data set."""

    @property
    def confusion(self) -> Any:
        """Samples of each class that were decided for each class, `[classes, classes]`, or None."""


@dataclass(frozen=True)
class LayerReport:
    """One layer: its kernel and its neurons. What does not apply is None.

    A layer of neurons without a kernel has only the last four fields, a kernel whose sums no
    spiking neuron of its own fires on has all but these. The last entry of a report,
    "biases and norms", has bytes alone: of all leaves that are no kernel.

    Attributes:
      name: of the layer, "conv1"; of a second kernel in it "dense1/recurrent".
      shape: of the kernel, outputs last.
      density: share of the kernel's weights that are not 0, in [0, 1].
      bits: of one of the kernel's weights, biases and norms left out; where channels differ, the
        mean over weights that are not 0.
      bytes: that the kernel alone takes in the packed file; over all entries, `weight_bytes`.
      synops: additions of a non-zero weight, per sample over all time steps.
      macs: multiplications by a non-zero weight, per sample over all time steps.
      neurons: how many.
      rate: spikes per neuron and time step, in [0, 1].
      silent: neurons that never fired.
      saturated: neurons that fired at every step of every sample.
    """

    name: str
    shape: tuple[int, ...] | None = None
    density: float | None = None
    bits: float | None = None
    bytes: int | None = None
    synops: float | None = None
    macs: float | None = None
    neurons: int | None = None
    rate: float | None = None
    silent: int | None = None
    saturated: int | None = None


@dataclass(frozen=True)
class Report:
    """One network measured. What does not apply, or was not measured, is None.

    `density`, `bits` and the operations look at the kernels that `net.synapses` names, recurrent
    ones included, not at biases and norms. Bytes count every leaf; those of biases and norms, which
    `bits` leaves out, are the entry "biases and norms" of `layers`.

    Of an ANN (`layers.Rectified`) there are no spikes: rates are None, every kernel costs
    multiplications. Of a wrapped foreign function the synapses are not known: operations and energy
    are None, density and bits are those of all leaves with two axes or more.

    Attributes:
      name: of the network; "dense" for the baseline, "compressed" for the product.
      accuracy: share of the samples classified right, in [0, 1].
      density: share of the kernels' weights that are not 0, in [0, 1]; `metrics.density(net)`.
      bits: of one weight of a kernel, mean over those that are not 0.
      weight_bytes: bytes of all parameters in their smallest form, biases and norms included; the
        sum of the bytes of `layers`.
      file_bytes: bytes of the packed file: the weight bytes, running statistics and the header.
      timesteps: T; of a network that stops early (`early_exit`) its mean.
      spike_rate: spikes per neuron and time step, in [0, 1].
      spikes_per_sample: spikes over all time steps.
      synops: additions of a non-zero weight, per sample over all time steps.
      macs: multiplications by a non-zero weight, per sample over all time steps.
      bit_ops: SynOps, each times the bits of its weight, per sample.
      energy_pj: picojoules per sample, float32 constants at 45 nm.
      energy_pj_int32: the same with the int32 constants.
      seed: of the run.
      samples: how many it was measured on; `metrics.intervals.wilson` says how sure that makes the
        accuracy.
      layers: one entry for each kernel, then for each further layer of neurons, then for
        "biases and norms" if there are some.
      accuracy_over_time: accuracy of a decision after 1, ..., T steps, in [0, 1].
      confusion: of the samples of each class, how many were decided for each class, a row a class.
      extra: facts that a method adds, names -> JSON types; none may have the name of a field.

    Raises:
      UserError: if `extra` names a field.
    """

    name: str
    accuracy: float | None = None
    density: float | None = None
    bits: float | None = None
    weight_bytes: int | None = None
    file_bytes: int | None = None
    timesteps: float | None = None
    spike_rate: float | None = None
    spikes_per_sample: float | None = None
    synops: float | None = None
    macs: float | None = None
    bit_ops: float | None = None
    energy_pj: float | None = None
    energy_pj_int32: float | None = None
    seed: int | None = None
    samples: int | None = None
    layers: tuple[LayerReport, ...] = ()
    accuracy_over_time: tuple[float, ...] | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := [name for name in _FIELDS if name in self.extra]:
            raise UserError(f"extra names the field {taken[0]!r} of a report: rename it")

    @staticmethod
    def of(
        name: str,
        net: Network,
        found: Evaluated | Counts,
        *,
        seed: int | None = None,
        file_bytes: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Report:
        """Measure a network from what an evaluation counted.

        T, and which kernels have real input, are facts of the counts. A kernel with an event that
        was no whole number is taken for one with real input at every step.

        Args:
          name: of the row.
          net: the network.
          found: from `train.evaluate`; or the counts alone.
          seed: of the run.
          file_bytes: size of the packed file, bytes.
          extra: further facts.

        Raises:
          UserError: if nothing was counted, or not at each kernel of the network.
        """
        counts = found if isinstance(found, Counts) else found.counts
        counts = jax.tree.map(np.asarray, counts)  # sums below are of int64, which is the host's
        _check(name, net, counts)
        stored = facts.stored(net)
        others = stored.layers.pop(facts.OTHERS, None)
        bits = facts.widths(net, stored)
        parts = [stored, facts.computed(net, counts, bits), facts.fired(net, counts)]
        network: dict[str, Any] = {}
        layers: dict[str, dict[str, Any]] = {}
        for part in parts:
            network |= part.network
            for layer, each in part.layers.items():
                layers[layer] = layers.get(layer, {}) | each
        if others is not None:
            layers[facts.OTHERS] = others
        if not isinstance(found, Counts):
            network["accuracy"] = float(found.accuracy)
            over_time = np.asarray(found.accuracy_over_time)[: int(counts.timesteps)]
            network["accuracy_over_time"] = tuple(map(float, over_time))
            if found.confusion is not None:
                network["confusion"] = _as_tuples(np.asarray(found.confusion).tolist())
        return Report(
            name,
            file_bytes=file_bytes,
            timesteps=counts.timesteps,
            seed=seed,
            samples=int(counts.num_samples),
            layers=tuple(LayerReport(layer, **each) for layer, each in layers.items()),
            extra=dict(extra or {}),
            **network,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Name the layers that are all but gone or silent, one line each.

        >>> Report("small", layers=(LayerReport("conv1", density=0.5, rate=0.0),)).warnings
        ('small: conv1 is silent, 0 spikes a neuron and step',)
        """
        return tuple(warnings.of_rows([self.to_row()]))

    def to_row(self) -> Row:
        """Return the row of `results.json`: the fields, then the extra facts; tuples as lists.

        >>> row = Report("dense", density=1.0, extra={"milliseconds": 2.5}).to_row()
        >>> row["name"], row["density"], row["milliseconds"]
        ('dense', 1.0, 2.5)
        """
        row = {name: getattr(self, name) for name in _FIELDS}
        row["layers"] = [_as_lists(vars(layer)) for layer in self.layers]
        return _as_lists(row) | dict(self.extra)

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Report:
        """Return the report that `to_row` wrote; what is no field becomes an extra fact.

        Raises:
          UserError: if the row has no name.

        >>> Report.from_row({"name": "dense", "milliseconds": 2.5}).extra
        {'milliseconds': 2.5}
        """
        if not row.get("name"):
            raise UserError("a row of the results has no name; the baseline is called 'dense'")
        known = {name: row[name] for name in _FIELDS if name in row}
        if known.get("accuracy_over_time") is not None:
            known["accuracy_over_time"] = tuple(known["accuracy_over_time"])
        if known.get("confusion") is not None:
            known["confusion"] = _as_tuples(known["confusion"])
        known["layers"] = tuple(_layer_of(layer) for layer in row.get("layers") or ())
        return Report(**known, extra={k: each for k, each in row.items() if k not in _FIELDS})


_FIELDS = tuple(each.name for each in fields(Report) if each.name != "extra")


@dataclass(frozen=True)
class Comparison:
    """Reports of several networks, the baseline first; `print` writes them as a table.

    Attributes:
      rows: one report a network; ratios in the table are against the first.

    >>> dense, small = Report("dense", bits=32.0), Report("small", bits=4.0)
    >>> compared = Comparison((dense, small))
    >>> compared.row("small").bits
    4.0
    >>> "÷8" in str(compared)
    True
    """

    rows: tuple[Report, ...]

    def row(self, name: str) -> Report:
        """Return the report of a name.

        Raises:
          UserError: if there is none.
        """
        for each in self.rows:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.rows)
        raise UserError(f"name: no row is called {name!r}; rows: {known}")

    def to_rows(self) -> list[Row]:
        """Return the rows of `results.json`."""
        return [each.to_row() for each in self.rows]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Name the layers that a network has lost and the first one has not, one line each."""
        return tuple(warnings.of_rows(self.to_rows()))

    def __str__(self) -> str:
        """Return the table as plain text, ratios to the first network below, and the warnings."""
        lines = [f"warning: {line}" for line in self.warnings]
        return "\n".join([columns.plain_table(self.to_rows()), *lines])


def _check(name: str, net: Network, counts: Counts) -> None:
    """Raise unless something was counted at each kernel."""
    if int(counts.num_samples) == 0:
        raise UserError(f"report of {name!r}: no sample was counted, accumulate a batch first")
    if uncounted := sorted(set(net.synapses) - set(counts.events)):
        raise UserError(f"report of {name!r}: no events were counted for {', '.join(uncounted)}")


def _as_lists(row: Mapping[str, Any]) -> Row:
    return {name: list(each) if isinstance(each, tuple) else each for name, each in row.items()}


def _as_tuples(table: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(line) for line in table)


def _layer_of(row: Mapping[str, Any]) -> LayerReport:
    """Return a layer of a row; what is no field is left out."""
    known = {each.name: row[each.name] for each in fields(LayerReport) if each.name in row}
    if known.get("shape") is not None:
        known["shape"] = tuple(known["shape"])
    return LayerReport(**known)
