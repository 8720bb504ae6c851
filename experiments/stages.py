"""The stages of an ADMM compression on one problem, each a phase that resumes, each with a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from experiments.skeleton import CommonConfig, Run
from jaxsnn import data, encode, export, functional, losses, metrics, models, plots, train
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress import admm, masks, transforms
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import rectangle

Tree = Any
Row = dict[str, Any]


@dataclass(frozen=True)
class AdmmConfig(CommonConfig):
    """Options of the ADMM experiments."""

    network: str = "32C3-AP2-32C3-AP2-128-10"
    """Layout of the network: 32C3 convolution, AP2 average pooling, 128 dense, V10 voting."""
    decay: float = 0.2
    """Share of the membrane potential left after a step."""
    threshold: float = 0.5
    """Potential above which a neuron spikes."""
    timesteps: int = 4
    """Time steps T of one sample."""
    encoding: str = "direct"
    """How an image enters: direct (the real values at every step) or bernoulli (random spikes)."""
    loss: str = "mse"
    """Loss of the read-out: mse on the firing rates, or ce."""
    augment: bool = False
    """Random crops and flips of the training images."""
    limit: int | None = None
    """Use only this many training images."""
    validation: float = 0.1
    """Share of the training images held out to be evaluated after each epoch."""
    batch_size: int = 100
    """Samples of one training step."""
    learning_rate: float = 1e-3
    """Adam's first step size in each phase; it falls to 0 along a cosine."""
    dense_epochs: int = 10
    """Epochs of the dense network."""
    pull_epochs: int = 3
    """Epochs of each ADMM phase."""
    retrain_epochs: int = 3
    """Epochs of each retraining after a hard step."""
    activity_epochs: int = 4
    """Epochs of the activity regularization alone."""
    penalty: float = 1e-4
    """ADMM penalty rho at the start; it grows tenfold after each third of the phase."""
    penalty_mode: str = "squared"
    """The penalty: squared, or norm as in the authors' script."""
    dual_steps: int = 10
    """Dual updates in each epoch of an ADMM phase."""
    sparsity: float = 0.95
    """Share of the connections removed by pruning alone."""
    allocation: str = "root"
    """How a sparsity is spread: root (kept weights grow as the root of a layer's size) or uniform."""
    levels: str = "ternary"
    """Levels of quantization alone: binary, ternary, uniform or pow2."""
    bits: int = 2
    """Bits of the levels uniform and pow2."""
    spike_weight: float = 0.03
    """Weight of the mean firing rate in the loss, for activity regularization."""
    joint_sparsity: float = 0.9
    """Share of the connections removed in the joint way."""
    joint_levels: str = "uniform"
    """Levels of the joint way."""
    joint_bits: int = 3
    """Bits of the joint way's levels uniform and pow2."""
    joint_order: str = "sequence"
    """The joint way: sequence (prune, then quantize the survivors) or together (one ADMM phase)."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        check_range("--sparsity", self.sparsity, 0.0, 1.0, open_high=True)
        check_range("--joint-sparsity", self.joint_sparsity, 0.0, 1.0, open_high=True)
        check_range("--validation", self.validation, 0.0, 1.0, open_high=True)
        for name in ("learning_rate", "penalty", "threshold"):
            check_range(_option(name), getattr(self, name), 0.0, np.inf, open_low=True, open_high=True)
        check_range("--decay", self.decay, 0.0, 1.0)
        check_range("--spike-weight", self.spike_weight, 0.0, np.inf, open_high=True)
        check_whole("--seed", self.seed, 0, 2**31 - 1)
        for name in ("timesteps", "batch_size", "dual_steps", "dense_epochs", "pull_epochs"):
            check_whole(_option(name), getattr(self, name), 1, 1 << 20)
        for name in ("retrain_epochs", "activity_epochs"):
            check_whole(_option(name), getattr(self, name), 0, 1 << 20)
        for name in ("bits", "joint_bits"):
            check_whole(_option(name), getattr(self, name), 1, 8)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                found = getattr(self, name)
                raise UserError(f"{_option(name)} {found!r} is unknown; choose {', '.join(choices)}")
        for levels, bits in ((self.levels, self.bits), (self.joint_levels, self.joint_bits)):
            admm.grid(levels, bits)


CHOICES = {
    "encoding": ("direct", "bernoulli"),
    "loss": ("mse", "ce"),
    "penalty_mode": ("squared", "norm"),
    "allocation": ("root", "uniform"),
    "levels": ("binary", "ternary", "uniform", "pow2"),
    "joint_levels": ("binary", "ternary", "uniform", "pow2"),
    "joint_order": ("sequence", "together"),
}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


class Network(NamedTuple):
    """Hold a trained network: its weights and the rest of its arrays."""

    params: Tree
    stats: Tree


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set, a network for it, and what it is trained to do."""

    config: AdmmConfig
    data: data.Dataset
    tasks: dict[float, train.Task] = field(default_factory=dict)

    @cached_property
    def net(self) -> functional.Functional:
        """Build the network, with start values from the seed."""
        c = self.config
        neuron = LIF(decay=c.decay, threshold=c.threshold, surrogate=rectangle(1.0))
        rngs = nnx.Rngs(c.seed)
        net = functional.split(models.build(c.network, self.data.shape, neuron, rngs=rngs))
        shape = jax.eval_shape(
            lambda: net.apply(net.params, net.stats, encode.direct(jnp.zeros((1, *self.data.shape)), 1))
        ).readout.shape
        if shape[-1] != self.data.num_classes:
            raise UserError(
                f"--network {c.network!r} ends in {shape[-1]} scores, but {self.data.name} has "
                f"{self.data.num_classes} classes"
            )
        return net

    def prepare(self, key: Array, images: Array, training: bool) -> Array | Signal:
        """Turn images `[B, H, W, C]` into the network's input; colour images are normalised."""
        augment_key, code_key = jax.random.split(key)
        if training and self.config.augment:
            images = data.augment.crop_and_flip(augment_key, images)
        values = images.astype(jnp.float32) / 255.0
        if self.config.encoding == "bernoulli":
            return encode.bernoulli(code_key, values, self.config.timesteps)
        if self.data.shape[-1] > 1:
            mean, std = (jnp.broadcast_to(jnp.asarray(x), values.shape) for x in (self.data.mean, self.data.std))
            values = (values - mean) / std
        return encode.direct(values, self.config.timesteps)

    def task(self, spike_weight: float = 0.0) -> train.Task:
        """Return the task with that weight on the mean firing rate; one object for each weight."""
        if spike_weight not in self.tasks:
            readout_loss = losses.by_name(self.config.loss)
            timesteps = self.config.timesteps

            def loss(output, labels):
                value = readout_loss(output.readout, labels)
                if spike_weight:
                    value = value + spike_weight * losses.spike_count(output.activity, timesteps)
                return value

            self.tasks[spike_weight] = train.Task(self.net.apply, self.prepare, loss)
        return self.tasks[spike_weight]

    def sparsities(self, sparsity: float) -> dict[str, float]:
        """Return kernel name -> share to remove, for a share of all connections."""
        exponent = {"root": 0.5, "uniform": 1.0}[self.config.allocation]
        return masks.spread(sparsity, self.net.params, exponent=exponent)

    def steps(self, epochs: int) -> int:
        """Return the number of training steps in that many epochs."""
        return epochs * (len(self.data.train.labels) // self.config.batch_size)


def load(config: AdmmConfig) -> Problem:
    """Read the data and build the network; every mistake of the user's shows here."""
    config.check()
    found = data.load(
        config.dataset, config.data_dir, validation=config.validation, seed=0, limit=config.limit
    )
    check_whole("--batch-size", config.batch_size, 1, len(found.train.labels))
    problem = Problem(config, found)
    for sparsity in (config.sparsity, config.joint_sparsity):
        recipe = problem.sparsities(sparsity)
        jax.eval_shape(partial(masks.keep_fraction, recipe), problem.net.params)  # only the checks
    return problem


class Stages:
    """Train and compress the network of a problem, phase by phase, in a run directory."""

    def __init__(self, run: Run, problem: Problem):
        self.run = run
        self.problem = problem
        self.config = problem.config
        self.key = jax.random.key(problem.config.seed)
        self.rows: list[Row] = []
        self.over_time: dict[str, Any] = {}

    def dense(self, name: str = "dense") -> Network:
        """Train the uncompressed network."""
        start = Network(self.problem.net.params, self.problem.net.stats)
        epochs = self.config.dense_epochs
        return self._train(name, start, optax.adam(self._rate(epochs)), epochs)

    def quieten(self, dense: Network, name: str = "activity") -> Network:
        """Train on with the mean firing rate in the loss."""
        epochs, weight = self.config.activity_epochs, self.config.spike_weight
        return self._train(name, dense, optax.adam(self._rate(epochs)), epochs, weight)

    def prune(
        self, dense: Network, sparsity: float, name: str = "prune", spike_weight: float = 0.0
    ) -> tuple[Network, Tree]:
        """Pull towards sparse weights, prune, retrain under the masks."""
        recipe = admm.prune_recipe(self.problem.sparsities(sparsity))
        pulled = self._pull(f"{name} pull", dense, recipe, spike_weight)
        return self._prune_hard(f"{name} retrain", pulled, recipe, self._retrain, spike_weight)

    def prune_one_shot(
        self, dense: Network, sparsity: float, name: str = "one-shot"
    ) -> tuple[Network, Tree]:
        """Prune by magnitude at once and retrain: the rival, with the same number of epochs."""
        epochs = self.config.pull_epochs + self._retrain
        recipe = admm.prune_recipe(self.problem.sparsities(sparsity))
        return self._prune_hard(f"{name} retrain", dense, recipe, epochs, 0.0)

    def quantize(
        self,
        dense: Network,
        levels: str,
        bits: int,
        name: str = "quantize",
        spike_weight: float = 0.0,
        kept: Tree = None,
    ) -> Network:
        """Pull towards a grid, project, retrain straight through."""
        recipe = admm.quantize_recipe(levels, bits, masks=kept)
        return self._on_grid(dense, recipe, name, spike_weight, kept)

    def joint(self, dense: Network, name: str = "joint") -> Network:
        """Prune, quantize and quieten: one after the other, or in one ADMM phase."""
        c = self.config
        if c.joint_order == "together":
            recipe = admm.joint_recipe(
                self.problem.sparsities(c.joint_sparsity), c.joint_levels, c.joint_bits
            )
            return self._on_grid(dense, recipe, name, c.spike_weight, None)
        pruned, kept = self.prune(dense, c.joint_sparsity, f"{name} prune", c.spike_weight)
        return self.quantize(
            pruned, c.joint_levels, c.joint_bits, f"{name} quantize", c.spike_weight, kept
        )

    def add_row(self, name: str, network: Network, file: str | None = None) -> Row:
        """Evaluate a network on the test images, pack it to a file, and note its row."""
        problem, c = self.problem, self.config
        found = train.evaluate(problem.task(), *network, problem.data.test, batch_size=100)
        stem = (file or name).replace(" ", "-")
        file_bytes = export.save(
            self.run.models / f"{stem}.safetensors", network.params, network.stats,
            {"name": name, "accuracy": f"{found.accuracy:.6f}", "network": c.network},
        )  # fmt: skip
        row = metrics.report(
            name,
            synapses=problem.net.synapses,
            params=network.params,
            counts=found.counts,
            timesteps=c.timesteps,
            accuracy=found.accuracy,
            analog_input=(next(iter(problem.net.synapses)),) if c.encoding == "direct" else (),
            cached_input=True,
            seed=c.seed,
            file_bytes=file_bytes,
        )
        starved = masks.starved_outputs(masks.of_nonzeros(network.params))
        row["starved_outputs"] = sum(starved.values())
        self.rows.append(row)
        self.over_time[name] = np.asarray(found.accuracy_over_time)
        layers = row["layers"]
        silent = [f"{x['silent']} in {x['name']}" for x in layers if x["silent"]]
        note = f"; never fired: {', '.join(silent)}" if silent else ""
        self.run.say(f"{name}: {100 * found.accuracy:.2f} % on test{note}")
        return row

    def draw(self, before: Network, after: Network, compared: str) -> None:
        """Draw all plots of the run."""
        folder = self.run.plots
        plots.plot_curves(self.run.log, folder / "curves.png")
        if any(key.startswith("primal/") for record in self.run.log for key in record):
            plots.plot_residuals(self.run.log, folder / "residuals.png")
        rows = [row for row in self.rows if row["name"] in ("dense", compared)]
        plots.plot_layers(rows, folder / "layers.png")
        plots.plot_histograms(before.params, after.params, folder / "histograms.png")
        plots.plot_accuracy_over_time(self.over_time, folder / "accuracy_over_time.png")
        image = self.problem.data.test.images[0]
        title = f"spikes of {compared} on one test image"
        plots.plot_raster(self._spikes(after, image), folder / "raster.png", image=image, title=title)

    @property
    def _retrain(self) -> int:
        return self.config.retrain_epochs

    def _rate(self, epochs: int) -> optax.Schedule:
        steps = max(self.problem.steps(epochs), 1)
        return optax.cosine_decay_schedule(self.config.learning_rate, steps)

    def _train(
        self,
        name: str,
        start: Network,
        optimizer: optax.GradientTransformation,
        epochs: int,
        spike_weight: float = 0.0,
        visible: Callable[[Tree], Tree] = lambda params: params,
        observe: Callable[[train.TrainState], Mapping[str, Any]] | None = None,
    ) -> Network:
        return Network(*self._state(name, start, optimizer, epochs, spike_weight, visible, observe)[:2])

    def _state(
        self, name, start, optimizer, epochs, spike_weight, visible=lambda params: params, observe=None
    ) -> train.TrainState:
        """Train one phase, its randomness a function of the seed and the phase's name alone."""
        problem = self.problem
        key = jax.random.fold_in(self.key, int.from_bytes(name.encode()[-4:]) ^ len(name))
        state = jax.jit(train.init, static_argnums=2)(*start, optimizer, key)
        state = state._replace(params=visible(state.params))
        return self.run.phase(
            name, problem.task(spike_weight), optimizer, state, problem.data.train,
            epochs=epochs, batch_size=self.config.batch_size,
            validation=problem.data.validation, observe=observe,
        )  # fmt: skip

    def _pull(self, name, start, recipe, spike_weight, kept=None) -> Network:
        """Run the ADMM phase and log its residuals."""
        epochs = self.config.pull_epochs
        steps = self.problem.steps(epochs)
        optimizer = admm.optimizer(
            self._rate(epochs),
            recipe,
            penalty=admm.penalty_schedule(steps, initial=self.config.penalty),
            every=max(self.problem.steps(1) // self.config.dual_steps, 1),
            mode=self.config.penalty_mode,
            masks=kept,
        )

        def observe(state):
            pulled = transforms.find(state.opt_state, transforms.PullState)
            found = transforms.residuals(pulled, state.params)
            primal = {f"primal/{leaf}": float(r.primal) for leaf, r in found.items()}
            dual = {f"dual/{leaf}": float(r.dual) for leaf, r in found.items()}
            return primal | dual | {"penalty": float(pulled.penalty)}

        return self._train(name, start, optimizer, epochs, spike_weight, observe=observe)

    def _prune_hard(self, name, start, recipe, epochs, spike_weight) -> tuple[Network, Tree]:
        params, kept = jax.jit(partial(admm.hard_prune, recipe=recipe))(start.params)
        optimizer = admm.retrain_masked(self._rate(epochs), kept)
        pruned = Network(params, start.stats)
        return self._train(name, pruned, optimizer, epochs, spike_weight), kept

    def _on_grid(self, start, recipe, name, spike_weight, kept) -> Network:
        """Pull towards the recipe's set, project onto it, and retrain straight through."""
        pulled = self._pull(f"{name} pull", start, recipe, spike_weight, kept)
        optimizer = admm.retrain_quantized(self._rate(self._retrain), recipe)
        state = self._state(
            f"{name} retrain", pulled, optimizer, self._retrain, spike_weight,
            visible=jax.jit(partial(admm.hard_quantize, recipe=recipe)),
        )  # fmt: skip
        latent = transforms.find(state.opt_state, transforms.LatentState)
        return Network(jax.jit(partial(transforms.snap, recipe))(latent, state.params), state.stats)

    def _spikes(self, network: Network, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the spikes `[T, *neurons]` of each layer: differences of the sums up to each t."""

        @jax.jit
        def sums(image):
            x = self.problem.prepare(jax.random.key(0), image[None], False)
            times = range(1, self.config.timesteps + 1)
            starts = [encode.direct(x.value, t) if isinstance(x, Signal) else x[:t] for t in times]
            outputs = [self.problem.net.apply(*network, start) for start in starts]
            spikes = [output.activity.spikes for output in outputs]
            return jax.tree.map(lambda *layer: jnp.concatenate([jnp.zeros_like(layer[0]), *layer]), *spikes)

        return {name: np.diff(sums, axis=0) for name, sums in sums(image).items()}

