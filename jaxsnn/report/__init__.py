"""What a run leaves behind: results.json, a printed table, pictures and one page of HTML."""

from jaxsnn.report.page import CAPTIONS, write_html
from jaxsnn.report.results import (
    ROW_FIELDS,
    as_rows,
    print_table,
    read_results,
    to_json,
    versions,
    write_results,
)

__all__ = [
    "CAPTIONS",
    "ROW_FIELDS",
    "as_rows",
    "print_table",
    "read_results",
    "to_json",
    "versions",
    "write_html",
    "write_results",
]
