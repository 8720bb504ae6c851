"""The command `python -m experiments.sweep.worker DIR NUMBER`: a further worker of a search.

The first worker starts it. It ends with the search, or when the first one is gone; what it was
computing is then asked for again.
"""

import os
import sys
from pathlib import Path
from typing import Any

from experiments.common import command, programs
from experiments.sweep import search
from experiments.sweep.run import EXPERIMENT, lane, load
from jaxsnn import archive, train, tree
from jaxsnn.methods import Trainer


def main(directory: Path, index: int) -> None:
    """Read what the first worker has written, and search."""
    config = command.parse(EXPERIMENT, ["--config", str(directory / "config.json")])
    programs.keep(config.run.cache)
    problem = load(config)
    leaves = archive.read(directory / "checkpoints" / f"{search.START}.npz")
    start = {"params": problem.net.params, "stats": problem.net.stats}
    dense = problem.net.replace(**tree.substitute(start, leaves))
    trainer = Trainer(train.fit, problem.data, config.sweep.batch_size, config.sweep.seed)
    first = os.getppid()

    def look(record: dict[str, Any]) -> None:
        del record
        if os.getppid() != first:
            raise KeyboardInterrupt

    one = lane(config, problem, trainer)
    search.work(config, problem, directory, dense, one, look, index)


if __name__ == "__main__":
    command.guard(lambda: main(Path(sys.argv[1]), int(sys.argv[2])))
