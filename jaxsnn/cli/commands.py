"""The commands, each a dataclass of its options with a method that runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tyro import conf

from jaxsnn import data
from jaxsnn.cli import facts, fitting, tables
from jaxsnn.cli.compiling import Compile, accuracy_in_c
from jaxsnn.cli.importing import Import
from jaxsnn.data.loading import event_options
from jaxsnn.errors import UserError
from jaxsnn.export import Model, fold_norms, load, save_npz, save_stablehlo, to_lava, to_nir

__all__ = ["Command", "Compare", "Evaluate", "Export", "Inspect", "data_for"]

SAMPLES = 32  # examples for a translation
Flag = conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Inspect:
    """Show what a packed file holds, layer by layer; or whether it fits a chip."""

    file: conf.Positional[Path]
    """A packed network."""
    chip: str | None = None
    """Compare it with the limits of a chip: cortex-m4, loihi2, speck or xylo3."""
    forms: Flag = False
    """Show the bytes that each leaf takes, and would take in other forms, beside its entropy."""
    json: Flag = False
    """Print JSON, for programs."""

    def run(self) -> None:
        """Print the facts, or each limit of a chip with what the network needs, or the forms."""
        if self.chip is not None:
            if self.forms:
                raise UserError("--chip and --forms are two questions: ask one at a time")
            fitting.report(self.file, self.chip, json=self.json)
            return
        if self.forms:
            rows = facts.forms_of(self.file)
            if self.json:
                tables.print_json({"file": str(self.file), "leaves": rows})
            else:
                tables.print_forms(rows)
            return
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
    engine: Literal["jax", "c"] = "jax"
    """c: the integer network as machine code of the C compiler at hand; gives accuracy alone."""
    json: Flag = False
    """Print JSON, for programs."""

    def run(self) -> None:
        """Print accuracy and spikes."""
        model = load(self.file)
        found = data_for(model, self.file, self.dataset, self.data_dir)
        if self.engine == "c":
            accuracy = accuracy_in_c(self.file, model, found.test)
            lines = {"dataset": found.name, "samples": len(found.test.labels), "engine": "c"}
            if self.json:
                tables.print_json(lines | {"accuracy": accuracy})
            else:
                share = f"{100 * accuracy:.2f} % of {lines['samples']:,} test samples, in C"
                tables.print_facts({"accuracy": share})
            return
        result = _evaluation(model, found, self.batch_size) | {"file": str(self.file)}
        if self.json:
            tables.print_json(result)
            return
        stated, over_time = result["stated_accuracy"], result["accuracy_over_time"]
        fired, rate = result["spikes_per_sample"], result["spike_rate"]
        tables.print_facts(
            {
                "accuracy": f"{100 * result['accuracy']:.2f} % of "
                f"{result['samples']:,} test samples",
                "stated": "–" if stated is None else f"{100 * stated:.2f} %",
                "after each step": ", ".join(f"{100 * share:.2f}" for share in over_time) + " %",
                "spikes": f"{fired:,.1f} a sample, a rate of {rate:.3g} a neuron and step",
                **({"notes": found.notes} if found.notes else {}),
            }
        )


def _evaluation(model: Model, found: data.Dataset, batch_size: int) -> dict[str, Any]:
    """Return what an evaluation over the test samples of a data set gives, for `--json`."""
    done = model.evaluate(found.test, batch_size=batch_size)
    samples = int(done.counts.num_samples)
    spikes = [np.asarray(each) for each in done.counts.spikes.values()]
    fired = sum(int(each.sum(dtype=np.int64)) for each in spikes) / samples
    neurons = sum(each.size for each in spikes)
    timesteps = model.known_inputs().timesteps
    return {
        "dataset": found.name,
        "samples": samples,
        "accuracy": done.accuracy,
        "stated_accuracy": _stated_accuracy(model.metadata),
        "accuracy_over_time": np.asarray(done.accuracy_over_time).tolist(),
        "timesteps": timesteps,
        "spikes_per_sample": fired,
        "spike_rate": fired / max(neurons * timesteps, 1),
        "notes": found.notes,
    }


@dataclass(frozen=True)
class Export:
    """Translate a packed network for other programs."""

    file: conf.Positional[Path]
    """A packed network."""
    to: Literal["nir", "stablehlo", "npz", "lava"]
    """nir (other SNN frameworks), stablehlo (one program, any batch), npz (arrays, integers), lava
    (Loihi's fixed point)."""
    out: Path
    """File to write; for lava a folder."""
    target: str = "nir"
    """Who reads the NIR file: nir, snntorch, norse, spikingjelly or sinabs."""
    dataset: str | None = None
    """For nir, a data set from which examples are taken: ties at the threshold are counted."""
    data_dir: str | None = None
    """Folder of the data files."""
    allow_rounding: Flag = False
    """For lava: also write a network that integers only come near to."""

    def run(self) -> None:
        """Write the file."""
        note = ""
        if self.to != "lava" and self.allow_rounding:
            raise UserError(f"--allow-rounding is for --to lava, not for {self.to}")
        if self.to != "nir" and (self.target != "nir" or self.dataset is not None):
            raise UserError(f"--target and --dataset are for --to nir, not for {self.to}")
        if self.to == "npz":
            model = load(self.file)
            size = save_npz(self.out, model.network, model.inputs, model.metadata)
        elif self.to == "stablehlo":
            model = _with_inputs(self.file)
            size = save_stablehlo(self.out, model.network, model.known_inputs(), model.metadata)
        elif self.to == "lava":
            size = self._lava()
        else:
            size, note = self._nir()
        print(f"{self.out}: {size:,} bytes{note}")

    def _lava(self) -> int:
        """Write a folder for lava; return the size of its files."""
        model = load(self.file)
        inputs = model.known_inputs()
        try:
            return to_lava(model.network, self.out, inputs, allow_rounding=self.allow_rounding)
        except UserError as error:
            raise UserError(f"{self.file}: {error}") from None

    def _nir(self) -> tuple[int, str]:
        """Write a NIR file; return its size, and what there is to say of it."""
        model = _with_inputs(self.file)
        inputs, net = model.known_inputs(), model.network
        example = None
        if self.dataset is not None:
            samples = data_for(model, self.file, self.dataset, self.data_dir).test.images
            example = inputs.prepare(jax.random.key(0), jnp.asarray(samples[:SAMPLES]))
        note = ""
        if net.has_norms:
            net, note = fold_norms(net), "; batch normalisation is folded into the weights"
        to_nir(net, self.out, inputs, target=self.target, example=example)
        return self.out.stat().st_size, note


@dataclass(frozen=True)
class Compare:
    """Show two packed networks side by side, and how far their scores are apart."""

    first: conf.Positional[Path]
    """A packed network."""
    second: conf.Positional[Path]
    """Another one."""
    dataset: str | None = None
    """Data set on whose test samples both run; the one that both files name, if left out."""
    data_dir: str | None = None
    """Folder of the data files; $JAXSNN_DATA if left out, and then tensorflow-datasets."""
    batch_size: int = 100
    """Samples at a time; random encodings draw by batch."""
    json: Flag = False
    """Print JSON, for programs."""

    def run(self) -> None:
        """Print both, and their scores on the same test samples of a named data set."""
        (a, one), (b, two) = facts.of_file(self.first), facts.of_file(self.second)
        stated = {side["metadata"].get("dataset") for side in (a, b)}
        dataset = self.dataset or (stated.pop() if len(stated) == 1 else None)
        scores, reason = None, "name a data set by --dataset"
        if dataset is not None:
            models = ((self.first, one), (self.second, two))
            try:
                scores = _difference(models, dataset, self.data_dir, self.batch_size)
            except UserError as error:
                if self.dataset is not None:
                    raise
                reason = str(error)  # nobody asked for it: its files may be elsewhere
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
            lines["scores"] = f"not compared: {reason}"
        else:
            lines["scores"] = (
                f"at most {scores['largest_difference']:.4g} apart, "
                f"{100 * scores['same_decisions']:.4g} % of the decisions equal, "
                f"on {scores['samples']:,} test samples of {scores['dataset']}"
            )
            lines["test accuracy"] = " → ".join(
                f"{100 * each:.2f} %" for each in scores["accuracy"]
            )
        tables.print_facts(lines)


Command = (
    Annotated[Inspect, conf.subcommand("inspect")]
    | Annotated[Evaluate, conf.subcommand("eval")]
    | Annotated[Export, conf.subcommand("export")]
    | Annotated[Import, conf.subcommand("import")]
    | Annotated[Compile, conf.subcommand("compile")]
    | Annotated[Compare, conf.subcommand("compare")]
)


def _with_inputs(file: Path) -> Model:
    model = load(file)
    if model.inputs is None:
        raise UserError(f"{file}: says nothing about its input, expected one saved with inputs=")
    return model


def data_for(model: Model, file: Path, dataset: str, data_dir: str | None) -> data.Dataset:
    """Load a data set and refuse it if it is not one for the network."""
    inputs = _with_inputs(file).known_inputs()
    options = event_options(
        dataset,
        timesteps=inputs.timesteps,
        size=inputs.shape[:2],
        frames_by=model.metadata.get("frames_by"),
    )
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


def _summary(found: facts.FileFacts) -> dict[str, str]:
    inputs = found["inputs"]
    lines: dict[str, str] = {
        "file": found["file"],
        "bytes": f"{found['file_bytes']:,}",
        "of these, header": f"{found['header_bytes']:,}",
        "input": "not stated",
        "written by": ", ".join(f"{name} {text}" for name, text in found["written_by"].items()),
    }
    if inputs is not None:
        shape, steps = _times(tuple(inputs["shape"])), inputs["timesteps"]
        lines["input"] = f"{shape}, {inputs['encoding']}, {steps} steps"
    return {**lines, **found["metadata"]}


def _difference(
    models: Sequence[tuple[Path, Model | None]], dataset: str, data_dir: str | None, batch_size: int
) -> dict[str, Any]:
    """Run two networks on the same test samples, and return how far their scores are apart."""
    scores = []
    for file, model in models:
        if model is None:
            model = load(file)  # says why it cannot run
        found = data_for(model, file, dataset, data_dir)
        scores.append(np.asarray(model.scores(found.test.images, batch_size=batch_size)))
    decisions = [each.argmax(-1) for each in scores]
    labels = np.asarray(found.test.labels)
    return {
        "dataset": found.name,
        "samples": len(labels),
        "accuracy": [float((each == labels).mean()) for each in decisions],
        "largest_difference": float(np.abs(scores[0] - scores[1]).max()),
        "same_decisions": float((decisions[0] == decisions[1]).mean()),
    }
