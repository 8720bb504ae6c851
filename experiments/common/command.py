"""From a command line to a configuration, and one `main` for all programs.

Values come from four places, later ones win: the defaults of the classes, the preset for the data
set, the file given by --config, the flags.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from experiments.common import processes, programs
from experiments.common.options import changed, flat
from jaxsnn import data, foreign, native
from jaxsnn.cli import arguments
from jaxsnn.cli.ending import exit_code
from jaxsnn.errors import UserError, shown
from jaxsnn.timing import Timing
from jaxsnn.train import host

Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Preset -> data set -> option -> value."""

LONGEST = 300  # characters of a value in a file
# What says how a run is started, not what it is.
NOT_FROM_FILE = {"config", "resume", "out", *processes.ADDRESS}


@dataclass(frozen=True)
class Experiment:
    """A program: what it is called, its options and their presets, what it does.

    Attributes:
      name: `experiments.NAME` is the command.
      about: text above the help.
      config: a frozen dataclass of groups of options, each with a default; `run` is one of them.
      presets: preset -> data set -> option -> value.
      run: what it does with a configuration.
    """

    name: str
    about: str | None
    config: type[Any]
    presets: Presets
    run: Callable[[Any], None]


def main(experiment: Experiment) -> None:
    """Run an experiment; a user's mistake is one line on stderr and exit code 2."""
    guard(lambda: _run(experiment, parse(experiment, sys.argv[1:])))


def _run(experiment: Experiment, config: Any) -> None:
    """Do what an experiment does with a configuration, on kept programs, measured if asked for."""
    if config.run.preset == "smoke":
        programs.hurry()
    native.begin()
    if said := programs.keep(config.run.cache):
        print(said, file=sys.stderr)
    with processes.together(config):
        if not config.run.timing:
            experiment.run(config)
            return
        with Timing() as timing:
            experiment.run(config)
        print(f"\n{timing}")


def guard(program: Callable[[], None]) -> None:
    """Run a program; a user's mistake is one line on stderr and exit code 2."""
    host.tune()
    interrupted = "interrupted; the same command with --resume goes on"
    if code := exit_code(program, interrupted):
        raise SystemExit(code)


def parse(experiment: Experiment, argv: Sequence[str]) -> Any:
    """Return the configuration that a command line gives.

    Raises:
      UserError: one line for whatever was wrong.
    """
    import tyro

    path = _peek(argv, "config")
    given = {} if path is None else _read(experiment, path)
    run = experiment.config().run
    preset = _peek(argv, "preset") or given.get("preset") or run.preset
    dataset = _peek(argv, "dataset") or given.get("dataset") or run.dataset
    try:
        return arguments.parse(
            experiment.config,
            f"python -m experiments.{experiment.name}",
            experiment.about,
            [*words_of(experiment, given, argv), *argv],
            default=preset_of(experiment, str(preset), str(dataset)),
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except UserError as error:
        raise (error if path is None else UserError(f"with --config {path}: {error}")) from error


def words_of(
    experiment: Experiment, values: Mapping[str, Any], argv: Sequence[str] = ()
) -> list[str]:
    """Return the command line that gives these values, and leaves to `argv` what it appends to."""
    import tyro

    default = experiment.config()
    appended = {
        name
        for group in dataclasses.fields(default)
        for name, hint in get_type_hints(group.type, include_extras=True).items()
        if tyro.conf.UseAppendAction in get_args(hint)[1:]
    }
    given = {word.partition("=")[0] for word in argv}
    kept = {
        name: value
        for name, value in values.items()
        if name not in appended or arguments.flag(name) not in given
    }
    return arguments.words(kept, appended)


def preset_of(experiment: Experiment, preset: str, dataset: str) -> Any:
    """Return the configuration of a preset for a data set.

    Raises:
      UserError: for a name that is unknown, or a pair that has no values, with a list of those that
        there are.
    """
    presets = experiment.presets
    if preset not in presets:
        raise UserError(f"--preset {preset!r} is unknown; choose one of {', '.join(presets)}")
    if dataset not in data.names():
        raise UserError(
            f"--dataset {dataset!r} is unknown; choose one of {', '.join(data.names())}"
        )
    if dataset not in presets[preset]:
        there = "; ".join(f"{each}: {', '.join(sets)}" for each, sets in presets.items())
        raise UserError(
            f"--preset {preset} has no values for --dataset {dataset}; there are {there}"
        )
    values = {"preset": preset, "dataset": dataset} | dict(presets[preset][dataset])
    return changed(experiment.config(), values)


def _read(experiment: Experiment, path: str) -> dict[str, Any]:
    """Return the options of a file, name -> value; values are checked as words of the command."""
    found = foreign.read_json(path, "a file of options for --config")
    if not isinstance(found, dict):
        raise UserError(f"--config {path} is no file of options: {type(found).__name__} found")
    for name, value in found.items():
        if not _is_plain(value, 2):
            raise UserError(
                f"--config {path}: {shown(name)} is {shown(value)}, expected a number, a "
                "text, or a list or object of these"
            )
    known = flat(experiment.config())
    if unknown := sorted(set(found) - set(known)):
        raise UserError(
            f"--config {path} has {shown(unknown[0])}, which experiments.{experiment.name} does "
            f"not have; its options are: {', '.join(sorted(known))}"
        )
    return {name: value for name, value in found.items() if name not in NOT_FROM_FILE}


def _is_plain(value: Any, depth: int) -> bool:
    """Return whether a value of a file can be one of an option."""
    if isinstance(value, list | dict):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(each, depth - 1) for each in items)
    return len(str(value)) <= LONGEST


def _peek(argv: Sequence[str], name: str) -> str | None:
    """Return what the command line gives for an option, None if nothing; the last of several."""
    found = None
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word.startswith(f"--{name}="):
            found = word.partition("=")[2]
        elif word == f"--{name}":
            found = following
    return None if found == "None" else found
