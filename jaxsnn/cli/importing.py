"""The command `jaxsnn import`: a network of another framework as a packed file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tyro import conf

from jaxsnn import foreign, models
from jaxsnn.cli.arguments import flag
from jaxsnn.errors import UserError
from jaxsnn.export import from_nir, from_torch, save
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF, Neuron, SynapticLIF

__all__ = ["Import"]

Flag = conf.FlagCreatePairsOff[bool]
HDF5 = b"\x89HDF"  # how a NIR file begins
OF_NIR = ("target", "dt")
OF_WEIGHTS = (
    "layout", "shape", "decay", "threshold", "synaptic_decay", "inclusive", "norm", "no_bias",
    "readout", "map", "ignore", "decay_input",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """Take a network from another framework: a NIR file, or the weights of a PyTorch network.

    A NIR file says its layers and its neurons:

        jaxsnn import net.nir --timesteps 10 --out net.safetensors

    Weights do not, neither .pt (torch.save(model.state_dict(), "weights.pt")) nor .safetensors. Say
    the layers by --layout and --shape, the neurons by --decay, --threshold and --reset. Weights of
    snnTorch hold their beta and threshold, which then count:

        jaxsnn import weights.pt --layout 32C3-AP2-10 --shape 28 28 1 --decay 0.9
            --reset soft_undecayed --timesteps 10 --out net.safetensors

    Which numbers belong to which layer is guessed by order and shape; where it cannot be, the
    message lists both sides for --map. Nothing in a file is executed.
    """

    file: conf.Positional[Path]
    """A NIR file, or weights of PyTorch (.pt, .safetensors)."""
    out: Path
    """The packed file to write."""
    timesteps: int
    """Steps of the input; no file says them."""
    encoding: Literal["direct", "bernoulli", "poisson", "events"] = "direct"
    """How samples become the input."""
    reset: Literal["hard", "soft", "soft_undecayed"] | None = None
    """Of the neurons; snnTorch's is soft_undecayed, SpikingJelly's and Norse's hard, sinabs' soft.
    A NIR file says hard unless told."""
    layout: str | None = None
    """Of weights: the layers, such as 32C3-AP2-32C3-AP2-128-10."""
    shape: tuple[int, ...] = ()
    """Of weights: one sample at one step, height, width and channels, or features."""
    decay: float | None = None
    """Of weights: share of the potential left after a step; 1 - 1/tau in SpikingJelly."""
    threshold: float = 1.0
    """Of weights: potential at which neurons spike."""
    synaptic_decay: float | None = None
    """Of weights: share left after a step of neurons' synaptic currents, if they have some
    (snnTorch's Synaptic); those of the file count."""
    inclusive: Flag = False
    """Of weights: neurons also spike exactly on the threshold (SpikingJelly, sinabs)."""
    decay_input: Literal["yes", "no"] | None = None
    """Of weights: whether neurons multiply their input by 1 - decay. Norse's do, SpikingJelly's and
    sinabs' by default; snnTorch's do not."""
    norm: Flag = False
    """Of weights: batch normalisation behind every hidden layer."""
    no_bias: Flag = False
    """Of weights: layers have no bias."""
    readout: Literal["spikes", "current", "leaky"] = "spikes"
    """Of weights: what the last layer gives."""
    map: tuple[str, ...] = ()
    """Of weights: which module fills which layer, as conv1=features.0 conv1/norm=features.1."""
    ignore: tuple[str, ...] = ()
    """Of weights: patterns of names that are not for this network, such as head.*"""
    target: str | None = None
    """Of a NIR file: who wrote it, nir, snntorch, norse, spikingjelly or sinabs."""
    dt: float | None = None
    """Of a NIR file: seconds of one step."""

    def run(self) -> None:
        """Write the packed file, and print what is in it."""
        is_nir = self.file.is_file() and _start(self.file) == HDF5
        self._check_options(OF_WEIGHTS if is_nir else OF_NIR, is_nir)
        if is_nir:
            net = from_nir(self.file, target=self.target, dt=self.dt, reset=self.reset)
        else:
            net = self._from_weights()
        inputs = Inputs(net.input_shape or (), self.timesteps, self.encoding)
        size = save(self.out, net, inputs, {"from": self.file.name})
        print(f"{self.out}: {size:,} bytes; layers {', '.join(net.order)}")

    def _check_options(self, others: Sequence[str], is_nir: bool) -> None:
        """Refuse options that say nothing of this kind of file."""
        for field in fields(self):
            if field.name in others and getattr(self, field.name) != field.default:
                other, own = ("weights", "a NIR file") if is_nir else ("a NIR file", "weights")
                raise UserError(f"{flag(field.name)} is for {other}, and {self.file} is {own}")

    def _from_weights(self) -> Network:
        """Return the network of the layout with the weights of the file."""
        asked = {
            "--layout": self.layout is not None,
            "--shape": bool(self.shape),
            "--decay": self.decay is not None,
            "--reset": self.reset is not None,
        }
        if missing := [name for name, is_there in asked.items() if not is_there]:
            raise UserError(f"{self.file}: weights do not say it, pass {', '.join(missing)}")
        options: dict[str, Any] = {"strict": not self.inclusive, "reset": self.reset}
        neuron: Neuron = LIF(self.decay or 0.0, self.threshold, **options)
        if self.synaptic_decay is not None:
            options["synaptic_decay"] = self.synaptic_decay
            neuron = SynapticLIF(self.decay or 0.0, self.threshold, **options)
        net = models.build(
            self.layout or "",
            self.shape,
            neuron,
            readout=self.readout,
            norm=self.norm,
            use_bias=not self.no_bias,
        )
        gain = None if self.decay_input is None else self.decay_input == "yes"
        return from_torch(self.file, net, _pairs(self.map), ignore=self.ignore, decay_input=gain)


def _start(path: Path) -> bytes:
    with foreign.reading(path, "a NIR file or weights"), open(path, "rb") as file:
        return file.read(len(HDF5))


def _pairs(words: Sequence[str]) -> Mapping[str, str]:
    """Return the mapping that words such as `conv1=features.0` say."""
    pairs = [word.partition("=") for word in words]
    for word, (place, equals, module) in zip(words, pairs, strict=True):
        if not (place and equals and module):
            raise UserError(f"--map {word}: write LAYER=MODULE, as conv1=features.0")
    return {place: module for place, _, module in pairs}
