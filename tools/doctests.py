"""Show the examples of docstrings as code in the API reference (a griffe extension).

Examples stand anywhere in our docstrings, from `>>>` to the next blank line. Markdown would read
them as text.
"""

from typing import Any

import griffe


def fenced(docstring: str) -> str:
    """Return a docstring with a fence around each example.

    Args:
      docstring: text whose examples begin with `>>>` and end with a blank line.
    """
    lines: list[str] = []
    fence = ""
    for line in [*docstring.splitlines(), ""]:
        if not fence and line.lstrip().startswith(">>>"):
            fence = " " * (len(line) - len(line.lstrip())) + "```"
            lines.append(fence + "pycon")
        elif fence and not line.strip():
            lines.append(fence)
            fence = ""
        lines.append(line)
    return "\n".join(lines[:-1])


class Doctests(griffe.Extension):
    """Fence the examples of every object's docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change a docstring before it is parsed."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
