"""The problem of Spike-Thrift: its options, its networks, and what a student learns from."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments import hybrid_problem
from experiments.common.problem import Tree, check_positive
from experiments.hybrid_problem import HybridConfig, HybridProblem
from jaxsnn import export, layers, losses, train, tree
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress import starting
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers import Activity
from jaxsnn.methods import conversion
from jaxsnn.models import spike_thrift
from jaxsnn.network import Output
from jaxsnn.train import parallel


class Way(NamedTuple):
    """Name what a sparse ANN learns from beside the labels."""

    scores: bool  # distillation of the meta-model's scores
    attention: bool  # transfer of its attention maps


WAYS = {"ce": Way(False, False), "kl": Way(True, False), "at": Way(False, True),
        "all": Way(True, True)}  # fmt: skip


@dataclass(frozen=True)
class SpikeThriftConfig(HybridConfig):
    """Options of `experiments.spike_thrift`."""

    fc: Literal["single", "wide"] = "single"
    """Dense layers of vgg16 and vgg11: the read-out alone, or two wide ones before it."""
    teacher: str | None = None
    """File of a trained meta-model, dense-ann.safetensors of another run; trained if left out."""
    density: float = 0.05
    """Share of the weights that the sparse networks have."""
    ways: tuple[str, ...] = ("ce", "all")
    """What sparse ANNs learn from: ce (labels), kl (also scores), at (also attention), all. The
    last one named is converted."""
    alpha: float = 0.9
    """Weight of the distillation; that of the labels is the rest to 1."""
    temperature: float = 4.0
    """Temperature of the distillation."""
    beta: float = 2000.0
    """Twice the weight of the attention maps."""
    distance: Literal["mse", "l2"] = "mse"
    """Distance of two attention maps: of means of squares, or of norms."""
    growth: Literal["momentum", "gradient", "random"] = "momentum"
    """Where weights grow: momentum (sparse momentum, which also moves them between layers),
    gradient (RigL) or random (SET)."""
    prune_rate: float = 0.5
    """Share of the weights replaced after the first epoch; it falls to 0.005 along a cosine."""
    spread: Literal["uniform", "erk"] = "uniform"
    """How the density is spread at first: each layer the same, or small layers denser."""
    begin: Literal["random", "teacher"] = "random"
    """Start of a sparse ANN: random weights, or the largest of the meta-model."""
    sparse_epochs: int = 300
    """Epochs of each sparse ANN."""
    sparse_learning_rate: float = 0.05
    """First step size of a sparse ANN."""
    dense_tune_epochs: int | None = None
    """Epochs of the dense spiking network, if not --tune-epochs."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        super().check()
        check_range("--density", self.density, 0.0, 1.0, open_low=True)
        for name in ("temperature", "sparse_learning_rate"):
            check_positive(name, getattr(self, name))
        check_range("--alpha", self.alpha, 0.0, 1.0)
        check_range("--beta", self.beta, 0.0, np.inf, open_high=True)
        check_range("--prune-rate", self.prune_rate, 0.0, 1.0, open_low=True)
        check_whole("--sparse-epochs", self.sparse_epochs, 1, 1 << 20)
        if self.dense_tune_epochs is not None:
            check_whole("--dense-tune-epochs", self.dense_tune_epochs, 0, 1 << 20)
        if unknown := [way for way in self.ways if way not in WAYS]:
            raise UserError(f"--ways {unknown[0]!r} is unknown; choose from {', '.join(WAYS)}")
        if not self.ways or len(set(self.ways)) < len(self.ways):
            raise UserError("--ways needs at least one, none of them twice")


@dataclass(frozen=True, eq=False)
class ThriftProblem(HybridProblem):
    """A data set and a layout, with the meta-model's weights if they come from a file.

    Attributes:
      teacher: weights of the meta-model, or None if it is yet to be trained.
    """

    config: SpikeThriftConfig
    teacher: Tree | None = None


def load(config: SpikeThriftConfig) -> ThriftProblem:
    """Read data and meta-model and build the network; every mistake of the user's shows here."""
    named = spike_thrift.by_name(config.network, config.fc)
    if named is None and config.fc != "single":
        raise UserError(f"--fc {config.fc} is for vgg16 and vgg11, not for {config.network!r}")
    hybrid = hybrid_problem.load(config, {} if named is None else {config.network: named})
    conversion.check_delay(hybrid.spiking, config.calibration_timesteps, config.order)
    net = hybrid.ann.net
    if config.beta and any(WAYS[way].attention for way in config.ways):
        stage_ends(hybrid.module)  # refuses a network that has no images inside
    masks_of(config, net.params)  # refuses a density that leaves a layer without weights
    teacher = None if config.teacher is None else read_teacher(config.teacher, net.params)
    return ThriftProblem(config, hybrid.data, hybrid.module, layout=hybrid.layout, teacher=teacher)


