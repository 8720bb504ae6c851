"""Keep the zoo: take the product of a finished run into it, write the cards for readers.

    python tools/zoo.py add RUN_FOLDER --name digits-2kB --about "Handwritten digits."
    python tools/zoo.py            write zoo/*.md and the table of docs/zoo.md anew
    python tools/zoo.py --check    change nothing; exit with 1 if a file or a page is not its card's

The networks and their cards, NAME.safetensors and NAME.json, are in jaxsnn/zoo, so that they are
installed with the package. `add` measures the packed file itself, over the whole test set of the
data set that it names, and takes from the run's results.json how it was made. It refuses a product
whose accuracy is not the one that the run states.
"""

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn import compile as compiling
from jaxsnn import export, metrics, report
from jaxsnn.cli.commands import data_for
from jaxsnn.cli.ending import exit_code
from jaxsnn.compile.fit_costs import processor
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.export import Model
from jaxsnn.files import write_atomic
from jaxsnn.native.builder import find_compiler
from jaxsnn.zoo import cards
from jaxsnn.zoo.cards import Card, Latency

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "zoo"
TABLE = ROOT / "docs" / "zoo.md"
SECTION = re.compile(r"(<!-- zoo -->\n).*?(<!-- /zoo -->)", re.DOTALL)
NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*-(\d+)kB")
VERDICTS = ("exact", "float", "rounded")
ROUNDS, SECONDS = 7, 0.2  # of a measured latency: how many, and the least that each takes

LICENCES = {
    "digits": "part of scikit-learn (BSD-3-Clause); a copy of the test set of UCI's Optical "
    "Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, 1998)",
    "mnist": "CC BY-SA 3.0, as Keras states; copyright Y. LeCun and C. Cortes",
    "cifar10": "none stated by its authors, who ask for a citation (A. Krizhevsky, 2009)",
    "nmnist": "CC BY-SA 4.0 (G. Orchard and others, 2015)",
}

INTEGERS = {
    "exact": "its integers are its own numbers",
    "float": "its integers are its own numbers, and float32 rounds on its side",
    "rounded": "its integers come near to its own numbers (`--allow-rounding`)",
    None: "it has no integers",
}

# Adding ----------------------------------------------------------------------------------------


def add(options: argparse.Namespace) -> Card:
    """Take the product of a run into the zoo; return its card.

    Raises:
      UserError: naming what is wrong with the run, the product or the name.
    """
    folder = Path(options.run)
    path = folder / "models" / f"{options.product}.safetensors"
    results, model = report.read_results(folder), export.load(path)
    row = row_of(path, results["rows"], model)
    content, dataset = path.read_bytes(), results["dataset"]
    check_name(options.name, len(content))
    licence = options.licence or LICENCES.get(dataset)
    if licence is None:
        raise UserError(f"--licence: that of {dataset!r} is not known here; state it")
    found = data_for(model, path, dataset, options.data_dir)
    measured, samples = metrics.measure(model.task, model.network, found.test), len(found.test[1])
    check_accuracy(path, measured.accuracy, row, samples)
    inputs, dense = model.known_inputs(), results["rows"][0]
    card = Card(
        name=options.name,
        about=options.about,
        sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        dataset=dataset,
        licence=licence,
        samples=samples,
        correct=round(measured.accuracy * samples),
        dense_accuracy=dense["accuracy"],
        dense_file_bytes=dense["file_bytes"],
        encoding=inputs.encoding,
        timesteps=inputs.timesteps,
        density=measured.density,
        bits=measured.bits,
        synops=measured.synops,
        macs=measured.macs,
        spikes_per_sample=measured.spikes_per_sample,
        integers=verdict(model),
        latency=latency(model, found.test) if options.latency else None,
        command=anywhere(results["command"]),
        seed=int(results["seed"] if row["seed"] is None else row["seed"]),
        seconds=results["seconds"],
        commit=options.commit or results.get("commit") or commit_of(folder),
        versions=results["versions"],
    )
    write_atomic(cards.FOLDER / f"{card.name}.safetensors", content)
    text = json.dumps(report.to_json(card.to_data()), indent=2)
    write_atomic(cards.FOLDER / f"{card.name}.json", text + "\n")
    return Card.of(card.name)


