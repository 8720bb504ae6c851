"""A published network with free widths: a layout with gaps, and the options that go with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError
from jaxsnn.models.layout import Choice, build
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import triangle

__all__ = ["CONVERTED", "QP_SNN", "Published"]

# Constants of the QP-SNN system (Wei et al., 2502.05905).
QP_SNN = LIF(decay=0.5, threshold=1.0, surrogate=triangle())

# Networks that convert from ANNs: no norms, no biases, average pooling, dropout but in front of it.
CONVERTED = (("norm", False), ("use_bias", False), ("readout", "current"))


@dataclass(frozen=True)
class Published:
    """A published network with free widths; call it to build it.

    >>> published = Published("{}C3-AP2-{}C3", (4, 8), (8, 8, 3))
    >>> published.words(width=0.5, classes=5)
    '2C3-AP2-4C3-5'
    >>> import jax
    >>> net = jax.eval_shape(lambda: published(classes=5, widths=(3, 6)))  # shapes alone
    >>> net.params["conv2"]["kernel"].shape
    (3, 3, 3, 6)

    Unless its options say otherwise, those of QP-SNN (Wei et al., 2502.05905, tables 9 to 11):
    batch normalisation in every hidden layer and no biases there (the released VGG code has one in
    front of the first norm, which takes it away again); a dense read-out with a bias, whose current
    is averaged over time.

    Attributes:
      layout: the layers, each width a numbered gap; `{quarter}` is a quarter of the image's side,
        `{drop}` dropout or nothing.
      channels: the widths, one for each convolution in order, those of a block one by one.
      input_shape: `(H, W, C)` in the paper.
      dropout: share dropped at each `{drop}`.
      options: as of `build`, name and value.
    """

    layout: str
    channels: tuple[int, ...]
    input_shape: tuple[int, int, int]
    dropout: float = 0.0
    options: tuple[tuple[str, Any], ...] = (
        ("norm", True), ("use_bias", "readout"), ("readout", "current"),
    )  # fmt: skip

    def __call__(
        self,
        input_shape: Sequence[int] | None = None,
        neuron: Choice = QP_SNN,
        *,
        classes: int = 10,
        width: float = 1.0,
        widths: Sequence[int] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Network:
        """Build the network.

        Args:
          input_shape: `(H, W, C)`; the sides must survive the strides and poolings.
          neuron: constants of all layers.
          classes: number of classes.
          width: factor on all widths.
          widths: of each convolution, in place of `channels`: those that pruning keeps.
          seed: of the start values.
          **options: as of `build`.

        Raises:
          UserError: for widths of the wrong number or below 1, and for what `build` refuses.
        """
        shape = tuple(input_shape or self.input_shape)
        layout = self.words(shape, classes=classes, width=width, widths=widths)
        return build(layout, shape, neuron, seed=seed, **dict(self.options) | options)

    def words(
        self,
        input_shape: Sequence[int] | None = None,
        *,
        classes: int = 10,
        width: float = 1.0,
        widths: Sequence[int] | None = None,
        dropout: float | None = None,
    ) -> str:
        """Return the network as a layout, as `build` reads it.

        Args:
          input_shape: `(H, W, C)`.
          classes: number of classes.
          width: factor on all widths.
          widths: of each convolution, in place of `channels`.
          dropout: in place of the network's own, in [0, 1).

        Raises:
          UserError: for a number out of range.
        """
        shape = tuple(input_shape or self.input_shape)
        found = self.channels if widths is None else tuple(widths)
        if len(found) != len(self.channels):
            raise UserError(f"widths must be {len(self.channels)} numbers, found {len(found)}")
        check_whole("widths", found, 1, float("inf"))
        check_range("width", width, 0, float("inf"), open_low=True, open_high=True)
        gaps = [max(1, round(n * width)) for n in found]
        rate = self.dropout if dropout is None else dropout
        check_range("dropout", rate, 0, 1, open_high=True)
        drop = f"-D{rate:g}" if rate else ""
        return f"{self.layout.format(*gaps, quarter=shape[0] // 4, drop=drop)}-{classes}"
