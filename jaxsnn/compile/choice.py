"""Which engine a network gets: the one whose work is expected to cost less."""

from jaxsnn.compile import events, folded, products
from jaxsnn.compile.costs import (
    cost,
    dense_work,
    events_work,
    hearing_work,
    lanes_work,
    maps_work,
    prices,
    products_work,
    rates,
)
from jaxsnn.compile.plan import Plan

__all__ = ["expected", "fastest", "many_by_products"]

ROOM = 2**24  # bytes of memory that one sample may take
WORTH = 1.5  # times faster that a second engine must be for many samples


def fastest(plan: Plan) -> events.Engine:
    """Return the engine for one sample that is expected to be the fastest in no more than ROOM."""
    nanoseconds = expected(plan)
    emits = {"layers": folded.emit, "products": products.emit}
    for way in sorted(emits.keys() & nanoseconds, key=lambda way: nanoseconds[way]):
        if nanoseconds["events"] >= nanoseconds[way]:
            engine = emits[way](plan)
            if engine.state_bytes <= ROOM:
                return engine
    return events.emit(plan)


def many_by_products(plan: Plan, one: events.Engine) -> bool:
    """Return whether many samples go through products of bytes, or are a bit each.

    Args:
      plan: the network.
      one: its engine for one sample; one that takes many is used again unless bits are much faster.
    """
    nanoseconds = expected(plan)
    worth = WORTH if one.takes_many else 1.0
    return nanoseconds.get("products", float("inf")) < worth * nanoseconds["lanes"]


def expected(plan: Plan) -> dict[str, float]:
    """Return the nanoseconds that a sample is expected to take by each engine that can take it.

    "layers", "events" and "products" are for one sample, "lanes" and "products" for many.
    """
    layouts, rate, price = folded.layouts_of(plan), rates(plan), prices(plan.processor)
    totals = {"layers": 0.0, "events": 0.0, "lanes": 0.0}
    for step in plan.layers:
        source = layouts[step.source]
        if source.words:
            way = folded.way_of(plan, step)
            work = dense_work(step, source.wire, source.times, way, rate[step.source])
        else:
            work = maps_work(plan, step, source)
        totals["layers"] += cost(work, price) + cost(hearing_work(plan, step), price)
        totals["events"] += cost(events_work(plan, step, rate[step.source]), price)
        totals["lanes"] += cost(lanes_work(plan, step), price)
    if products.fits(plan):
        layers = products.layers_of(plan).values()
        totals["products"] = sum(cost(products_work(layer), price) for layer in layers)
    return totals
