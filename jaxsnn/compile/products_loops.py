"""The loops of a layer of `products`: sums of a block, and the steps of its neurons behind them.

A block is some outputs at some positions; its neurons go through a chunk of steps while the sums
are at hand, each potential in a register.
"""

from jaxsnn.compile.folded_neurons import chunk_of
from jaxsnn.compile.products_layer import Product
from jaxsnn.compile.second import reached

__all__ = ["over_maps", "over_recurrent", "over_steps"]


def over_maps(layer: Product) -> str:
    """Return the loops of a layer with positions: blocks of outputs, of positions, then time.

    With tiles two groups of 16 rows are multiplied at once: the same positions a step later, or if
    no step differs the positions behind them.
    """
    times, chunk = layer.source.times, chunk_of(layer.plan.timesteps)
    frame, channels = layer.source.frame, layer.source.shape[2] * layer.step.stride
    size = layer.rows * layer.width
    lines = [
        f"for (int p = 0; p < {layer.positions}; p += {layer.rows}) {{",
        f"  const uint8_t *in = w->signal{layer.step.source} + p * {channels};",
        *_in(1, _arrays(layer, size, 1 if times == 1 else chunk + chunk % 2 * layer.tiled)),
    ]
    if times == 1:
        product = f"multiply(in, weights, s, sums, {layer.rows});"
        lines += _in(1, _tiles("in", f"{layer.rows // 2} * s.step") if layer.tiled else [product])
        inside = []
    elif layer.tiled:
        inside = [
            f"for (int k = 0; k < {chunk}; k += 2) {{",
            f"  const uint8_t *from = in + (t + k) * {frame};",
            f"  const int further = k + 1 < {chunk} ? {frame} : 0;",
            *_in(1, _tiles("from", "further", f" + k * {size}")),
            "}",
        ]
    else:
        inside = [
            f"for (int k = 0; k < {chunk}; k++)",
            f"  multiply(in + (t + k) * {frame}, weights, s, sums + k * {size}, {layer.rows});",
        ]
    lines += [*_in(1, _through_time(layer, inside, layer.rows)), "}"]
    return "\n".join(_in(1, _blocks(layer, lines)))


def over_steps(layer: Product) -> str:
    """Return the loops of a layer without positions, whose rows of sums are steps of time."""
    times, chunk, width = layer.source.times, chunk_of(layer.plan.timesteps), layer.width
    lines = [
        f"const uint8_t *in = w->signal{layer.step.source};",
        *_arrays(layer, width, 1 if times == 1 else chunk),
    ]
    inside = [f"multiply(in + t * {layer.source.frame}, weights, s, sums, {chunk});"]
    if times == 1:
        lines.append("multiply(in, weights, s, sums, 1);")
        inside = []
    lines += _through_time(layer, inside, 1)
    return "\n".join(_in(1, _blocks(layer, lines)))


