"""From the samples of a data set to the input of a network: normalisation, encoding, time steps."""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn import encode, fields
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError, shown

__all__ = ["Inputs"]

ENCODINGS = ("direct", "bernoulli", "poisson", "events")
FIELDS = {
    "shape": fields.several(fields.whole(1)),
    "timesteps": fields.whole(1),
    "encoding": fields.one_of(*ENCODINGS),
    "mean": fields.maybe(fields.several(fields.NUMBER)),
    "std": fields.maybe(fields.several(fields.NUMBER)),
}


@dataclass(frozen=True)
class Inputs:
    """How samples of a data set become what enters a network; a value, compared by value.

    Samples are uint8, `[B, *shape]`, first divided by 255 and normalised, `(x - mean) / std`, then

    - "direct": the same values at every step;
    - "bernoulli": random spikes of that probability at every step, without normalisation;
    - "poisson": random spikes with the values' sign, of their magnitude's probability;
    - "events": samples are frames of counted events, `[B, T, *shape]`, taken as they are.

    >>> inputs = Inputs((2,), timesteps=4, mean=(0.5, 0.5), std=(0.5, 0.5))
    >>> inputs.prepare(jax.random.key(0), jnp.asarray([[0, 255]], jnp.uint8)).value.tolist()
    [[-1.0, 1.0]]

    Attributes:
      shape: of a sample at one step, `(H, W, C)` or `(features,)`.
      timesteps: T.
      encoding: "direct", "bernoulli", "poisson" or "events".
      mean: for "direct" and "poisson", one number for each channel on the scale of [0, 1]; None for
        no normalisation.
      std: likewise, > 0.

    Raises:
      UserError: for what is unknown, out of range or does not fit the shape.
    """

    shape: tuple[int, ...]
    timesteps: int
    encoding: str = "direct"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_whole("timesteps of the input", self.timesteps, 1, 1 << 20)
        check_whole("shape of the input", self.shape, 1, 1 << 31)
        if self.encoding not in ENCODINGS:
            allowed = ", ".join(ENCODINGS)
            raise UserError(f"encoding {self.encoding!r} is unknown; choose one of {allowed}")
        if (self.mean is None) != (self.std is None):
            raise UserError("an input is normalised by mean and std together, found only one")
        if self.mean is not None and self.std is not None:
            if self.encoding not in ("direct", "poisson"):
                allowed = "the encodings direct and poisson"
                raise UserError(f"mean and std are for {allowed}, not {self.encoding}")
            channels = self.shape[-1:]
            if (len(self.mean),) != channels or (len(self.std),) != channels:
                found = f"{shown(self.shape)}: {len(self.mean)} and {len(self.std)}"
                raise UserError(f"mean and std need one number a channel of {found}")
            check_range("std of the input", self.std, 0, float("inf"), open_low=True)

    def prepare(self, key: Array, samples: Array) -> Array | Signal:
        """Return the input of a network, `[T, B, *shape]` or a constant signal.

        Args:
          key: random key; only "bernoulli" and "poisson" draw from it.
          samples: uint8 `[B, *shape]`, or `[B, T, *shape]` for "events".
        """
        if self.encoding == "events":
            return jnp.moveaxis(samples, 1, 0).astype(jnp.float32)
        return self.encode(key, self.normalise(samples))

    def normalise(self, samples: Array) -> Array:
        """Return the values that are encoded, float32 `[B, *shape]`, for uint8 samples."""
        values = samples.astype(jnp.float32) / 255.0
        if self.mean is None:
            return values
        mean, std = (jnp.broadcast_to(jnp.asarray(x), values.shape) for x in (self.mean, self.std))
        return (values - mean) / std

    def encode(self, key: Array, values: Array) -> Array | Signal:
        """Return the input that stands for normalised values `[B, *shape]`."""
        if self.encoding == "bernoulli":
            return encode.bernoulli(key, values, self.timesteps)
        if self.encoding == "poisson":
            return encode.signed_poisson(key, values, self.timesteps)
        return encode.direct(values, self.timesteps)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample as it is stored: with its frames, if it has some."""
        return (self.timesteps, *self.shape) if self.encoding == "events" else self.shape

    def abstract(self, batch: int = 1) -> Array | Signal:
        """Return the input of a batch as shapes, for `jax.eval_shape`."""
        samples = jax.ShapeDtypeStruct((batch, *self.sample_shape), jnp.uint8)
        shapes: Array | Signal = jax.eval_shape(self.prepare, jax.random.key(0), samples)
        return shapes

    def to_data(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_data(cls, data: Any) -> "Inputs":
        """Return the input that `to_data` wrote.

        Raises:
          UserError: naming the field that is unknown, missing or out of range.
        """
        found = fields.check("the input", data, FIELDS)
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in found.items()
        }
        return cls(**values)
