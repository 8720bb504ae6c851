"""The networks of Spike-Thrift: ReLUs without biases or norms, averages for pooling, dropout.

Kundu et al. 2021, "Spike-Thrift", WACV, pp. 3953-3962, names variants of VGG and ResNet; which ones
is not public. These are the networks of the codes it stands on: Rathi et al. 2020, "Enabling deep
SNNs with hybrid conversion", and later work of its first author (VGG-11).

Where the sources differ:
- The VGGs of the codes have two wide dense layers before the read-out (`fc="wide"`: 25 of the 40
  million weights of VGG-16), those that works citing the paper assume have none ("single").
- In the codes a residual block has dropout between its convolutions; here it stands before blocks.
"""

from dataclasses import replace
from typing import Literal

from jaxsnn.errors import UserError
from jaxsnn.models.published import CONVERTED, Published

__all__ = ["spike_thrift_network", "thrift_resnet12", "thrift_vgg11", "thrift_vgg16"]

Head = Literal["single", "wide"]

# 14.7 million weights in 13 convolutions, for CIFAR-10 and, with larger images, Tiny-ImageNet.
thrift_vgg16 = Published(
    "{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3{drop}-{}C3-AP2"
    "-{}C3{drop}-{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3{drop}-{}C3",
    (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    (32, 32, 3),
    0.2,
    CONVERTED,
)

# 8 convolutions and, for CIFAR-100, 12 or 62 million weights; it ends on 4 x 4 pixels.
thrift_vgg11 = Published(
    "{}C3-AP2-{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3",
    (64, 128, 256, 512, 512, 512, 512, 512),
    (32, 32, 3),
    0.2,
    CONVERTED,
)

# A stem of three convolutions and four blocks, a projection where the shape changes: 5.0 million.
thrift_resnet12 = Published(
    "{0}C3{drop}-{1}C3{drop}-{2}C3-AP2-{4}B3M{3}{drop}-{6}B3S2M{5}P{drop}-{8}B3S2M{7}P{drop}"
    "-{10}B3S2M{9}P",
    (64, 64, 64, 64, 64, 128, 128, 256, 256, 512, 512),
    (32, 32, 3),
    0.2,
    CONVERTED,
)

NETWORKS = {"vgg16": thrift_vgg16, "vgg11": thrift_vgg11, "resnet12": thrift_resnet12}
WIDE = (4096, 4096)  # hidden dense layers of the VGGs, with dropout of a half behind each


def spike_thrift_network(name: str, fc: Head = "single") -> Published | None:
    """Return the network of Spike-Thrift with this name, or None.

    >>> spike_thrift_network("vgg11", fc="wide").channels[-2:]
    (4096, 4096)

    Args:
      name: of the network, "vgg16", "vgg11" or "resnet12".
      fc: "single" for a read-out right behind the convolutions, "wide" for two dense layers of
        4096 neurons between them.

    Raises:
      UserError: for a wide network that there is not.
    """
    found = NETWORKS.get(name)
    if fc == "single" or found is None:
        return found
    if fc != "wide" or name == "resnet12":
        raise UserError(f"fc {fc!r} is unknown for {name}; choose single, or wide for a VGG")
    layout = found.layout + "-{}-D0.5" * len(WIDE)
    return replace(found, layout=layout, channels=found.channels + WIDE)
