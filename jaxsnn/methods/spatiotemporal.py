"""Spatio-temporal pruning: fewer channels, fewer time steps, 5-bit weights; energy and noise.

Chowdhury, Garg and Roy 2021, "Spatio-Temporal Pruning and Quantization for Low-latency Spiking
Neural Networks", https://arxiv.org/abs/2104.12528 (IJCNN).

    1. dense       train an ANN, convert it, tune the spiking network at T0         `conversion`
    2. space       K_l = min{k : c_k >= variance}, the principal components of the potentials of
                   each convolution; a network of these widths is made anew as in 1  `narrow`
    3. time        train it at T1 > T2 > ..., each from the weights of the one before, while the
                   held-out accuracy loses at most `tolerance`                       `shorten`
    4. precision   W -> s round(W / s), s = max |W| / (2^(b-1) - 1)                  `quantize`

Of the variances offered, the one whose network comes nearest to the share `size` of the weights is
taken. Step 3 has two controls: the same network trained directly at the final T (or at each) for as
many epochs, and the narrow one run there untrained; step 2 has a network of equal size whose layers
are narrower by one factor (`uniform`). Energies are compared with the ANN that was not pruned, by
the published counts (`metrics.published`).

Where the sources differ:
- The text of the paper was not at hand: its settings are known at second hand and from codes of the
  same group. The schedule of T, its stop rule and the noise are ours.
- The paper quantizes after training; `qat_epochs` trains on with quantized weights.
- "5 bits" are taken to be the symmetric levels above, -15 to 15; thresholds are not quantized, but
  with them divided by `s`, too, all weights are whole numbers (`whole_number_weights`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np

from jaxsnn import layers, metrics, train, tree
from jaxsnn.compress import principal, schedules
from jaxsnn.compress.grids import symmetric_uniform
from jaxsnn.compress.phase import quantized
from jaxsnn.compress.principal import Moments
from jaxsnn.compress.projections import Projection, project
from jaxsnn.compress.schedules import Stage
from jaxsnn.data import Dataset, Split
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.methods import balancing, conversion, hybrids, scales
from jaxsnn.methods.measuring import accuracies, energy_ratios, measured, noise_table, whole_numbers
from jaxsnn.methods.result import CONTROL, Result, Trained, Trainer
from jaxsnn.models.variants import resized, spiking_of, uniform_widths
from jaxsnn.network import Network, Output
from jaxsnn.options import Range, Whole, checked, replaced

__all__ = [
    "Options",
    "compress",
    "convolutions",
    "moments",
    "narrow",
    "quantize",
    "shorten",
]

ANALYSIS_BATCH = 50  # images whose potentials are on the host at once

Bits = Whole(2, 16)
Share = Range(0.0, 1.0, open_low=True)


@checked
class Options:
    """Options of spatio-temporal pruning; those of the trainings are `conversion.Options`."""

    variances: Annotated[tuple[float, ...], Share] = (0.999, 0.995, 0.99)
    """Shares of the variance that the kept dimensions may hold; the one that comes nearest to
    `size` is taken."""
    size: Annotated[float, Share] = 0.07
    """Share of the weights that the narrow network should have."""
    variable: Literal["drive", "potential"] = "drive"
    """What is analysed: drive (the current without leak and reset) or potential (before reset)."""
    rule: Literal["at_least", "count_below"] = "at_least"
    """Dimensions until the variance is reached: at_least, or count_below, one fewer."""
    multiple: Annotated[int, Whole(1)] = 1
    """Round widths up to a multiple of this."""
    depth_cut: bool = False
    """Leave out the convolutions from where the number of dimensions falls."""
    pca_images: Annotated[int, Whole(1)] = 5000
    """Training images that are analysed."""
    rows_per_channel: Annotated[float, Range(0.0, 1e6)] = principal.ROWS_PER_CHANNEL
    """Rows, images times positions, that a layer must have for each channel."""
    narrow_ann_epochs: Annotated[int | None, Whole(1)] = None
    """Epochs of the narrow ANN; left out, those of the dense one."""
    narrow_ann_weight_decay: Annotated[float | None, Range(0.0, 1.0, open_high=True)] = None
    """Weight decay of the narrow ANN; left out, that of the dense one."""
    narrow_dropout: Annotated[float | None, Range(0.0, 1.0, open_high=True)] = None
    """Share dropped at each dropout of the narrow network; left out, that of the dense one."""
    fewer: Annotated[tuple[int, ...], Whole(1)] = schedules.TIMESTEPS
    """Falling numbers of time steps after the first, each trained from the one before."""
    fewer_epochs: Annotated[int, Whole(0)] = 10
    """Epochs of each of them."""
    tolerance: Annotated[float, Range(0.0, 1.0)] = schedules.TOLERANCE
    """Accuracy on held-out images that fewer time steps may cost, a fraction."""
    control_every: bool = False
    """Train the direct control at each number of time steps that was tried, not the last alone."""
    uniform: bool = False
    """Train a network of the narrow one's size, too, whose layers are narrower by one factor."""
    bits: Annotated[int, Bits] = 5
    """Bits of the weights of the product."""
    bit_widths: Annotated[tuple[int, ...], Bits] = (8, 7, 6, 5, 4, 3, 2)
    """Bits at which accuracy is measured after training, without retraining."""
    clip: Annotated[float | None, Share] = None
    """Quantile of |W| that is the largest level, in place of the maximum."""
    qat_epochs: Annotated[int, Whole(0)] = 0
    """Epochs of training with quantized weights; 0 quantizes after training, as published."""
    sigmas: Annotated[tuple[float, ...], Range(0.0, 10.0)] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    """Standard deviations of Gaussian noise on normalised test images; none for no noise."""
    noise_images: Annotated[int, Whole(1)] = 10_000
    """Test images to which noise is added."""
    noise_seeds: Annotated[int, Whole(1)] = 5
    """Draws of the noise."""
    draws: Annotated[int, Whole(1)] = 3
    """Evaluations with other random spikes, whose mean is noted beside the first one."""

    def check(self) -> None:
        """Refuse empty lists."""
        for name in ("variances", "bit_widths"):
            if not getattr(self, name):
                raise UserError(f"{name} needs at least one value")