def masks_of(config: SpikeThriftConfig, params: Tree) -> Any:
    """Return the masks with which a sparse ANN starts, with exact counts."""
    if config.begin == "teacher":
        return starting.magnitude_masks(config.density, params, layers=config.spread)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    return starting.random_masks(key, config.density, params, layers=config.spread)


def read_teacher(path: str, params: Tree) -> Tree:
    """Read the weights of a meta-model that has the student's layers.

    Args:
      path: a packed file of an ANN.
      params: of the student.

    Raises:
      UserError: for a damaged file, or the first layer in which the two differ.
    """
    found, _, _ = export.load(path)
    leaves, own = tree.named_leaves(found), tree.named_leaves(params)
    for name in dict.fromkeys([*own, *leaves]):
        shapes = [leaf[name].shape if name in leaf else None for leaf in (leaves, own)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"--teacher {path}: {name!r} has the shape {shapes[0]}, that of the student "
                f"{shapes[1]}; give the --network, --width and --fc that it was trained with"
            )
    return jax.tree.map(jnp.asarray, found)


def stage_ends(module: layers.Chain) -> tuple[str, ...]:
    """Return the layers whose attention is compared: the last one of each stage.

    That is the last convolution before each pooling and before what has no image any more, or, in a
    network of residual blocks, each of them (Zagoruyko and Komodakis 2017).

    Raises:
      UserError: if there is no such layer.
    """
    blocks = [x for x in module.names if isinstance(getattr(module, x), layers.Residual)]
    if blocks:
        return tuple(f"{block}/conv2" for block in blocks)
    ends, last = [], None
    for name in module.names:
        layer = getattr(module, name)
        if isinstance(layer, layers.Conv):
            last = name
        elif last is not None and not isinstance(layer, layers.Dropout):
            ends.append(last)
            last = None
    if not ends:
        raise UserError("no convolution whose attention maps could be compared: give --beta 0")
    return tuple(ends)


class Guided(NamedTuple):
    """Hold what a student gives, as an `Output`, and its teacher's beside it."""

    readout: Array  # [1, B, classes]
    stats: Tree  # {"student": ..., "teacher": ...}, the teacher's weights among them
    activity: Activity
    teacher: Output | None  # on the same images without dropout; None in evaluation


def guided_stats(problem: HybridProblem, teacher: Tree) -> Tree:
    """Return the statistics of a guided training; the teacher is saved and resumed with them."""
    stats = problem.ann.net.stats
    return {"student": stats, "teacher": {"params": teacher, "stats": stats}}


def guided_task(problem: ThriftProblem, way: Way) -> train.Task:
    """Return the task of training a sparse ANN that a meta-model of the same layout guides.

    Statistics are those of `guided_stats`, so that the teacher is part of the training's state.
    """
    ann, c = problem.ann, problem.config
    net, ends = ann.net, stage_ends(ann.module) if way.attention else ()

    def apply(
        params: Tree,
        stats: Tree,
        x: Array | Signal,
        *,
        train: bool = False,
        key: Array | None = None,
        remat: int | None = None,
        axis: str | None = None,
    ) -> Any:
        student = net.apply(
            params, stats["student"], x, train=train, key=key, remat=remat, axis=axis
        )
        teacher = None
        if train and any(way):
            constants = stats["teacher"]
            teacher = net.apply(constants["params"], constants["stats"], x)
        stats = stats | {"student": student.stats}
        return Guided(student.readout, stats, student.activity, teacher)

    def loss(output: Any, labels: Array) -> Array:
        if output.teacher is None:
            return losses.cross_entropy(output.readout, labels)
        stages = [{x: o.activity.spikes[x] for x in ends} for o in (output, output.teacher)]
        return losses.attention_guided(
            output.readout, labels, output.teacher.readout, *stages,
            alpha=c.alpha if way.scores else None, beta=c.beta if way.attention else None,
            temperature=c.temperature, distance=c.distance,
        )  # fmt: skip

    devices = parallel.most_devices(c.batch_size)
    return train.Task(apply, ann.prepare, loss, devices=devices)


def sparse_start(problem: ThriftProblem, teacher: Tree, params: Tree) -> tuple[Tree, Tree]:
    """Return the masks and the weights with which a sparse ANN starts.

    Args:
      problem: with the options.
      teacher: weights of the meta-model.
      params: random weights, of the size that suits the dense network.
    """
    weights = teacher if problem.config.begin == "teacher" else params
    masks = masks_of(problem.config, weights)
    return masks, starting.start(masks, weights)