def over_recurrent(layer: Product) -> str:
    """Return the loops of a layer that hears itself: all its neurons, then the next step."""
    times, width, outputs = layer.source.times, layer.width, layer.step.shape[2]
    code, groups, every = layer.neurons, -(-outputs // 4), layer.blocks * layer.width
    level = code.known["level"].replace("[o]", "[n]")
    fires = reached(layer.step.neurons, level, "us[n]", "ss[n]")
    time = "" if times == 1 else f" + t * {width}"
    drive = f"sum + (uint32_t)heard[b * {width} + i] * (uint32_t){code.known['own']}"
    lines = [
        f"const Shape s1 = {layer.shape}, s2 = {{1, {groups}, 0, {width}, 0, 0}};",
        f"int32_t heard[{every}];",
        f"uint8_t own[{groups * 4}] = {{0}};",
        *_states(layer, every),
        f"uint8_t spikes[{every}];",
        f"for (int b = 0; b < {layer.blocks}; b++)",
        f"  multiply(w->signal{layer.step.source}, {layer.name}_weights + b * {layer.block_bytes},",
        f"      s1, w->sums + b * {times * width}, {times});",
        f"for (int t = 0; t < {layer.plan.timesteps}; t++) {{",
        f"  for (int n = 0; n < {outputs}; n++) own[n] = (uint8_t)({fires});",
        f"  for (int b = 0; b < {layer.blocks}; b++)",
        f"    multiply(own, {layer.name}_own + b * {groups * width * 4}, s2, "
        f"heard + b * {width}, 1);",
        f"  for (int b = 0; b < {layer.blocks}; b++)",
        f"    for (int i = 0; i < {width}; i++) {{",
        f"      const int o = b * {width} + i, n = o;",
        f"      const uint32_t sum = {_drive(layer, f'w->sums[b * {times * width}{time} + i]')};",
        *_in(3, [*_read(layer), *code.lines(drive), *_write(layer)]),
        "      spikes[n] = (uint8_t)fires;",
        "    }",
        f"  for (int b = 0; b < {layer.blocks}; b++) {{",
        *_in(2, [*_used(layer), "const int x = 0, y = 0;", *_keep(layer, "t", f"b * {width}")]),
        "  }",
        "}",
    ]
    return "\n".join(_in(1, lines))


def _blocks(layer: Product, inside: list[str]) -> list[str]:
    """Return the loop over blocks of outputs, of whose sums `used` are some."""
    return [
        f"const Shape s = {layer.shape};",
        f"for (int b = 0; b < {layer.blocks}; b++) {{",
        *_in(1, _used(layer)),
        f"  const int8_t *weights = {layer.name}_weights + b * {layer.block_bytes};",
        *_in(1, inside),
        "}",
    ]


def _used(layer: Product) -> list[str]:
    """Return how many sums of block `b` are outputs."""
    rest = layer.step.shape[2] - (layer.blocks - 1) * layer.width
    if layer.blocks == 1 or rest == layer.width:
        return [f"const int used = {rest};"]
    return [f"const int used = b < {layer.blocks - 1} ? {layer.width} : {rest};"]


def _tiles(place: str, further: str, behind: str = "") -> list[str]:
    arguments = f"({place}, {further}, weights, s, sums{behind});"
    return ["if (w->tiles)", f"  multiply_tiles{arguments}", "else",
            f"  multiply_twice{arguments}"]  # fmt: skip


def _arrays(layer: Product, size: int, steps: int) -> list[str]:
    """Return what a block works in: `size` sums a step."""
    chunk = chunk_of(layer.plan.timesteps)
    lines = [f"ALIGNED int32_t sums[{steps * size}];"]
    if chunk < layer.plan.timesteps:
        lines += _states(layer, size)
    if layer.neurons.fires:
        lines.append(f"uint8_t spikes[{chunk * size}];")
    if layer.target is None:
        lines.append(f"int32_t totals[{size}] = {{0}};")
    if layer.step.shortcut is not None:
        lines.append(f"uint32_t more[{chunk * size}] = {{0}};")
    return lines


def _states(layer: Product, size: int) -> list[str]:
    names = ["us", "ss"][: len(layer.neurons.states)]
    return [f"int{layer.neurons.bits}_t {name}[{size}] = {{0}};" for name in names]


def _read(layer: Product, *, fresh: bool = False) -> list[str]:
    names = ["u", "s"][: len(layer.neurons.states)]
    type_ = f"int{layer.neurons.bits}_t"
    return [f"{type_} {name} = {'0' if fresh else f'{name}s[n]'};" for name in names]


def _write(layer: Product) -> list[str]:
    return [f"{name}s[n] = {name};" for name in ["u", "s"][: len(layer.neurons.states)]]


def _drive(layer: Product, total: str) -> str:
    """Return what a neuron hears of a sum."""
    known = layer.neurons.known
    return f"((uint32_t){total} << {known['shift']}) + {known['constant']}"


def _through_time(layer: Product, inside: list[str], rows: int) -> list[str]:
    """Return how a block's neurons go through all steps, a chunk after the other.

    Args:
      layer: the layer.
      inside: what computes the sums of a chunk.
      rows: of a block.
    """
    code, width, steps = layer.neurons, layer.width, layer.plan.timesteps
    chunk, size, last = chunk_of(steps), rows * layer.width, layer.target is None
    whole = chunk == steps
    body = _read(layer, fresh=whole)
    body += ["int32_t total = totals[n];"] * last
    for k in range(chunk):
        place = "sums[n]" if layer.source.times == 1 else f"sums[{k * size} + n]"
        more = "" if layer.step.shortcut is None else f" + more[{k * size} + n]"
        body += ["{", *_in(1, code.lines(_drive(layer, place) + more))]
        if code.fires:
            body.append(f"  spikes[{k * size} + n] = (uint8_t)fires;")
        body += [f"  total += {'fires' if code.fires else 'u'};"] * last + ["}"]
    body += [] if whole else _write(layer)
    body += ["totals[n] = total;"] * last
    output = [f"const int o = b * {width} + i;"] * any("[o]" in line for line in body)
    lines = [
        *inside,
        *_beside(layer, chunk, rows),
        f"for (int r = 0; r < {rows}; r++)",
        f"  for (int i = 0; i < {width}; i++) {{",
        f"    const int n = r * {width} + i;",
        *_in(2, [*output, *body]),
        "  }",
    ]
    if code.fires:
        keep = _keep(layer, "(t + k)", f"k * {size} + r * {width}")
        lines += _over_rows(
            layer, rows, [f"for (int k = 0; k < {chunk}; k++) {{", *_in(1, keep), "}"]
        )
    lines = [f"for (int t = 0; t < {steps}; t += {chunk}) {{", *_in(1, lines), "}"]
    if last:
        give = (
            f"for (int i = 0; i < used; i++) units[{_unit(layer)} + i] = totals[r * {width} + i];"
        )
        lines += _over_rows(layer, rows, [give])
    return lines


def _over_rows(layer: Product, rows: int, inside: list[str]) -> list[str]:
    """Return a loop over the rows that are positions of the output: `y` and `x`."""
    height, width, _ = layer.step.shape
    columns = layer.source.columns
    position = [
        f"const int at = p + r, y = at / {columns}, x = at % {columns};",
        f"if (x >= {width} || y >= {height}) continue;",
    ]
    position = ["const int y = 0, x = 0;"] if layer.positions == 1 else position
    return [f"for (int r = 0; r < {rows}; r++) {{", *_in(1, [*position, *inside]), "}"]


def _unit(layer: Product) -> str:
    """Return the first neuron of a block at a position."""
    _, width, outputs = layer.step.shape
    return f"(y * {width} + x) * {outputs} + b * {layer.width}"


def _keep(layer: Product, time: str, first: str) -> list[str]:
    """Return how a row of spikes goes where it is read."""
    lines = []
    if layer.target is not None:
        place = layer.target.place(time, "y", "x")
        to = f"w->signal{layer.step.target} + {place} + b * {layer.width}"
        lines.append(f"memcpy({to}, spikes + {first}, (size_t)used);")
    elif layer.step.recurrent is not None:
        add = f"units[{_unit(layer)} + i] += spikes[{first} + i];"
        lines.append(f"for (int i = 0; i < used; i++) {add}")
    count = f"counts[{layer.plan.first_count(layer.step)} + {_unit(layer)} + i]"
    lines.append(f"TRACE(for (int i = 0; i < used; i++) {count} += spikes[{first} + i];)")
    return lines


def _beside(layer: Product, chunk: int, rows: int) -> list[str]:
    """Return what a block's shortcut adds in a chunk: `more`, 0 where nothing is kept."""
    added, beside, known = layer.step.shortcut, layer.beside, layer.neurons.known
    if added is None or beside is None:
        return []
    width, size = layer.width, rows * layer.width
    place = beside.place("(t + k)", f"y * {added.stride}", f"x * {added.stride}")
    each = f"from[{known['from']}]", known["gain"]
    output = [f"    const int o = b * {width} + i;"] * any("[o]" in part for part in each)
    inside = [
        f"for (int k = 0; k < {chunk}; k++) {{",
        f"  const uint8_t *from = w->signal{added.signal} + {place};",
        "  for (int i = 0; i < used; i++) {",
        *output,
        f"    more[k * {size} + r * {width} + i] = (uint32_t){each[0]} * (uint32_t){each[1]};",
        "  }",
        "}",
    ]
    return _over_rows(layer, rows, inside)


def _in(by: int, lines: list[str]) -> list[str]:
    return ["  " * by + line for line in lines]
