"""One sample at a time: every way to add up gives the same, and the plan takes the cheapest."""

import ctypes
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jaxsnn.compile import choice, costs, events, fit_costs, folded, products, source
from jaxsnn.compile.fit_costs import layer
from jaxsnn.compile.layouts import Layout, fitting_bits
from jaxsnn.compile.plan import PROCESSORS, Wire
from jaxsnn.compile.sums import list_sums
from jaxsnn.compile.trains import ends_of_trains
from jaxsnn.native.builder import build, find_compiler
from tests.compile.random_networks import STRICT, draw, expected, run

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

WAYS = {
    "lists": lambda plan: folded.emit(plan, "lists"),
    "rows": lambda plan: folded.emit(plan, "rows"),
    "events": events.emit,
}


@pytest.mark.parametrize("seed", [33, 35, 13])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_bits(way, seed):
    case = draw(seed)
    plan = case.plan
    sizes = f"#define NET_SAMPLE {source.sample_size(plan)}\n#define NET_CLASSES {plan.classes}\n"
    declared = "void net_trace(const SAMPLE *, int32_t *, int32_t *);\n"
    text = source.one_sample(plan, "net", WAYS[way](plan))
    text = text.replace(" SAMPLE;\n", " SAMPLE;\n" + declared, 1)
    code = f"{sizes}#include <stdint.h>\n#include <string.h>\n{text}"
    flags = (*STRICT, "-DNET_TRACE", "-O1")
    library = ctypes.CDLL(str(build(code, flags, compiler=find_compiler())))
    for found, right in zip(run(case, library, batched=False), expected(case), strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("bits", [8, 16])
def test_parts_of_a_sum_add_up_and_none_overflows(bits):
    random = np.random.default_rng(bits)
    weights = random.integers(-90, 91, (60, 7)) * (random.random((60, 7)) < 0.5)
    high = 9
    sums = list_sums(weights, np.arange(60), high, bits)
    values = random.integers(0, high + 1, 60)
    for o, parts in enumerate(sums.parts):
        total = 0
        for part in parts:
            size = value = 0
            for run_ in part.runs:
                value = 2 * value + int(values[list(run_)].sum())
                size = 2 * size + high * len(run_)
            assert size < 2**bits
            total += part.factor * value
        assert total == values @ weights[:, o]
    assert len(sums.places) == sum(len(r) for parts in sums.parts for p in parts for r in p.runs)


def test_a_train_changes_where_its_ends_say():
    step = layer(1, 4, 3, 1.0).layers[0]
    n = replace(step.neurons, level=np.array([40, 90, 200]), theta=np.array([40, 90, 200]))
    step = replace(step, neurons=n)
    constant, factors, largest = np.array([3, -5, 0]), np.array([1, 2, 1]), 25
    ends = ends_of_trains(step, factors, constant, largest, 4)
    for o in range(3):
        for value in range(-largest, largest + 1):
            u = 0
            for each in ends:
                u = (
                    (0 if u >= n.level[o] else u >> 1)
                    + (value * factors[o] << step.shift[o])
                    + constant[o]
                )
                assert (u >= n.level[o]) == sum(int(value >= e[o]) for e in each) % 2


def test_a_word_has_room_for_the_addends():
    assert [fitting_bits(s, 8) for s in (1, 31, 32, 8191, 8192)] == [8, 8, 16, 16, 32]


def test_a_stride_reads_neighbours_whatever_its_size():
    wire = Wire((5, 5, 2), 0, 1, constant=False, border=(1, 1))
    layout = Layout(wire, (5, 5, 2), 3, words=False, bits=8, stride=2)
    for row in range(-1, 6):
        for column in range(-1, 6):
            at = eval(layout.place("1", "2", str(row), str(column)).replace("/", "//"))
            y, x = (row + 1) // 2, (column + 1) // 2
            tap = layout.tap((row + 1) % 2, (column + 1) % 2, 1)
            assert at == tap + 2 * layout.rows * layout.columns + y * layout.columns + x


def test_the_plan_takes_what_costs_less():
    few, all_there = layer(1, 256, 128, 0.05), layer(1, 512, 256, 1.0)
    assert folded.way_of(few, few.layers[0]) == "terms"
    assert folded.way_of(all_there, all_there.layers[0]) == "rows"
    maps = choice.expected(layer(16, 16, 16, 0.2))
    assert maps["layers"] < maps["events"]


def test_most_weights_are_products_of_bytes_where_a_processor_has_them():
    all_there = layer(16, 64, 64, 1.0, processor="amx")
    one = choice.fastest(all_there)
    assert one.takes_many and choice.many_by_products(all_there, one)
    few, plain = layer(16, 64, 64, 0.02, processor="amx"), replace(all_there, processor="other")
    for plan in (few, plain):
        assert not choice.many_by_products(plan, choice.fastest(plan))


def test_a_layer_that_hears_itself_costs_every_engine_more():
    alone = layer(1, 64, 64, 0.5, processor="avx2")
    step = replace(alone.layers[0], recurrent=alone.layers[0].kernel[0, 0])
    without, with_ = (choice.expected(plan) for plan in (alone, replace(alone, steps=(step,))))
    assert with_.keys() == without.keys() == {"layers", "events", "lanes", "products"}
    assert all(with_[engine] > without[engine] for engine in with_)


def test_prices_name_their_processor_and_every_kind_of_work():
    text = (folded.resources.files("jaxsnn.compile") / "costs.json").read_text()
    assert json.loads(text)["processor"]
    for processor in PROCESSORS:
        plan = layer(16, 16, 16, 0.5, processor=processor)
        step, source_ = plan.layers[0], folded.layouts_of(plan)[0]
        kinds = {*costs.maps_work(plan, step, source_), *costs.events_work(plan, step, 0.1)}
        for way in ("terms", "lists", "rows"):
            kinds |= set(costs.dense_work(step, plan.input, 4, way, 0.1))
        kinds |= set(costs.lanes_work(plan, step))
        for side in (1, 16):  # without tiles, and with them where there are any
            one = layer(side, 16, 16, 0.5, processor=processor)
            kinds |= set(costs.products_work(products.layers_of(one)[1]))
        assert kinds == set(costs.prices(processor))


@pytest.mark.slow
def test_prices_are_fitted_to_this_processor(tmp_path, capsys):
    fit_costs.main(fit_costs.FitCosts(tmp_path / "costs.json"))
    found = json.loads((tmp_path / "costs.json").read_text())
    for processor, prices in found["nanoseconds"].items():
        assert set(prices) == set(costs.prices(processor))
        assert found["median_error"][processor] < 0.5
    assert "processor" in capsys.readouterr().out
