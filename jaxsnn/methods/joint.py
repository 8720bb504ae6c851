"""The joint pipeline: channels, connections, bits, time steps and spikes, one after the other.

None of the four papers has it whole. A network holds more and more sets, and whatever is trained
later stays in all of them:

    channels      cut out the channels whose spike maps have the lowest rank (Wei et al. 2025,
                  https://arxiv.org/abs/2502.05905, Eq. 11 to 13; `compress.singular`)
    connections   keep the largest weights after an ADMM phase that pulls the others to zero, or at
                  once (Deng et al. 2019, https://arxiv.org/abs/1911.00822)
    bits          quantize what is left, with a scale for each channel (Wei et al. 2025, Eq. 9, 10),
                  one for a layer (Deng et al. 2019, Eq. 13), or with learned bits for each channel
                  (Sun et al. 2024, https://arxiv.org/abs/2405.00645; `compress.widths`)
    timesteps     train on with fewer and fewer time steps while the accuracy on held-out images
                  stays (Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528)
    spikes        add the mean firing rate to the loss (Deng et al. 2019)
    exit          stop each sample as soon as its scores are far enough apart (Li et al. 2023,
                  https://arxiv.org/abs/2304.01230; `metrics.exits`); nothing is trained

Any order is possible, some can be left out, and neighbours can be trained together. In every stage
a share of the loss can be the distance to the dense network's scores (`distill`; Hinton et al.
2015, `losses.distillation`), which sees the same images for as many steps as it was trained for.
The pipeline, its order and all its numbers are ours; there is no published result to compare with.

`stages` has the options, `pipeline` what each stage does.
"""

from dataclasses import replace
from typing import Any

from jaxsnn import train
from jaxsnn.data import Dataset
from jaxsnn.methods import budgets, controls
from jaxsnn.methods.gains import with_gains
from jaxsnn.methods.pipeline import Held, Pipeline
from jaxsnn.methods.result import CONTROL, Result, Trained, Trainer
from jaxsnn.methods.stages import STAGES, Options, groups
from jaxsnn.metrics import Comparison
from jaxsnn.metrics.exits import choose_threshold, decisions, early_exit
from jaxsnn.network import Network
from jaxsnn.train import Fit, Task

__all__ = ["STAGES", "Options", "check", "compress", "groups"]

DEFAULTS = Options()


def compress(
    net: Network,
    task: Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    fit: Fit = train.fit,
    keep: budgets.Keep = lambda _, compute: compute(),
    dense_epochs: int = 0,
) -> Result:
    """Compress a trained network stage by stage.

    Args:
      net: the dense network, trained.
      task: that it was trained for; its T is the first one.
      data: trained on, chosen by (`validation`), measured on (`test`).
      options: of the stages.
      fit: what trains; one that resumes, or `train.fit`.
      keep: keeps what a budget found, for a run that is resumed.
      dense_epochs: of the dense network; the small ANNs have as many, and those of the stages.

    Returns:
      The product, a row for "dense", "dense control", other controls and each stage, the last one
      "compressed"; `found` has for each stage what was tried, and what a budget chose. If the last
      stage is exit, its row has the mean number of steps, and what was computed in them.

    Raises:
      UserError: if the stages do not suit the network or the data, before anything is trained; or
        a budget cannot be met, after short trainings.

    Example:
      >>> from jaxsnn import data, models
      >>> digits = data.load("digits", limit=200)
      >>> net = models.build("8C3-AP2-10", digits.shape, readout="current")
      >>> chosen = Options(stages=("connections",), pruning="magnitude", connections_epochs=0,
      ...                  control=False)
      >>> result = compress(net, Task(digits.inputs(timesteps=2)), digits, chosen)
      >>> [row.name for row in result.report.rows]
      ['dense', 'compressed']
    """
    check(net, task, data, options)
    pipeline = Pipeline(options, Trainer(fit, data, options.batch_size, options.seed), (net, task))
    found: dict[str, Any] = {"stages": []}
    if options.budget:
        chosen, found["budget"] = budgets.settle(pipeline, keep)
        pipeline = replace(pipeline, chosen=chosen)
    held, networks = _through(pipeline, found["stages"])
    if options.budget:
        found["budget"] |= budgets.outcome(pipeline, held, found["budget"]["dense_accuracy"])
    before = {"dense": Trained(net, task)}
    if options.control:
        before[CONTROL] = Trained(pipeline.control(held.epochs), task)
    if options.same_bytes:
        last = list(before.values())[-1]
        before["int8"] = replace(last, network=controls.int8(last.network))
        before |= _small(pipeline).of(pipeline.bytes_of(held), dense_epochs + held.epochs)
    result = Result.of(before | networks, data, found, seed=options.seed)
    if "exit" in options.stages:
        result = _leaving_early(result, data, options)
    return replace(result, report=with_gains(result.report, found["stages"]))


def _through(pipeline: Pipeline, said: list[dict[str, Any]]) -> tuple[Held, dict[str, Trained]]:
    """Go through the stages; return the product and the network of each stage by its row."""
    net, task = pipeline.dense
    held, parts = Held(net, net, task), groups(pipeline.chosen)
    networks: dict[str, Trained] = {}
    trained = [group for group in parts if group != ("exit",)]
    for group in parts:
        name, tried = " and ".join(group), dict[str, Any]()
        if group in trained:
            if held.quantized:  # while there is training left, which repairs what it takes
                held = budgets.trim(pipeline, held)
            held, tried = pipeline.stage(name, group, held)
        if group is trained[-1]:
            held = budgets.fit_file(
                pipeline, name, held, getattr(pipeline.chosen, f"{group[-1]}_epochs")
            )
        row = "compressed" if group is parts[-1] else name
        seen = pipeline.packed(held.seen) if group is parts[-1] else held.seen
        networks[row] = Trained(seen, held.task)
        said.append({"stage": name, "row": row} | tried)
    return held, networks


def _small(pipeline: Pipeline) -> controls.SmallAnns:
    """Return the ANNs that the product is compared with."""
    c = pipeline.chosen
    return controls.SmallAnns(pipeline.trainer, *pipeline.dense, c.learning_rate, c.constant_bits)


def _leaving_early(result: Result, data: Dataset, options: Options) -> Result:
    """Return a result whose product decides as soon as it can, by a threshold of its own."""
    net, task = result.network, result.task
    threshold = choose_threshold(decisions(task, net, data.validation), options.exit_tolerance)
    row = early_exit(task, net, data.test, threshold, name="compressed", seed=options.seed)
    return replace(result, report=Comparison((*result.report.rows[:-1], row)))


def check(net: Network, task: Task, data: Dataset, options: Options) -> None:
    """Refuse stages that do not suit a network or its data, before anything is trained.

    The arguments are those of `compress`; the network may be untrained.

    Raises:
      UserError: naming the stage and what it lacks.
    """
    task.check(net, data.train, "data.train")
    trainer = Trainer(train.fit, data, options.batch_size, options.seed)
    pipeline = Pipeline(options, trainer, (net, task))
    pipeline.rehearse(Held(net, net, task))
    if options.same_bytes:
        _small(pipeline).check()
    budgets.check(pipeline, net)
