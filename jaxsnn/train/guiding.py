"""What a teacher says of every training sample, computed once instead of in every epoch."""

from dataclasses import replace
from typing import Any

from jaxsnn.train.evaluation import predict
from jaxsnn.train.task import Task

__all__: list[str] = []  # nothing here is promised to users

ALWAYS_THE_SAME = ("direct", "events")  # encodings that draw nothing


def foreseen(task: Task, samples: Any, batch_size: int = 250) -> Task:
    """Return a task whose guide knows its teacher's scores of all training samples.

    They are those of each epoch where samples are not augmented, their encoding draws nothing, and
    all time steps count. Any other task, and one that follows attention maps, is returned as it is.

    >>> import numpy as np
    >>> from jaxsnn import models, train
    >>> from jaxsnn.inputs import Inputs
    >>> guide = train.Guide(models.build("8-3", (4,), readout="current"))
    >>> task = train.Task(Inputs((4,), timesteps=2), guide=guide)
    >>> foreseen(task, np.zeros((5, 4), np.uint8)).guide.scores.shape
    (5, 3)

    Args:
      task: with a guide, or without.
      samples: that are trained on, uint8 `[N, *shape]`, or `[N, T, *shape]` of events.
      batch_size: samples that the teacher sees at a time.
    """
    guide = task.guide
    if guide is None or guide.teacher is None or guide.alpha is None or guide.beta is not None:
        return task
    encoding = task.inputs.encoding
    if encoding not in ALWAYS_THE_SAME or task.augment != "none" or task.active is not None:
        return task
    own = task
    if encoding == "direct" and guide.timesteps is not None:
        own = task.at(guide.timesteps)
    scores = predict(own, guide.teacher, samples, batch_size=batch_size)
    return replace(task, guide=replace(guide, teacher=None, scores=scores))