def anywhere(command: str) -> str:
    """Return a command without the folder of its run, and with DIR for that of the data.

    >>> anywhere("python -m experiments.admm --data-dir /data/mnist --out /tmp/run --resume")
    'python -m experiments.admm --data-dir DIR'
    """
    command = re.sub(r" --(?:out \S+|resume)(?= |$)", "", command)
    return re.sub(r"(?<= --data-dir )\S+", "DIR", command)


def commit_of(folder: Path) -> str | None:
    """Return the commits that `experiments.reproduce` wrote beside a run, if it did."""
    path = folder.parent / f"{folder.name}.json"
    if not path.exists():
        return None
    return ", ".join(dict.fromkeys(map(str, json.loads(path.read_text(encoding="utf-8")))))


def row_of(path: Path, rows: list[dict[str, Any]], model: Model) -> dict[str, Any]:
    """Return the row of results.json that a packed file was written with."""
    name, accuracy = (model.metadata.get(key) for key in ("name", "accuracy"))
    for row in rows:
        if row["name"] == name and row["accuracy"] is not None:
            if f"{row['accuracy']:.6f}" == accuracy:
                return row
    raise UserError(
        f"{path}: is {name!r} with the accuracy {accuracy}, which no row of results.json has; "
        f"found {', '.join(row['name'] for row in rows)}"
    )


def check_name(name: str, size: int) -> None:
    """Refuse a name that does not tell the size of its file."""
    found, kilobytes = NAME.fullmatch(name), max(1, round(size / 1000))
    if not found or int(found[1]) != kilobytes:
        raise UserError(
            f"--name {name}: expected DATA-{kilobytes}kB or DATA-MORE-{kilobytes}kB in small "
            f"letters, for a file of {size:,} bytes"
        )


def check_accuracy(path: Path, measured: float, row: dict[str, Any], samples: int) -> None:
    """Refuse a file that is not worth what its run states, by more than one sample.

    A network that leaves early decides before its last step, so its row may say something else.
    """
    if "exit" not in row and abs(measured - row["accuracy"]) > 1.5 / samples:
        raise UserError(
            f"{path}: classifies {100 * measured:.2f} % of {samples:,} test samples right, the "
            f"run states {100 * row['accuracy']:.2f} %: is --data-dir the run's?"
        )


def verdict(model: Model) -> str | None:
    """Return how faithful the integers of a network are in its worst layer; None without any."""
    try:
        integers = export.to_integer(model.network, model.known_inputs())
    except UserError:
        return None
    return max((layer.verdict for layer in integers.report), key=VERDICTS.index)


def latency(model: Model, split: Split) -> Latency:
    """Measure the C of a network: one core's time a sample, one after the other."""
    compiled = compiling.build(model.network, model.known_inputs(), allow_rounding=True)
    samples = np.asarray(split.images[:100])
    compiled(samples, batched=False)
    found = []
    for _ in range(ROUNDS):
        start, passes = time.process_time(), 0
        while (spent := time.process_time() - start) < SECONDS:
            compiled(samples, batched=False)
            passes += 1
        found.append(spent / (passes * len(samples)))
    said = subprocess.run([find_compiler(), "--version"], capture_output=True, text=True)
    return Latency(1e6 * statistics.median(found), processor(), said.stdout.partition("\n")[0])


# Pages -----------------------------------------------------------------------------------------


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share as the text of a cell."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


def whole(number: float | None) -> str:
    """Return a count as the text of a cell."""
    return "" if number is None else f"{number:,.0f}"


def accuracy_of(card: Card) -> str:
    """Return the accuracy of a card with its interval."""
    low, high = card.interval
    return f"{percent(card.accuracy)} ({100 * low:.1f} to {100 * high:.1f})"


def microseconds(card: Card) -> str:
    """Return the latency of a card as the text of a cell."""
    return "not measured" if card.latency is None else f"{card.latency.microseconds:.0f}"


def bits_of(card: Card) -> str:
    """Return the bits of a weight as the text of a cell."""
    return "" if card.bits is None else f"{card.bits:.3g}"


