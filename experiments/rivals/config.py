"""Options of `experiments.rivals`, and their presets."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from experiments.admm import config as of_admm
from experiments.common import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    RunOptions,
    TaskOptions,
)
from jaxsnn.methods import admm
from jaxsnn.options import Range, Whole, checked

Rival = Literal["ADMM", "one-shot", "gradual"]


@checked
class Rivals:
    """Who is compared, how often, and the ramp of gradual pruning."""

    rivals: tuple[Rival, ...] = ("ADMM", "one-shot", "gradual")
    """Ways of pruning: ADMM, one-shot, gradual."""
    seeds: tuple[Annotated[int, Whole(0, 1 << 20)], ...] = (0, 1, 2)
    """Seeds of the networks that are trained and pruned; --seed is added to each."""
    ramp_end: Annotated[float, Range(0, 1, open_low=True)] = 0.5
    """Share of the steps at which gradual pruning reaches the final sparsity."""
    ramp_every: Annotated[int, Whole(1)] = 20
    """Steps between two of its prunings."""


@dataclass(frozen=True)
class Config:
    """Options of `experiments.rivals`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions()
    network: NetworkOptions = NetworkOptions()
    engine: EngineOptions = EngineOptions()
    dense: DenseOptions = DenseOptions()
    rivals: Rivals = Rivals()
    method: admm.Options = admm.Options()


FEW: dict[str, Any] = {"sparsity": 0.98, "bits": None, "spike_weight": 0.0}
ALONE = ("prune_sparsity", "activity_epochs")


def _few(preset: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """Return the values of `experiments.admm` without those of its single ways, 2 % left."""
    return {
        dataset: {name: value for name, value in values.items() if name not in ALONE}
        | FEW
        | changes
        for dataset, values in of_admm.PRESETS[preset].items()
    }


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": _few("smoke", sparsity=0.8, seeds=(0,)),
    "cpu": _few("cpu"),
    "gpu": _few("gpu"),
    "paper": _few("paper"),
}
PRESETS["cpu"]["mnist"]["limit"] = 20_000
