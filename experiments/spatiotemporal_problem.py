"""The problem of spatio-temporal pruning: its options, and the networks it chooses between."""

from dataclasses import dataclass
from typing import Literal

from experiments import hybrid_problem
from experiments.common.problem import option
from experiments.hybrid_problem import HybridConfig, HybridProblem, check_remat
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress import principal, schedules
from jaxsnn.errors import UserError
from jaxsnn.methods import conversion


@dataclass(frozen=True)
class SpatioTemporalConfig(HybridConfig):
    """Options of `experiments.spatiotemporal`."""

    variances: tuple[float, ...] = (0.999, 0.995, 0.99)
    """Shares of the variance that the kept dimensions may hold; the one that comes nearest to
    --size is taken."""
    size: float = 0.07
    """Share of the weights that the narrow network should have."""
    variable: Literal["drive", "potential"] = "drive"
    """What is analysed: drive (the current without leak and reset) or potential (before reset)."""
    rule: Literal["at_least", "count_below"] = "at_least"
    """Dimensions until the variance is reached: at_least, or count_below, one fewer."""
    multiple: int = 1
    """Round widths up to a multiple of this."""
    depth_cut: bool = False
    """Leave out the convolutions from where the number of dimensions falls."""
    pca_images: int = 5000
    """Training images that are analysed."""
    rows_per_channel: float = principal.ROWS_PER_CHANNEL
    """Rows, images times positions, that a layer must have for each channel."""
    fewer: tuple[int, ...] = schedules.TIMESTEPS
    """Falling numbers of time steps after --timesteps, each trained from the one before."""
    fewer_epochs: int = 10
    """Epochs of each of them."""
    tolerance: float = schedules.TOLERANCE
    """Accuracy on held-out images that fewer time steps may cost, a fraction."""
    bits: int = 5
    """Bits of the weights of the product."""
    bit_widths: tuple[int, ...] = (8, 7, 6, 5, 4, 3, 2)
    """Bits at which accuracy is measured after training, without retraining."""
    clip: float | None = None
    """Quantile of |W| that is the largest level, in place of the maximum."""
    qat_epochs: int = 0
    """Epochs of training with quantized weights; 0 quantizes after training, as published."""
    sigmas: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    """Standard deviations of Gaussian noise on normalised test images."""
    noise_images: int = 10_000
    """Test images to which noise is added."""
    noise_seeds: int = 5
    """Draws of the noise."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        super().check()
        for name in ("variances", "bit_widths"):
            if not getattr(self, name):
                raise UserError(f"{option(name)} needs at least one value")
        for variance in self.variances:
            check_range("--variances", variance, 0.0, 1.0, open_low=True)
        check_range("--size", self.size, 0.0, 1.0, open_low=True)
        check_range("--tolerance", self.tolerance, 0.0, 1.0)
        for name in ("multiple", "pca_images", "noise_images", "noise_seeds"):
            check_whole(option(name), getattr(self, name), 1, 1 << 20)
        check_range("--rows-per-channel", self.rows_per_channel, 0.0, 1e6)
        for name in ("fewer_epochs", "qat_epochs"):
            check_whole(option(name), getattr(self, name), 0, 1 << 20)
        for bits in (self.bits, *self.bit_widths):
            check_whole("--bits and --bit-widths", bits, 2, 16)
        if self.clip is not None:
            check_range("--clip", self.clip, 0.0, 1.0, open_low=True)
        for sigma in self.sigmas:
            check_range("--sigmas", sigma, 0.0, 10.0)
        schedules.falling_timesteps(self.timesteps, self.fewer)
        check_remat(self.remat, *self.fewer)


def load(config: SpatioTemporalConfig) -> HybridProblem:
    """Read the data and build the spiking network; every mistake of the user's shows here."""
    problem = hybrid_problem.load(config)
    conversion.check_delay(problem.spiking, min(config.fewer, default=1 << 20), config.order)
    if not convolutions(problem):
        raise UserError(f"--network {config.network!r} has no convolution to make narrow")
    found = len(problem.data.train.labels)
    if config.pca_images > found:
        raise UserError(f"--pca-images {config.pca_images} is more than the {found} at hand")
    return problem


def convolutions(problem: HybridProblem) -> tuple[str, ...]:
    """Return the names of the spiking convolutions, first to last."""
    return tuple(name for name in problem.spiking if name.startswith("conv"))
