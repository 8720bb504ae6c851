"""What all experiments share: options, presets, the problem, the run directory, one `main`.

An experiment is a folder `experiments/NAME` of three files and a docstring:

    __init__.py   the docstring: paper, claim, command; its first line is in `python -m experiments`
    config.py     `Config`, a frozen dataclass whose fields are groups of options, and `PRESETS`
    run.py        `run(config)`, and `EXPERIMENT = common.Experiment("NAME", about, Config, PRESETS,
                  run)`
    __main__.py   `common.main(EXPERIMENT)`

**Options.** Each field of `Config` is a group: one of `RunOptions`, `DataOptions`, `TaskOptions`,
`NetworkOptions`, `EngineOptions`, `ProcessOptions`, `DenseOptions`, the method's own
`methods.NAME.Options` (called `method`), and a small `@checked` class of the experiment's own.
Nothing is inherited; a program has the groups it uses. Flags are flat (`--sparsity 0.9`), so a name
stands in one group only; `seed` and `batch_size` are those of the method. `flat(config)` is all of
it as one dictionary, `changed(config, {...})` replaces options by name, whatever group they are in.

    @dataclass(frozen=True)
    class Config:
        run: RunOptions = RunOptions()
        data: DataOptions = DataOptions()
        task: TaskOptions = TaskOptions()
        network: NetworkOptions = NetworkOptions()
        engine: EngineOptions = EngineOptions()
        processes: ProcessOptions = ProcessOptions()
        method: admm.Options = admm.Options()
        dense: DenseOptions = DenseOptions()
        ways: Ways = Ways()                          # of this program

**Presets** are values: preset -> data set -> option -> value. A pair that is missing is refused.

    PRESETS = {"smoke": dict.fromkeys(data.names(), SMOKE), "cpu": {"digits": {...}}, ...}

**The problem**: `load(config, seed=, batch_size=)` returns `Problem(data, net, task)`, the network
with its start values; further options are those of `network_of`, such as `**QP_SNN`. Its parts are
`read`, `network_of`, `task_of` and `started`. `{classes}` in a layout is filled in from the data,
and its hidden widths are multiplied by `--width` (`problem.layout_of`).

**A run**: nothing is written before `Run(name, config)`, so that mistakes leave nothing behind:
check what can be checked before.

    problem = common.load(config, seed=m.seed, batch_size=m.batch_size)
    run = common.Run("admm", config)
    dense = common.train_dense(run.fit, problem, config.dense, m)
    result = admm.compress(dense, problem.task, problem.data, m, fit=run.fit)
    run.finish(result, title="...", summary=common.summary_of(problem, config.network))

- `run.fit` is a `train.Fit` that checkpoints under checkpoints/PHASE and resumes; the names of
  phases are unique in a run. `run.within("joint")` is the same with "joint " before each name.
- `run.arrays(name, compute)` keeps arrays that are expensive and no training; a resumed run reads
  them.
- `run.say(text)` prints a line beside the progress.
- `run.pack(result)` begins to pack the networks of a result beside what is done next, for programs
  with several results.
- `run.finish(*results, title=, summary=, samples=None, compared=None, more=(), **extra)` packs all
  networks of the results (models/NAME.safetensors), writes results.json (the rows, then `extra`),
  prints the table and writes report.html with its pictures (the spikes on the first of `samples`,
  `data.test`; `compared` beside the baseline; `more` of your own as `(name, draw)`, where `draw()`
  returns HTML, such as that of `report.plots`). With several results, such as one for each seed,
  the rows follow each other. What a method knows of a row is `Result.of(..., extra=)`.
- `timed(before, after, samples)` measures inference in turns, milliseconds a sample.
"""

from experiments.common.command import Experiment, Presets, main, parse
from experiments.common.options import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    RunOptions,
    TaskOptions,
    changed,
    check_each_once,
    flat,
)
from experiments.common.problem import (
    QP_SNN,
    Problem,
    load,
    network_of,
    read,
    summary_of,
    task_of,
    train_dense,
)
from experiments.common.processes import ProcessOptions
from experiments.common.run import Run
from experiments.common.timing import timed

__all__ = [
    "QP_SNN",
    "DataOptions",
    "DenseOptions",
    "EngineOptions",
    "Experiment",
    "NetworkOptions",
    "Presets",
    "Problem",
    "ProcessOptions",
    "Run",
    "RunOptions",
    "TaskOptions",
    "changed",
    "check_each_once",
    "flat",
    "load",
    "main",
    "network_of",
    "parse",
    "read",
    "summary_of",
    "task_of",
    "timed",
    "train_dense",
]
