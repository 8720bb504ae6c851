"""The options of the joint pipeline: which stages, in which order, how much of each."""

from collections.abc import Mapping
from typing import Annotated, Literal

from jaxsnn.errors import UserError
from jaxsnn.options import PerLayer, Range, Whole, checked

__all__ = ["STAGES", "Options", "Stage", "groups"]

Stage = Literal["channels", "connections", "bits", "timesteps", "spikes", "exit"]
STAGES: tuple[Stage, ...] = ("channels", "connections", "bits", "timesteps", "spikes", "exit")
BITS = {  # fewest and most of each levels
    "rescaled": (1, 8), "uniform": (2, 8), "pow2": (2, 6), "learned": (1, 8),
}  # fmt: skip


@checked
class Options:
    """Options of the joint pipeline."""

    stages: tuple[Stage, ...] = STAGES[:-1]
    """What to compress, in this order: channels, connections, bits, timesteps, spikes, exit."""
    together: tuple[Stage, ...] = ()
    """Stages next to each other in `stages` that are trained once, after the last of them."""
    distill: Annotated[float, Range(0, 1)] = 0.0
    """Share of the dense network's scores in what each stage minimises; 0 for labels alone."""
    temperature: Annotated[float, Range(0, open_low=True, open_high=True)] = 4.0
    """Temperature of these scores."""
    channel_ratios: Annotated[PerLayer, Range(0, 1, open_high=True)] = 0.5
    """Share of channels to remove from each hidden layer: one number, or layer=number,..."""
    calibration_batches: Annotated[int, Whole(1)] = 5
    """Batches of training images on which channels are scored."""
    calibration_batch_size: Annotated[int, Whole(1)] = 128
    """Images in each of them."""
    channels_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of training after channels were cut out."""
    sparsity: Annotated[float, Range(0, 1, open_high=True)] = 0.9
    """Share of the connections to remove, of those that are there when their stage begins."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread a sparsity: root (a layer keeps as the root of its size) or uniform."""
    pruning: Literal["admm", "magnitude"] = "admm"
    """Which connections go: the smallest after an ADMM phase, or the smallest at once."""
    pull_epochs: Annotated[int, Whole(1)] = 3
    """Epochs of the ADMM phase."""
    penalty: Annotated[float, Range(0, open_low=True, open_high=True)] = 1e-2
    """ADMM penalty rho at the start; it grows tenfold after each third of the phase."""
    dual_steps: Annotated[int, Whole(1)] = 10
    """Dual updates in each epoch of the ADMM phase."""
    connections_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of training after connections were removed."""
    levels: Literal["rescaled", "uniform", "pow2", "ternary", "binary", "learned"] = "rescaled"
    """Levels of the weights: rescaled, those of ADMM, or learned (bits of each channel)."""
    bits: Annotated[int, Whole(1, 8)] = 2
    """Bits of the levels rescaled, uniform and pow2; of learned ones the mean."""
    layer_bits: Annotated[PerLayer | None, Whole(1, 8)] = None
    """Bits of some layers, layer=number,...; the others have `bits`, or what a budget finds."""
    per: Literal["leaf", "channel"] = "leaf"
    """One scale of ADMM's levels for each layer (leaf), or one for each output channel of all
    layers but the read-out."""
    widths_rate: Annotated[float, Range(0, open_low=True, open_high=True)] = 0.03
    """First step size of learned bits; they move by units where weights move by hundredths."""
    bits_learning_rate: Annotated[float | None, Range(0, open_low=True, open_high=True)] = None
    """First step size of phases with quantized weights; None for learning_rate. Where a large one
    carries weights back and forth between levels, a third of it loses less."""
    bits_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of training with quantized weights."""
    timesteps_schedule: Annotated[tuple[int, ...], Whole(1)] = (4, 3, 2)
    """Fewer and fewer time steps, each tried from the weights of the one before."""
    tolerance: Annotated[float, Range(0, 1)] = 0.01
    """Validation accuracy that fewer time steps may lose against the first of that stage."""
    timesteps_epochs: Annotated[int, Whole(0)] = 2
    """Epochs of training with each number of time steps."""
    spike_weight: Annotated[float, Range(0, open_high=True)] = 1.0
    """Weight of the mean firing rate in the loss, from the stage spikes on."""
    spikes_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of training with that weight."""
    exit_tolerance: Annotated[float, Range(0, 1)] = 0.001
    """Validation accuracy that decisions before the last time step may lose (stage exit)."""
    bytes: Annotated[int | None, Whole(1, 1 << 40)] = None
    """Bytes of the whole file at most: channels, connections and bits are found on held-out
    images."""
    points: Annotated[float | None, Range(0, 100)] = None
    """Points of accuracy that may be lost on held-out images: the smallest such file is found."""
    search_channels: Annotated[tuple[float, ...], Range(0, 1, open_high=True)] = (0.0, 0.5, 0.75)
    """Channel ratios that are tried for these two."""
    search_bits: Annotated[tuple[int, ...], Whole(1, 8)] = (2, 4)
    """Bits that are tried."""
    search_sparsity: Annotated[tuple[float, ...], Range(0, 1, open_high=True)] = (0.8, 0.9, 0.95)
    """Sparsities that are tried for points; for bytes they follow from the size."""
    spare: Annotated[float, Range(0, 1)] = 0.0
    """Share by which what is planned for bytes may exceed them: levels with a zero remove weights
    while they are trained."""
    search_samples: Annotated[int, Whole(1, 1 << 40)] = 5000
    """Training images on which each candidate is trained."""
    search_epochs: Annotated[int, Whole(1)] = 2
    """Epochs of that."""
    tidy: bool = False
    """Remove the product's channels that nobody hears, and fold its norms: no score changes."""
    constant_bits: Annotated[int | None, Whole(2, 8)] = None
    """Bits of each bias and threshold of a tidy product, whole numbers in units of its weights;
    left out, they are float32."""
    same_bytes: bool = False
    """Add what else fits into the product's bytes: small ANNs; and the dense network at 8 bits."""
    learning_rate: Annotated[float, Range(0, open_low=True, open_high=True)] = 1e-3
    """First step size of each phase; it falls to 0 along a cosine."""
    control: bool = True
    """Train the dense network on for as many epochs, too, as the row "dense control"."""
    batch_size: Annotated[int, Whole(1)] = 100
    """Samples of one training step."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of everything random."""

    @property
    def budget(self) -> tuple[str, ...]:
        """Return the name of the budget that the stages are chosen for, none if there is none."""
        return tuple(name for name in ("bytes", "points") if getattr(self, name) is not None)

    def check(self) -> None:
        """Refuse stages and bits that do not go together."""
        _check_stages(self)
        _check_order(self)
        _check_budget(self)
        if self.constant_bits is not None and not self.tidy:
            raise UserError(
                f"constant_bits {self.constant_bits} counts on folded norms: ask for tidy, too"
            )
        if self.layer_bits is not None and self.levels in ("ternary", "binary", "learned"):
            raise UserError(f"layer_bits: the levels {self.levels} take none; give None")
        if self.levels in BITS:
            for name in ("bits", "layer_bits"):
                _check_bits(name, getattr(self, name), self.levels)