DEFAULTS = Options()


def compress(
    net: Network,
    task: train.Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    hybrid: conversion.Options = conversion.DEFAULTS,
    fit: train.Fit = train.fit,
) -> Result:
    """Make a network narrow, short and coarse.

    Args:
      net: gives the layout, a chain with spiking convolutions, as `conversion.compress` says: an
        ANN or a spiking network; the weights count if `hybrid.ann_epochs` is 0.
      task: of the spiking network at T0.
      data: trained and measured on.
      options: of the method.
      hybrid: of the trainings, their seed and batch size among them.
      fit: trains a phase.

    Returns:
      The rows dense, dense control (trained on at T0 until it had as many epochs as the product),
      ann, narrow, narrow ann, short, direct, compressed, each network with its own task; with
      `uniform` also uniform, uniform ann, with `control_every` "T 8", "direct T 8" of each other T.
      `found`: `widths`, `explained`, `scales`, `stages`, `controls` (of each T with a direct one),
      `control` (at the product's T), `quantization`, `whole_number_weights`, `noise`.

    Raises:
      UserError: for options, networks and data that do not fit, before anything is trained; for a
        layer with too few rows or without variance.
    """
    check(net, task, data, options, hybrid)
    trainer, seed = Trainer(fit, data, hybrid.batch_size, hybrid.seed), hybrid.seed
    wide = hybrids.trained("unpruned", net, task, trainer, hybrid)
    found = moments(wide.spiking, task, data.train.images, options, seed=seed)
    chosen, facts = narrow(net, task.inputs, found, options, seed=seed)
    few, still = _narrow_options(options, hybrid), conversion.ann_task(task)
    thin = hybrids.trained("narrow", chosen, task, trainer, few)
    start = Trained(thin.spiking, task)
    short, stages, at = shorten(start, trainer, options, hybrid)
    product = quantize(short, trainer, options, hybrid)
    networks = {"dense": Trained(wide.spiking, task)}
    if hybrid.control:
        more = (sum(each.accepted for each in stages) - 1) * options.fewer_epochs
        more += options.qat_epochs + max(few.ann_epochs - hybrid.ann_epochs, 0)
        networks[CONTROL] = hybrids.tuned(CONTROL, networks["dense"], trainer, hybrid, more)
    networks |= {"ann": Trained(wide.ann, still), "narrow": start}
    networks["narrow ann"] = Trained(thin.ann, still)
    facts["scales"] = {"dense": wide.scales, "narrow": thin.scales}
    if options.uniform:
        even = _uniform(net, chosen, task.inputs, options, seed)
        twin = hybrids.trained("uniform", even, task, trainer, few)
        facts["scales"]["uniform"] = twin.scales
        networks["uniform"] = Trained(twin.spiking, task)
        networks["uniform ann"] = Trained(twin.ann, still)
    steps = short.task.inputs.timesteps
    controls = hybrids.controls(
        thin.converted, at, steps, trainer, hybrid,
        epochs=options.fewer_epochs, every=options.control_every,
    )  # fmt: skip
    for each in controls:
        networks |= zip(each.names, (at[each.timesteps], each.direct), strict=True)
    networks["compressed"] = product
    rows = measured(networks, data, options.draws, seed)
    facts["stages"] = [stage._asdict() for stage in stages]
    facts["controls"] = [each.facts(start, rows, data.test, options.draws) for each in controls]
    facts["control"] = facts["controls"][-1]
    facts["quantization"] = _at_all_widths(short, data.test, options)
    facts["whole_number_weights"] = whole_numbers(product, data.test)
    tested = Split(*(part[: options.noise_images] for part in data.test))
    noisy = {name: networks[name] for name in ("ann", "dense", "narrow", "short")}
    facts["noise"] = noise_table(noisy, tested, options.sigmas, seeds=options.noise_seeds)
    ratios = [energy_ratios(row, rows["ann"], "published") for row in rows.values()]
    report = metrics.Comparison(tuple(ratios))
    return Result(product.network, product.task, networks, report, facts)


