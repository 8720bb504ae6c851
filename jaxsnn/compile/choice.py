"""Which engine a network gets for one sample: the one whose work is expected to cost less."""

from jaxsnn.compile import events, folded
from jaxsnn.compile.costs import cost, dense_work, events_work, maps_work, prices, rates
from jaxsnn.compile.plan import Plan

__all__ = ["expected", "fastest"]

ROOM = 2**24  # bytes of memory that one sample may take


def fastest(plan: Plan) -> events.Engine:
    """Return the engine that is expected to be the fastest and takes no more than ROOM."""
    nanoseconds = expected(plan)
    by_layers = folded.emit(plan)
    if nanoseconds["events"] < nanoseconds["layers"] or by_layers.state_bytes > ROOM:
        return events.emit(plan)
    return by_layers


def expected(plan: Plan) -> dict[str, float]:
    """Return the nanoseconds that a sample is expected to take by "layers" and by "events"."""
    layouts, rate = folded.layouts_of(plan), rates(plan)
    totals = {"layers": 0.0, "events": 0.0}
    for step in plan.layers:
        source = layouts[step.source]
        if source.words:
            way = folded.way_of(plan, step)
            work = dense_work(step, source.wire, source.times, way, rate[step.source])
        else:
            work = maps_work(plan, step, source)
        totals["layers"] += cost(work, prices())
        totals["events"] += cost(events_work(plan, step, rate[step.source]), prices())
    return totals
