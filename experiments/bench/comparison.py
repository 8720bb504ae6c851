"""One workload: ours and the peers on the same problem, each peer against ours in its flavour."""

from dataclasses import replace
from typing import Any

from experiments.bench.contenders import Contender
from experiments.bench.problems import Workload, delays_count, make_problem
from experiments.bench.rounds import Effort, measure_all
from experiments.bench.tables import Row, summarize
from jaxsnn.errors import UserError
from jaxsnn.native import convolutions as onednn

MAIN = "jaxsnn"  # the row that everybody is compared to, in the flavour "subtract"


def our_rows(workload: Workload, *, plain: bool) -> dict[str, Contender]:
    """Return the rows of ours that a workload has, in the flavour "subtract".

    - "jaxsnn": a step inside the compiled epoch, or a batch inside the compiled prediction;
    - "jaxsnn step": one compiled step, of training;
    - "jaxsnn evaluate", "jaxsnn call": evaluation with all its counts; one call of the network;
    - "jaxsnn direct": a direct-coded image is handed over once, so that its layer is computed once;
    - "jaxsnn xla": without oneDNN under the convolutions, where it is at hand;
    - "jaxsnn plain": without the settings of the whole process.
    """
    main, *others = ("epoch", "step") if workload.train else ("predict", "evaluate", "call")
    rows = {MAIN: main} | {f"{MAIN} {other}": other for other in others}
    if workload.rate is None:
        rows["jaxsnn direct"] = f"{main} direct"
    if onednn.missing() is None:
        rows["jaxsnn xla"] = f"{main} xla"
    if plain:
        rows["jaxsnn plain"] = f"{main} plain"
    return {name: Contender("jaxsnn_step", variant) for name, variant in rows.items()}


def line_up(
    workload: Workload, peers: dict[str, Contender], *, plain: bool
) -> tuple[dict[str, Contender], dict[str, str | None]]:
    """Return all rows in the order of measurement, and whom each is compared to.

    A flavour other than "subtract" has a row of ours of its own, "jaxsnn/FLAVOUR", just before
    the first peer that needs it; so has another type of the products, "jaxsnn DTYPE".
    """
    rows = our_rows(workload, plain=plain)
    references: dict[str, str | None] = dict.fromkeys(rows, MAIN)
    for name, peer in peers.items():
        flavour = peer.flavour_on(delays_count(workload))
        reference = MAIN if flavour == "subtract" else f"{MAIN}/{flavour}"
        options = f"flavour={flavour}"
        if peer.dtype:
            reference, options = f"{MAIN} {peer.dtype}", f"dtype={peer.dtype}"
        if flavour is not None and reference not in rows:
            main = rows[MAIN]
            rows[reference] = replace(main, variant=f"{main.variant} {options}", dtype=peer.dtype)
            references[reference] = reference
        rows[name] = peer
        references[name] = None if flavour is None else reference
    return rows, references


def compare(
    name: str,
    workload: Workload,
    peers: dict[str, Contender],
    effort: Effort,
    *,
    seed: int,
    dtype: str,
    plain: bool,
    limit: dict[str, Any],
    rounded: bool = False,
) -> list[Row]:
    """Measure a workload and return its rows; of `rounded` products (TF32) losses differ more.

    Raises:
      UserError: if peers are to run a network that only a builder of ours makes.
    """
    if peers and workload.builder:
        raise UserError(f"--workloads {name}: only jaxsnn has it; give --peers with nothing after")
    rows, references = line_up(workload, peers, plain=plain)
    problem = make_problem(workload, seed, dtype)
    entries = {row: (contender, problem) for row, contender in rows.items()}
    short = {row for row, each in rows.items() if rounded or each.dtype == "bfloat16"}
    return summarize(measure_all(name, entries, effort), references, limit, short)
