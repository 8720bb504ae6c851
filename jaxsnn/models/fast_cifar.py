"""A network of CIFAR-10 that two cores train in an hour (`experiments.fast`)."""

from jaxsnn.models.published import Published

__all__ = ["fast_cifar"]

# A first layer to be whitened (`models.whitening`), whose real valued input is computed once, then
# three stages of two convolutions: maxima over the spikes of 2 x 2 neurons between them, whose
# gradient goes to all that fired.
fast_cifar = Published(
    "{}C4-MP2-{}C3-{}C3-MP2-{}C3-{}C3-MP2-{}C3-{}C3-AP4",
    (48, 64, 64, 128, 128, 192, 192),
    (32, 32, 3),
    options=(
        ("norm", True), ("use_bias", "readout"), ("readout", "current"), ("ties", "shared"),
    ),
)  # fmt: skip
