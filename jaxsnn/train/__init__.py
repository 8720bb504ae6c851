"""Training and evaluating networks: tasks, the engine, checkpoints, calibration."""

from jaxsnn.train.calibrate import Calibration, each_batch, over_batches
from jaxsnn.train.checkpoint import Checkpoints
from jaxsnn.train.evaluation import Evaluation, evaluate, evaluate_traced, predict
from jaxsnn.train.loop import (
    Diverged,
    Fit,
    Sums,
    TrainState,
    fit,
    init,
    no_sums,
    phase_key,
    run_steps,
    steps,
    train_step,
)
from jaxsnn.train.task import Guide, Task

__all__ = [
    "Calibration",
    "Checkpoints",
    "Diverged",
    "Evaluation",
    "Fit",
    "Guide",
    "Sums",
    "Task",
    "TrainState",
    "each_batch",
    "evaluate",
    "fit",
    "init",
    "evaluate_traced",
    "no_sums",
    "over_batches",
    "phase_key",
    "predict",
    "run_steps",
    "steps",
    "train_step",
]
