"""What `jaxsnn inspect --chip` prints: the limits of a chip beside what a network needs."""

from pathlib import Path

from jaxsnn import chips
from jaxsnn.chips.fitting import Checked
from jaxsnn.cli import tables
from jaxsnn.errors import UserError
from jaxsnn.export import load

__all__ = ["report"]


def report(file: Path, chip: str, *, json: bool) -> None:
    """Print whether a packed network fits a chip, and each limit with what comes closest to it.

    Raises:
      UserError: for a file that cannot be read or has no integers, and another chip.
    """
    model = load(file)
    try:
        found = chips.check_fit(model.network, model.known_inputs(), chip)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if json:
        tables.print_json({"file": str(file)} | found.to_data())
        return
    sources = list(dict.fromkeys(row.limit.source for row in found.rows))
    head = ["limit", "found", "allowed", "fits", "source", "where"]
    tables.print_rows(head, [_cells(row, sources) for row in found.rows])
    print()
    if found.fits:
        print(f"FITS {chip}: {found.chip.about}")
    else:
        print(f"DOES NOT FIT {chip}: {found.chip.about}")
    for row in found.broken:
        print(f"  {_sentence(row)}")
    for number, source in enumerate(sources, 1):
        print(f"[{number}] {source}")
    print(f"not checked: {'; '.join(found.chip.unchecked)}")


def _cells(row: Checked, sources: list[str]) -> list[str]:
    fits = "yes" if row.fits else "NO"
    source = f"[{sources.index(row.limit.source) + 1}]"
    found = _number(row.need.value)
    return [row.limit.what, found, _allowed(row), fits, source, row.need.where or "–"]


def _sentence(row: Checked) -> str:
    """Return what is beyond a limit in words."""
    where = f" ({row.need.where})" if row.need.where else ""
    note = f"; {row.need.note}" if row.need.note else ""
    return f"{row.limit.what}{where}: {_number(row.need.value)}, allowed {_allowed(row)}{note}"


def _allowed(row: Checked) -> str:
    allowed = row.limit.allowed
    if isinstance(allowed, int):
        return _number(allowed)
    few = [*allowed[:4], *allowed[-1:]] if len(allowed) > 5 else allowed
    texts = [_number(value) for value in few]
    return ", ".join([*texts[:-1], "...", texts[-1]] if len(allowed) > 5 else texts)


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) and value >= 1000 else f"{value:.6g}"
