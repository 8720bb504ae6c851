"""The four commands, each a dataclass of its options with a method that runs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tyro import conf

from jaxsnn import data, network as functional
from jaxsnn.cli import facts, tables
from jaxsnn.errors import UserError
from jaxsnn.export import pack
from jaxsnn.export.fold import fold_norms
from jaxsnn.export.model import Model
from jaxsnn.export.npz import save_npz
from jaxsnn.export.stablehlo import save_stablehlo

SAMPLES = 32  # random ones on which two networks are compared, and examples for a translation
Flag = conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Inspect:
    """Show what a packed file holds, layer by layer."""

    file: conf.Positional[Path]
    """A packed network."""
    json: Flag = False
    """Print JSON, for programs."""

    def run(self) -> None:
        """Print the facts."""
        found, _ = facts.of_file(self.file)
        if self.json:
            tables.print_json(found)
            return
        tables.print_layers(found["layers"])
        print()
        tables.print_facts(_summary(found))


@dataclass(frozen=True)
class Evaluate:
    """Run a packed network over the test images of a data set."""

    file: conf.Positional[Path]
    """A packed network, with its architecture and its input."""
    dataset: str
    """Name of the data set, such as digits, mnist or cifar10."""
    data_dir: str | None = None
    """Folder of the data files; $JAXSNN_DATA if left out, and then tensorflow-datasets."""
    batch_size: int = 100
    """Samples at a time; random encodings draw by batch."""
    json: Flag = False
    """Print JSON, for programs."""

    def run(self) -> None:
        """Print accuracy and spikes."""
        model = pack.load_model(self.file)
        found = _data_for(model, self.file, self.dataset, self.data_dir)
        done = model.evaluate(found.test, batch_size=self.batch_size)
        samples = int(done.counts.num_samples)
        spikes = [np.asarray(each) for each in done.counts.spikes.values()]
        fired = sum(int(each.sum(dtype=np.int64)) for each in spikes) / samples
        neurons = sum(each.size for each in spikes)
        stated = _stated_accuracy(model.metadata)
        over_time = np.asarray(done.accuracy_over_time).tolist()
        rate = fired / max(neurons * model.known_inputs().timesteps, 1)
        result = {
            "file": str(self.file),
            "dataset": found.name,
            "samples": samples,
            "accuracy": done.accuracy,
            "stated_accuracy": stated,
            "accuracy_over_time": over_time,
            "timesteps": model.known_inputs().timesteps,
            "spikes_per_sample": fired,
            "spike_rate": rate,
            "notes": found.notes,
        }
        if self.json:
            tables.print_json(result)
            return
        tables.print_facts(
            {
                "accuracy": f"{100 * done.accuracy:.2f} % of {samples:,} test samples",
                "stated": "–" if stated is None else f"{100 * stated:.2f} %",
                "after each step": ", ".join(f"{100 * share:.2f}" for share in over_time) + " %",
                "spikes": f"{fired:,.1f} a sample, a rate of {rate:.3g} a neuron and step",
                **({"notes": found.notes} if found.notes else {}),
            }
        )


@dataclass(frozen=True)
class Export:
    """Translate a packed network for other programs."""

    file: conf.Positional[Path]
    """A packed network."""
    to: Literal["nir", "stablehlo", "npz"]
    """nir (other SNN frameworks), stablehlo (one program, any batch) or npz (arrays, integers)."""
    out: Path
    """File to write."""
    target: str = "nir"
    """Who reads the NIR file: nir, snntorch, norse, spikingjelly or sinabs."""
    dataset: str | None = None
    """For nir, a data set from which examples are taken: ties at the threshold are counted."""
    data_dir: str | None = None
    """Folder of the data files."""

    def run(self) -> None:
        """Write the file."""
        note = ""
        if self.to != "nir" and (self.target != "nir" or self.dataset is not None):
            raise UserError(f"--target and --dataset are for --to nir, not for {self.to}")
        if self.to == "npz":
            contents = pack.read(self.file)
            params, stats = pack.trees(self.file, contents)
            about = {name: contents.header[name] for name in ("architecture", "inputs")}
            about["metadata"] = contents.metadata
            size = save_npz(self.out, params, stats, about)
        elif self.to == "stablehlo":
            size = save_stablehlo(self.out, _with_inputs(self.file))
        else:
            size, note = self._nir()
        print(f"{self.out}: {size:,} bytes{note}")

    def _nir(self) -> tuple[int, str]:
        """Write a NIR file; return its size, and what there is to say of it."""
        from jaxsnn.export.nir import to_nir
        from jaxsnn.export.nir.files import write_nir

        model = _with_inputs(self.file)
        inputs, net = model.known_inputs(), model.net
        example = None
        if self.dataset is not None:
            samples = _data_for(model, self.file, self.dataset, self.data_dir).test.images
            example = inputs.prepare(jax.random.key(0), jnp.asarray(samples[:SAMPLES]))
        module, note = model.module, ""
        if functional.has_norms(net.stats):
            module = fold_norms(module, net.params, net.stats)
            net = functional.split(module)
            note = "; batch normalisation is folded into the weights"
        options: dict[str, Any] = {"target": self.target, "example": example}
        graph = to_nir(module, net.params, net.stats, inputs.shape, **options)
        return write_nir(self.out, graph), note


@dataclass(frozen=True)
class Compare:
    """Show two packed networks side by side, and how far their scores are apart."""

    first: conf.Positional[Path]
    """A packed network."""
    second: conf.Positional[Path]
    """Another one."""
    json: Flag = False
    """Print JSON, for programs."""

    def run(self) -> None:
        """Print both, and their scores on the same random samples if they take the same."""
        (a, one), (b, two) = facts.of_file(self.first), facts.of_file(self.second)
        scores = _difference(one, two)
        if self.json:
            tables.print_json({"first": a, "second": b, "scores": scores})
            return
        tables.print_pairs(a, b)
        print()
        sides = _summary(a), _summary(b)
        ratio = a["file_bytes"] / b["file_bytes"]
        lines = {
            name: " → ".join(dict.fromkeys(side.get(name, "–") for side in sides))
            for name in dict.fromkeys([*sides[0], *sides[1]])
        }
        lines["ratio of files"] = f"{ratio:.4g}"
        if scores is None:
            lines["scores"] = "not compared: the networks do not take the same input"
        else:
            lines["scores"] = (
                f"at most {scores['largest_difference']:.4g} apart, "
                f"{100 * scores['same_decisions']:.4g} % of the decisions equal, "
                f"on {scores['samples']} random samples"
            )
        tables.print_facts(lines)


Command = (
    Annotated[Inspect, conf.subcommand("inspect")]
    | Annotated[Evaluate, conf.subcommand("eval")]
    | Annotated[Export, conf.subcommand("export")]
    | Annotated[Compare, conf.subcommand("compare")]
)


def _with_inputs(file: Path) -> Model:
    model = pack.load_model(file)
    if model.inputs is None:
        raise UserError(f"{file}: says nothing about its input, expected one saved with inputs=")
    return model


def _data_for(model: Model, file: Path, dataset: str, data_dir: str | None) -> data.Dataset:
    """Load a data set and refuse it if it is not one for the network."""
    inputs = _with_inputs(file).known_inputs()
    options = data.event_options(dataset, timesteps=inputs.timesteps, size=inputs.shape[0])
    found = data.load(dataset, data_dir, **options)
    shape = found.test.images.shape[1:]
    if (inputs.sample_shape, model.classes) != (shape, found.num_classes):
        raise UserError(
            f"{file}: takes samples of shape {_times(inputs.sample_shape)} in {model.classes} "
            f"classes, but {found.name} has {_times(shape)} in {found.num_classes} classes"
        )
    return found


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _stated_accuracy(metadata: dict[str, str]) -> float | None:
    """Return the accuracy that a file states, if it is a number."""
    try:
        return float(metadata["accuracy"])
    except (KeyError, ValueError):
        return None


def _summary(found: facts.Facts) -> dict[str, str]:
    inputs = found["inputs"]
    lines = {
        "file": found["file"],
        "bytes": f"{found['file_bytes']:,}",
        "of these, header": f"{found['header_bytes']:,}",
        "input": "not stated",
        "written by": ", ".join(f"{name} {text}" for name, text in found["written_by"].items()),
    }
    if inputs is not None:
        shape, steps = _times(tuple(inputs["shape"])), inputs["timesteps"]
        lines["input"] = f"{shape}, {inputs['encoding']}, {steps} steps"
    return lines | found["metadata"]


def _difference(one: Model | None, two: Model | None) -> dict[str, float] | None:
    """Run two networks on the same random samples, if they take and give the same shapes."""
    if one is None or two is None or one.inputs is None or two.inputs is None:
        return None
    shape = one.inputs.sample_shape
    if shape != two.inputs.sample_shape or one.classes != two.classes:
        return None
    top = 4 if one.inputs.encoding == "events" else 256
    samples = np.random.default_rng(0).integers(0, top, (SAMPLES, *shape)).astype(np.uint8)
    scores = [np.asarray(model.scores(samples, batch_size=SAMPLES)) for model in (one, two)]
    decisions = [each.argmax(-1) for each in scores]
    return {
        "samples": SAMPLES,
        "largest_difference": float(np.abs(scores[0] - scores[1]).max()),
        "same_decisions": float((decisions[0] == decisions[1]).mean()),
    }
