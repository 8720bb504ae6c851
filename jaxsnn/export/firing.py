"""What fires behind a layer's weights as data: neurons, read-outs and surrogates, and back.

Each is an object with its `kind` and all of its options; of constants only the shape is there. The
kind of a neuron is that of its class, and a class of the user's own that has one is known as long
as it is defined: a file names it and never brings or imports it. A surrogate is the name of its
curve with width and peak.
"""

import math
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from typing import Any

import jax.numpy as jnp

from jaxsnn import fields, layers, surrogate
from jaxsnn.arrays import check_range
from jaxsnn.errors import UserError, shown
from jaxsnn.layers.neurons import Firing
from jaxsnn.neurons import Neuron
from jaxsnn.neurons.neuron import kinds
from jaxsnn.surrogate import Surrogate

__all__ = ["check_neurons", "describe_firing", "make_firing"]

# The curves that have a name in files.
CURVES = {
    make.__name__: make().shape
    for make in (
        *(surrogate.rectangle, surrogate.triangle, surrogate.atan, surrogate.fast_sigmoid),
        *(surrogate.sigmoid, surrogate.constant, surrogate.stdb),
    )
}
SURROGATE = {
    "curve": fields.one_of(*CURVES),
    "width": fields.NUMBER,
    "peak": fields.NUMBER,
    "normalized": fields.FLAG,
}
OTHERS: dict[str, dict[str, fields.Field]] = {
    "integrator": {"decay": fields.maybe(fields.SHAPE)},
    "rectified": {},
}


def describe_firing(name: str, firing: Any) -> dict[str, Any]:
    """Return what fires behind a layer as plain data.

    Args:
      name: of the layer.
      firing: its neurons or read-out.

    Raises:
      UserError: for what no file can hold: a class or a surrogate that is code.
    """
    if type(firing) is layers.Integrator:
        shape = None if firing.decay is None else list(firing.decay.shape)
        return {"kind": "integrator", "decay": shape}
    if type(firing) is layers.Rectified:
        return {"kind": "rectified"}
    if type(firing) is not layers.Neurons:
        found = type(firing).__name__
        raise UserError(f"layer {name!r} fires by a {found}: a file describes those of jaxsnn only")
    neuron = firing.options
    if kinds().get(neuron.kind) is not type(neuron):
        raise UserError(
            f"layer {name!r} fires by {type(neuron).__name__}, which has no kind of its own: a "
            "neuron that a file shall hold needs one"
        )
    options = {option: getattr(neuron, option) for option in neuron.option_names()}
    _option_fields(type(neuron))
    return {
        "kind": neuron.kind,
        **{
            option: _describe_surrogate(name, value) if isinstance(value, Surrogate) else value
            for option, value in options.items()
        },
        "trained": sorted(firing.trained),
        **{constant: list(firing.variable(constant).shape) for constant in firing.names},
    }


def make_firing(where: str, data: Any) -> Firing:
    """Return what fires as an object of a file describes it, ones in the place of constants.

    Raises:
      UserError: naming the field that is unknown, missing or out of range.
    """
    known = kinds()
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in known | OTHERS:
        raise UserError(
            f"architecture: {where}: field 'kind' is {shown(kind)}, expected one of "
            f"{', '.join([*known, *OTHERS])}; define a neuron class of your own before its file "
            "is loaded"
        )
    expected = _fields_of(known[kind]) if kind in known else OTHERS[kind]
    data = fields.check(f"architecture: {where}", data, {"kind": fields.TEXT} | expected)
    if kind == "rectified":
        return layers.Rectified()
    if kind == "integrator":
        return layers.Integrator(None if data["decay"] is None else jnp.ones(data["decay"]))
    cls = known[kind]
    options = {option: data[option] for option in cls.option_names()}
    for option, field in _option_fields(cls).items():
        if field is fields.OBJECT:
            options[option] = _make_surrogate(f"{where}, {option}", data[option])
    constants = {constant: jnp.ones(data[constant]) for constant in cls.ranges}
    return layers.Neurons(cls.unchecked(constants, options), tuple(data["trained"]))


def check_neurons(where: str, neurons: layers.Neurons) -> None:
    """Check the constants of a layer's neurons; trained ones are confined wherever they are used.

    Raises:
      UserError: naming the constant that is out of its range.
    """
    for name, known in neurons.options.ranges.items():
        if name not in neurons.trained:
            value, ends = neurons.variable(name)[...], (known.low, known.high)
            shut = known.open_high and not math.isinf(known.high)
            check_range(f"{where}/{name}", value, *ends, open_low=known.open_low, open_high=shut)


def _fields_of(cls: type[Neuron]) -> dict[str, fields.Field]:
    """Return the fields of a neuron's object."""
    trained = fields.several(fields.one_of(*cls.ranges))
    constants = dict.fromkeys(cls.ranges, fields.SHAPE)
    return {**_option_fields(cls), "trained": trained, **constants}


def _option_fields(cls: type[Neuron]) -> Mapping[str, fields.Field]:
    """Return option -> what a file may hold there, by the option's words or its default."""
    defaults = {field.name: field.default for field in dataclass_fields(cls)}  # type: ignore[arg-type]
    plain = {bool: fields.FLAG, str: fields.TEXT, int: fields.NUMBER, float: fields.NUMBER}
    found = {}
    for option in cls.option_names():
        default = defaults[option]
        if option in cls.choices:
            found[option] = fields.one_of(*cls.choices[option])
        elif isinstance(default, Surrogate):
            found[option] = fields.OBJECT
        elif type(default) in plain:
            found[option] = plain[type(default)]
        else:
            raise UserError(
                f"neuron {cls.__name__}: option {option!r} needs a default that a file can hold: "
                "a number, a word, True, False or a surrogate"
            )
    return found


def _describe_surrogate(name: str, function: Surrogate) -> dict[str, Any]:
    curves = [curve for curve, shape in CURVES.items() if shape is function.shape]
    if not curves:
        raise UserError(
            f"layer {name!r}: its surrogate is a function of your own, which no file holds; "
            f"choose one of {', '.join(CURVES)} before saving, spikes are the same"
        )
    return {
        "curve": curves[0],
        "width": float(function.width),
        "peak": float(function.peak),
        "normalized": function.normalized,
    }


def _make_surrogate(where: str, data: Any) -> Surrogate:
    curve = fields.check(f"architecture: {where}", data, SURROGATE)
    shape, timed = CURVES[curve["curve"]], curve["curve"] == surrogate.stdb.__name__
    return Surrogate(shape, curve["width"], curve["peak"], curve["normalized"], timed)
