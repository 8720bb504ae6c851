"""The command line that all experiments share: presets, a file of options, one `main`."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import tyro

import experiments.__main__ as listing
from experiments.common import Experiment, RunOptions, changed, command, flat
from jaxsnn.errors import UserError
from jaxsnn.options import checked


@checked
class Toy:
    """Options of the toy."""

    rate: float = 0.5
    epochs: int = 3
    seeds: tuple[int, ...] = (0, 1)
    seed: int = 0


@dataclass(frozen=True)
class Config:
    """Options of a toy experiment."""

    run: RunOptions = RunOptions()
    method: Toy = Toy()


PRESETS = {
    "smoke": {"digits": {"epochs": 1}, "mnist": {"epochs": 2}},
    "cpu": {"digits": {"epochs": 4}},
    "paper": {"mnist": {"epochs": 100, "rate": 0.1}},
}


def toy(body=print):
    return Experiment("toy", "A toy.", Config, PRESETS, body)


def parse(*argv):
    return command.parse(toy(), list(argv))


@pytest.mark.parametrize(
    ("argv", "epochs"),
    [([], 4), (["--preset", "smoke"], 1), (["--preset=smoke", "--dataset=mnist"], 2),
     (["--preset", "paper", "--dataset", "mnist"], 100), (["--epochs", "7"], 7)],
)  # fmt: skip
def test_a_preset_gives_the_defaults_of_its_data_set_and_flags_win(argv, epochs):
    assert parse(*argv).method.epochs == epochs


def test_an_option_overrides_the_preset_and_nothing_else():
    found = parse("--preset=smoke", "--seeds", "5", "6", "--rate", "0.25")
    expected = command.preset_of(toy(), "smoke", "digits")
    assert found == replace(expected, method=replace(expected.method, seeds=(5, 6), rate=0.25))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "nope"], "--preset 'nope' is unknown; choose one of smoke, cpu, paper"),
        (["--dataset", "nope"], "--dataset 'nope' is unknown; choose one of digits, mnist"),
        (["--dataset", "mnist"], "--preset cpu has no values for --dataset mnist; there are smoke: "
         "digits, mnist; cpu: digits; paper: mnist"),
    ],
)  # fmt: skip
def test_a_pair_without_a_preset_is_one_line_with_those_that_there_are(argv, message):
    with pytest.raises(UserError, match=message):
        parse(*argv)


def test_a_file_gives_options_between_preset_and_flags(tmp_path):
    path = tmp_path / "config.json"
    given = {"preset": "paper", "dataset": "mnist", "rate": 0.125, "seeds": [7], "out": "elsewhere"}
    path.write_text(json.dumps(given))
    found = parse("--config", str(path), "--rate", "0.75")
    assert flat(found) == flat(found) | {
        "preset": "paper", "dataset": "mnist", "epochs": 100, "rate": 0.75, "seeds": (7,),
        "out": None, "resume": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"rate": ', "damaged or cut short: .*expected a file of options"),
        ("[]", "is no file of options: list found"),
        ('{"rats": 1}', "has 'rats', which experiments.toy does not have; its options are: "),
        ('{"epochs": "many"}', "--epochs"),
        ('{"preset": "nope"}', "--preset 'nope' is unknown"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        parse("--config", str(path))


def test_an_option_that_is_appended_to_is_written_once_for_each_value(tmp_path):
    @dataclass(frozen=True)
    class Appending:
        axis: tyro.conf.UseAppendAction[tuple[str, ...]] = ()

    @dataclass(frozen=True)
    class Options:
        run: RunOptions = RunOptions()
        own: Appending = Appending()

    toy = Experiment("toy", "A toy.", Options, {"cpu": {"digits": {}}}, print)
    path = tmp_path / "config.json"
    for values, argv, found in (
        ([], [], ()), (["a=1", "b=2"], [], ("a=1", "b=2")), (["a=1"], ["--axis", "c=3"], ("c=3",))
    ):  # fmt: skip
        path.write_text(json.dumps({"axis": values}))
        assert command.parse(toy, ["--config", str(path), *argv]).own.axis == found


def test_options_are_changed_by_name_whatever_group_they_are_in():
    found = changed(Config(), {"rate": 0.25, "dataset": "mnist"})
    assert (found.method.rate, found.run.dataset) == (0.25, "mnist")
    with pytest.raises(UserError, match="no option 'rats'; there are: "):
        changed(Config(), {"rats": 1})


def test_a_name_in_two_groups_is_noticed():
    @dataclass(frozen=True)
    class Twice:
        run: RunOptions = RunOptions()
        one: Toy = Toy()
        two: Toy = Toy()

    with pytest.raises(TypeError, match="two groups of options have 'epochs'"):
        flat(Twice())


# --- main -----------------------------------------------------------------------------------------


def test_a_users_mistake_is_one_line_and_code_2(capsys, run_in_process):
    def body(config):
        raise UserError("sparsity is 2, but must be in [0, 1)")

    with pytest.raises(SystemExit) as stop:
        run_in_process(toy(body), [])
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: sparsity is 2, but must be in [0, 1)\n")


def test_an_interruption_says_how_to_go_on(capsys, run_in_process):
    def body(config):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_in_process(toy(body), [])
    assert stop.value.code == 130
    assert "--resume" in capsys.readouterr().err


FULL = """
from experiments.common import command
command.guard(lambda: print("a line"))
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.long
def test_an_output_that_takes_no_more_is_one_line_and_code_2():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", FULL]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert os.strerror(errno.ENOSPC) in done.stderr


def test_a_mistake_of_ours_keeps_its_traceback(run_in_process):
    def body(config):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run_in_process(toy(body), [])


def test_the_list_of_experiments_has_a_line_for_each(capsys):
    listing.main()
    out = capsys.readouterr().out
    for name in ("quickstart", "admm", "rivals"):
        assert f"python -m experiments.{name} " in out
    assert "common" not in out
    assert all(listing.listed().values())
