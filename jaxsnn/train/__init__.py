"""Training and evaluating networks: tasks, the engine, checkpoints, calibration."""

from jaxsnn.timing import Timing
from jaxsnn.train.calibrate import each_batch, over_batches
from jaxsnn.train.checkpoint import Checkpoints
from jaxsnn.train.distributed import processes
from jaxsnn.train.divergence import Diverged
from jaxsnn.train.evaluation import Evaluation, evaluate, predict
from jaxsnn.train.fitting import Fit, fit
from jaxsnn.train.task import Guide, Task

__all__ = [
    "Checkpoints",
    "Diverged",
    "Evaluation",
    "Fit",
    "Guide",
    "Task",
    "Timing",
    "each_batch",
    "evaluate",
    "fit",
    "over_batches",
    "predict",
    "processes",
]
