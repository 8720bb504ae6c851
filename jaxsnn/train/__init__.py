"""Training and evaluating networks."""

from jaxsnn.train.evaluation import Evaluation, Task, evaluate, measure, predict
from jaxsnn.train.loop import *  # noqa: F403