def page(card: Card) -> str:
    """Return the card for readers, in Markdown."""
    low, high = card.interval
    timed = "latency not measured"
    if card.latency is not None:
        timed = f"{microseconds(card)} microseconds a sample, one core of {card.latency.processor}"
        timed += f", {card.latency.compiler}, time of the process"
    rows = {
        "data": f"{card.dataset}; {card.licence}",
        "test accuracy": f"{percent(card.accuracy)}: {whole(card.correct)} of "
        f"{whole(card.samples)} samples; 95 % interval {100 * low:.2f} to {100 * high:.2f} % "
        "(Wilson)",
        "dense network of the same run": f"{percent(card.dense_accuracy)}, "
        f"{whole(card.dense_file_bytes)} bytes",
        "file": f"{whole(card.file_bytes)} bytes, SHA-256 `{card.sha256}`",
        "weights that are not 0": percent(card.density, 1),
        "bits of a weight": bits_of(card),
        "time steps": f"{card.timesteps}, {card.encoding} coding",
        "a sample": f"{whole(card.synops)} SynOps, {whole(card.macs)} multiplications, "
        f"{whole(card.spikes_per_sample)} spikes",
        "as C": f"{INTEGERS[card.integers]}; {timed}",
        "made by": f"`{card.command}`, seed {card.seed}, {card.seconds / 60:.0f} minutes",
        "commit": "not stated" if card.commit is None else f"`{card.commit}`",
        "versions": ", ".join(f"{name} {text}" for name, text in card.versions.items()),
    }
    lines = "".join(f"| {name} | {text} |\n" for name, text in rows.items())
    return (
        f'# {card.name}\n\n{card.about}\n\n`jaxsnn.zoo.load("{card.name}")`, or `jaxsnn inspect '
        f"zoo:{card.name}`.\n\n| | |\n|---|---|\n{lines}\nWritten by `tools/zoo.py`.\n"
    )


def table() -> str:
    """Return the table of docs/zoo.md."""
    head = [
        "name", "data", "test accuracy (95 % interval)", "test samples", "dense network",
        "file, bytes", "weights left", "bits", "T", "SynOps", "microseconds in C",
    ]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for card in map(Card.of, cards.names()):
        lines.append(
            [
                f"`{card.name}`", card.dataset, accuracy_of(card), whole(card.samples),
                percent(card.dense_accuracy), whole(card.file_bytes), percent(card.density, 1),
                bits_of(card), str(card.timesteps), whole(card.synops), microseconds(card),
            ]
        )  # fmt: skip
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def pages() -> dict[Path, str]:
    """Return path -> text of all that is written from the cards."""
    found = {PAGES / f"{card.name}.md": page(card) for card in map(Card.of, cards.names())}
    old = TABLE.read_text(encoding="utf-8")
    return found | {TABLE: SECTION.sub(lambda part: f"{part[1]}\n{table()}\n{part[2]}", old)}


def faults() -> list[str]:
    """Return a line for each file or page that is not its card's."""
    found = []
    for name in cards.names():
        size = cards.checked_file(name).stat().st_size
        if size != Card.of(name).file_bytes:
            found.append(f"{name}: has {size:,} bytes, its card says {Card.of(name).file_bytes:,}")
    made = pages()
    for path, text in made.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            found.append(f"{path.relative_to(ROOT)}: is stale; run python tools/zoo.py")
    for path in [*PAGES.glob("*.md"), *cards.FOLDER.glob("*.safetensors")]:
        if path.stem not in cards.names():
            found.append(f"{path.relative_to(ROOT)}: has no card in jaxsnn/zoo")
    return found


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    made = argparse.ArgumentParser(description="Keep the zoo.")
    made.add_argument("--check", action="store_true", help="change nothing; 1 if a page is stale")
    adding = made.add_subparsers(dest="action").add_parser("add", help="take a product in")
    adding.add_argument("run", metavar="RUN_FOLDER", help="a finished run")
    adding.add_argument("--name", required=True, help="of the network, DATA-SIZEkB")
    adding.add_argument("--about", required=True, help="one sentence")
    adding.add_argument("--product", default="compressed", help="its file in RUN_FOLDER/models")
    adding.add_argument("--data-dir", help="folder of the data files")
    adding.add_argument("--licence", help="of the data, where the tool does not know it")
    adding.add_argument("--commit", help="of the source that ran, where results.json has none")
    adding.add_argument("--latency", action="store_true", help="measure the C, on a quiet core")
    return made


def main() -> int:
    """Add a network, write the pages, or print what is wrong."""
    options, stale = parser().parse_args(), []

    def program() -> None:
        if options.check:
            stale.extend(faults())
            return
        if options.action == "add":
            add(options)
        for path, text in pages().items():
            write_atomic(path, text)

    code = exit_code(program)
    print("\n".join(stale), file=sys.stderr, end="\n" if stale else "")
    return code or int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