def check(
    net: Network,
    task: train.Task,
    data: Dataset,
    options: Options,
    hybrid: conversion.Options,
) -> None:
    """Refuse, in one line and before anything is trained, what cannot be pruned."""
    fewer = schedules.falling_timesteps(task.inputs.timesteps, options.fewer)
    conversion.check(net, task, hybrid, data, *fewer)
    if not (named := convolutions(net, task.inputs)):
        raise UserError("the network has no convolution to make narrow")
    if options.pca_images > len(data.train.labels):
        raise UserError(
            f"pca_images {options.pca_images} is more than the {len(data.train.labels)} training "
            "images"
        )
    if not hybrid.ann_epochs and options.narrow_ann_epochs is None:
        raise UserError("narrow_ann_epochs is needed with ann_epochs=0: nothing else trains it")
    resized(net, dict.fromkeys(named, 1), task.inputs)  # refuses what is no chain


def convolutions(net: Network, inputs: Inputs) -> tuple[str, ...]:
    """Return the names of the convolutions that fire, first to last."""
    known = layers.synapses(net.module)
    spiking = balancing.spiking_layers(spiking_of(net, balancing.neuron()), inputs)
    return tuple(name for name in spiking if isinstance(known[name], layers.Conv))


def moments(
    net: Network, task: train.Task, images: np.ndarray, options: Options, *, seed: int = 0
) -> dict[str, Moments]:
    """Return layer -> moments of the convolutions' mean drive, or mean potential.

    Args:
      net: the trained spiking network; `task` has its T and encoding.
      images: uint8 `[N, H, W, C]`, the training images; `seed` chooses some of them.
    """
    chosen, timesteps = convolutions(net, task.inputs), task.inputs.timesteps

    def statistic(params: Any, output: Output) -> dict[str, Any]:
        if options.variable == "potential":
            potential = {x: output.activity.potential[x] for x in chosen}
            return principal.mean_potential(potential, timesteps)
        events = {f"{x}/kernel": output.activity.events[f"{x}/kernel"] for x in chosen}
        return principal.drive(net.synapses, tree.named_leaves(params), events, timesteps)

    batches = train.each_batch(
        task, net, images, statistic, batches=max(options.pca_images // ANALYSIS_BATCH, 1),
        batch_size=min(ANALYSIS_BATCH, options.pca_images), seed=seed,
    )  # fmt: skip
    found: dict[str, Moments] = {}
    for batch in batches:
        found = principal.update(found, batch)
    return {name: found[name] for name in chosen}


def narrow(
    net: Network,
    inputs: Inputs,
    moments: Mapping[str, Moments],
    options: Options,
    *,
    seed: int = 0,
) -> tuple[Network, dict[str, Any]]:
    """Choose the widths of the narrow network, and return it with fresh start values.

    Args:
      net: the layout.
      inputs: of the task.
      moments: layer -> moments of its potentials.
      options: of the method.
      seed: of the start values.

    Returns:
      The network, and what was found: `widths`, one entry for each variance, and `explained`, layer
      -> share of the variance in the first k dimensions, `[C]`.
    """
    candidates: list[tuple[Network, dict[str, Any]]] = []
    for variance in options.variances:
        kept = principal.widths(
            moments, variance, rule=options.rule, multiple=options.multiple,
            rows_per_channel=options.rows_per_channel,
        )  # fmt: skip
        kept = principal.depth_cut(kept) if options.depth_cut else kept
        gone = set(moments) - set(kept)
        thin = resized(net, kept, inputs, left_out=gone, dropout=options.narrow_dropout, seed=seed)
        share = _size(thin) / _size(net)
        candidates.append((thin, {"variance": variance, "widths": kept, "share": share}))
    best = min(range(len(candidates)), key=lambda i: abs(candidates[i][1]["share"] - options.size))
    listed = [facts | {"taken": i == best} for i, (_, facts) in enumerate(candidates)]
    shares = {x: principal.explained(principal.finish(each)) for x, each in moments.items()}
    explained = {x: share.round(6).tolist() for x, share in shares.items()}
    return candidates[best][0], {"widths": listed, "explained": explained}


def _size(net: Network) -> int:
    return sum(leaf.size for leaf in tree.named_leaves(net.params).values())


def _uniform(net: Network, thin: Network, inputs: Inputs, options: Options, seed: int) -> Network:
    """Return a network of a narrow one's layers and size, all narrower by one factor."""
    names, there = convolutions(net, inputs), layers.synapses(thin.module)
    gone = [name for name in names if name not in there]
    kept = [name for name in names if name in there]
    widths = uniform_widths(net, kept, inputs, _size(thin), left_out=gone)
    dropout = options.narrow_dropout
    return resized(net, widths, inputs, left_out=gone, dropout=dropout, seed=seed)


def _narrow_options(options: Options, hybrid: conversion.Options) -> conversion.Options:
    own = {name: getattr(options, f"narrow_{name}") for name in ("ann_epochs", "ann_weight_decay")}
    return replaced(hybrid, **{name: value for name, value in own.items() if value is not None})


def shorten(
    start: Trained, trainer: Trainer, options: Options, hybrid: conversion.Options
) -> tuple[Trained, list[Stage], dict[int, Trained]]:
    """Train over fewer and fewer time steps while the held-out accuracy holds.

    Args:
      start: the network trained at T0, with its task.
      trainer: trains a phase "T 75" for each number of steps.
      options: of the method.
      hybrid: of the tunings.

    Returns:
      The network of the last accepted stage, all stages, that of T0 first, and T -> network of
      each stage.
    """
    held_out, initial = scales.held_out(trainer.data), start.task.inputs.timesteps
    first = _mean_accuracy(start, held_out, options)
    at = {initial: start}

    def stage(before: Trained, timesteps: int) -> tuple[Trained, float]:
        begin = Trained(before.network, start.task.at(timesteps))
        found = hybrids.tuned(f"T {timesteps}", begin, trainer, hybrid, options.fewer_epochs)
        at[timesteps] = found
        return found, _mean_accuracy(found, held_out, options)

    short, _, stages = schedules.shorten(
        stage, start, first, initial, options.fewer, tolerance=options.tolerance
    )
    return short, [Stage(initial, first, True), *stages], at


def _mean_accuracy(trained: Trained, split: Split, options: Options) -> float:
    """Return the accuracy, the mean over draws of the input's spikes."""
    return float(np.mean(accuracies(trained, split, options.draws)))


def quantize(
    short: Trained, trainer: Trainer, options: Options, hybrid: conversion.Options
) -> Trained:
    """Return the network at the chosen number of bits, trained on if `qat_epochs` says so."""
    optimizer = hybrids.adam(trainer, hybrid, options.qat_epochs)
    phase = quantized(optimizer, _recipe(short.network, options.bits, options.clip))
    net = trainer("quantized", short.task, phase, short.network, options.qat_epochs)
    return Trained(net, short.task)


def _recipe(net: Network, bits: int, clip: float | None) -> dict[str, Projection]:
    return dict.fromkeys(tree.named_leaves(net.params), symmetric_uniform(bits, quantile=clip))


def _at_all_widths(short: Trained, test: Split, options: Options) -> list[dict[str, Any]]:
    """Measure the accuracy at each number of bits, without retraining."""
    found = []
    for bits in options.bit_widths:
        params = project(short.network.params, _recipe(short.network, bits, options.clip))
        rounded = Trained(short.network.replace(params=params), short.task)
        found.append({"bits": bits, "accuracy": _mean_accuracy(rounded, test, options)})
    return found
