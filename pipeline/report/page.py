"""The report's page: a template filled in, with its style and its script inside."""

from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = Path(__file__).parent / "templates"


def render(**values: Any) -> str:
    """Return `templates/report.html` filled in; what it does not get is an error.

    Text is escaped; charts (SVG of our own making) are not.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = _score
    environment.filters["signed"] = _signed
    return environment.get_template("report.html").render(**values)


def _score(value: float) -> str:
    return f"{value:.5f}"


def _signed(value: float) -> str:
    """A difference of scores, with a real minus sign."""
    return f"{value:+.6f}".replace("-", "\N{MINUS SIGN}")
