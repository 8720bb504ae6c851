"""What a run leaves behind: results.json, a printed table, one page of HTML with pictures."""

from jaxsnn.report.page import write_html
from jaxsnn.report.results import print_table, read_results, to_json, write_results

__all__ = ["print_table", "read_results", "to_json", "write_html", "write_results"]
