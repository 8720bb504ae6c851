"""The networks of QP-SNN, and how much of each layer is pruned.

Wei et al. 2025, https://arxiv.org/abs/2502.05905, tables 9 to 11.
"""

from jaxsnn.errors import UserError
from jaxsnn.models.published import Published

__all__ = ["ratios", "resnet20", "vgg16", "vggsnn"]

# 13 convolutions, maxima over the spikes of 2 x 2 neurons: 14.7 million weights for CIFAR-10,
# T = 4.
vgg16 = Published(
    "{}C3-{}C3-MP2-{}C3-{}C3-MP2-{}C3-{}C3-{}C3-MP2-{}C3-{}C3-{}C3-MP2-{}C3-{}C3-{}C3-AP2",
    (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    (32, 32, 3),
)

# A stem, three stages of three residual blocks, the mean over the image: 17.0 million weights for
# CIFAR-10, T = 2.
resnet20 = Published(
    "{0}C3-{2}B3M{1}-{4}B3M{3}-{6}B3M{5}-{8}B3S2M{7}-{10}B3M{9}-{12}B3M{11}"
    "-{14}B3S2M{13}-{16}B3M{15}-{18}B3M{17}-AP{quarter}",
    (64, *6 * (128,), *6 * (256,), *6 * (512,)),
    (32, 32, 3),
)

# Eight convolutions for the event frames of DVS-CIFAR10, T = 10.
vggsnn = Published(
    "{}C3-{}C3-MP2-{}C3-{}C3-MP2-{}C3-{}C3-MP2-{}C3-{}C3-AP2",
    (64, 128, 256, 256, 512, 512, 512, 512),
    (48, 48, 2),
)

_RESNET20 = {"A": (0.1, 0.3, 0.6), "B": (0.1, 0.35, 0.75)}  # stem, outer and inner channels
_CONVOLUTIONS = {
    ("vgg16", 10, "A"): 7 * (0.45,) + 5 * (0.51,),
    ("vgg16", 10, "B"): 7 * (0.49,) + 5 * (0.8,),
    ("vgg16", 100, "A"): 7 * (0.45,) + 5 * (0.7,),
    ("vgg16", 100, "B"): 7 * (0.45,) + 5 * (0.78,),
    ("vgg16", 200, "A"): 7 * (0.45,) + 5 * (0.51,),
    ("vgg16", 200, "B"): 7 * (0.45,) + 5 * (0.62,),
    ("vggsnn", 10, "A"): 3 * (0.5,) + 4 * (0.7,),
    ("vggsnn", 10, "B"): 3 * (0.5,) + 4 * (0.8,),
    ("vggsnn", 10, "C"): 3 * (0.82,) + 4 * (0.93,),
}


def ratios(network: str, setting: str, classes: int) -> dict[str, float]:
    """Return the published share of channels to remove from each layer (tables 9 to 11).

    >>> ratios("vggsnn", "A", 10)["conv4"]
    0.7

    Args:
      network: of `models`: "vgg16", "resnet20" or "vggsnn".
      setting: "A" (mild) or "B", for vggsnn also "C".
      classes: of the data set: 10 (CIFAR-10, and DVS-CIFAR10 for vggsnn), 100 (CIFAR-100), 200
        (Tiny-ImageNet).

    Returns:
      Layer -> ratio in (0, 1), for the pruned layers in order.

    Raises:
      UserError: if the paper has no such setting.
    """
    if network == "resnet20" and classes in (10, 100) and setting in _RESNET20:
        stem, outer, inner = _RESNET20[setting]
        found = {"conv1": stem}
        for block in range(1, 10):
            found[f"block{block}/conv1"] = outer if block == 1 else inner
            if block <= 6:
                found[f"block{block}/conv2"] = outer
        return found
    if (network, classes, setting) not in _CONVOLUTIONS:
        raise UserError(
            f"no published ratios for {network!r} with {classes} classes, setting {setting!r}; "
            "there are: vgg16 A, B with 10, 100 or 200 classes, resnet20 A, B with 10 or 100, "
            "vggsnn A, B, C with 10"
        )
    return {f"conv{i}": x for i, x in enumerate(_CONVOLUTIONS[network, classes, setting], 1)}