def _check_bits(name: str, found: PerLayer | None, levels: str) -> None:
    """Refuse bits that some levels do not have."""
    low, high = BITS[levels]
    for bits in found.values() if isinstance(found, Mapping) else (found,):
        if bits is not None and not low <= bits <= high:
            raise UserError(f"{name} of levels {levels} must be in [{low}, {high}], found {bits}")


def _check_stages(chosen: Options) -> None:
    """Refuse stages that are unknown, stand there twice, or apart."""
    if not chosen.stages:
        raise UserError(f"stages needs at least one of {', '.join(STAGES)}")
    for name, found, known in (
        ("stages", chosen.stages, STAGES),
        ("together", chosen.together, chosen.stages),
    ):
        if unknown := [stage for stage in found if stage not in known]:
            raise UserError(f"{name} {unknown[0]!r} is unknown; choose from {', '.join(known)}")
        if twice := [stage for stage in found if found.count(stage) > 1]:
            raise UserError(f"{name} has {twice[0]!r} twice")
    if len(chosen.together) == 1:
        raise UserError(f"together {chosen.together[0]!r} is alone: name two stages or more")
    places = sorted(map(chosen.stages.index, chosen.together))
    if places and places[-1] - places[0] >= len(places):
        raise UserError(
            f"together {' '.join(chosen.together)} must stand next to each other in stages "
            f"{' '.join(chosen.stages)}"
        )
    if "timesteps" in chosen.stages and not chosen.timesteps_schedule:
        raise UserError("timesteps_schedule needs at least one number of time steps")


def _check_order(chosen: Options) -> None:
    """Refuse orders in which a stage would undo another one."""
    stages = chosen.stages
    if "exit" in stages and (stages[-1] != "exit" or "exit" in chosen.together or len(stages) < 2):
        raise UserError(
            "the stage exit trains nothing: it comes last, alone, and behind another stage"
        )
    if chosen.levels == "learned" and "bits" in stages:
        later = [s for s in ("channels", "connections") if s in stages[stages.index("bits") :]]
        if later:
            raise UserError(
                f"levels learned fixes the bits of what is there: put {later[0]} before"
            )


def _check_budget(chosen: Options) -> None:
    """Refuse budgets that the stages cannot be chosen for."""
    asked = chosen.budget
    if not asked:
        return
    if len(asked) > 1:
        raise UserError("bytes and points are two budgets: give one of them")
    if chosen.levels not in ("rescaled", "uniform", "pow2"):
        raise UserError(
            f"{asked[0]} finds the bits of levels rescaled, uniform and pow2, found {chosen.levels}"
        )
    low, high = BITS[chosen.levels]
    for name in ("search_channels", "search_bits", "search_sparsity"):
        if not getattr(chosen, name):
            raise UserError(f"{name} needs at least one number")
    if odd := [bits for bits in chosen.search_bits if not low <= bits <= high]:
        raise UserError(
            f"search_bits of levels {chosen.levels} must be in [{low}, {high}], found {odd[0]}"
        )
    order = [s for s in chosen.stages if s in ("channels", "connections")]
    if "bits" not in chosen.stages or order not in (["connections"], ["channels", "connections"]):
        raise UserError(
            f"{asked[0]} needs the stages connections and bits, and channels, if at all, before "
            f"connections; found {' '.join(chosen.stages)}"
        )


def groups(chosen: Options) -> list[tuple[Stage, ...]]:
    """Return the stages in order, those that are trained together in one tuple.

    >>> groups(Options(stages=("bits", "channels", "spikes"), together=("channels", "bits")))
    [('bits', 'channels'), ('spikes',)]
    """
    found: list[tuple[Stage, ...]] = []
    for stage in chosen.stages:
        if stage in chosen.together and found and found[-1][0] in chosen.together:
            found[-1] += (stage,)
        else:
            found.append((stage,))
    return found
