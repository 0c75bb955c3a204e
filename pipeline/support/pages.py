"""Pages of one file that ask nothing of the network: their templates, the style they share."""

import base64
from pathlib import Path

import jinja2


def environment(folder: Path) -> jinja2.Environment:
    """The templates in `folder`, which can include `page.css` too.

    Text is escaped; a value that a template does not get is an error.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(data: bytes, kind: str) -> str:
    """A picture as text that stands in the page itself; `kind` is jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
