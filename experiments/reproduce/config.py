"""Options of `experiments.reproduce`."""

from pathlib import Path
from typing import Annotated

from jaxsnn.errors import UserError
from jaxsnn.options import Whole, checked

ROOT = Path(__file__).resolve().parents[2]  # of the checkout


@checked
class Config:
    """Which rows are run, where, and whether they are compared or stored."""

    only: tuple[str, ...] = ()
    """Names of the rows to run; left out, all rows are listed and nothing is run."""
    data_dir: Path | None = None
    """Folder of the data files; $JAXSNN_DATA if left out."""
    seeds: Annotated[tuple[int, ...], Whole(0)] = ()
    """Seeds to run; left out, those of the row."""
    out: Path = Path("runs/reproduce")
    """Folder of the runs, OUT/ROW/seedN each; what is finished there is not run again."""
    store: bool = False
    """Write results/ROW.json in place of comparing with it."""
    results: Path = ROOT / "results"
    """Folder of the stored rows."""

    def check(self) -> None:
        """Refuse what cannot be meant."""
        if self.store and not self.only:
            raise UserError("--store needs --only with the names of the rows to run and store")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"--seeds {' '.join(map(str, self.seeds))}: one stands there twice")
