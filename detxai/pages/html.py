"""Pages from templates: one file each, with style, script and pictures inside, and every text escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """The HTML of one of the files in ``templates/``.

    Args:
        template: the file's name.
        values: what the template may use; text in them is escaped, ``markupsafe.Markup`` is not.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not among the values.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"words": words, "decimals": decimals, "percent": percent}
    return environment


def words(name: str) -> str:
    """A name as text.

    >>> words("true_positive")
    'true positive'
    """
    return name.replace("_", " ")


def decimals(value: float | None, n: int) -> str:
    """A number with ``n`` decimals; empty where there is none.

    >>> decimals(0.5, 3), decimals(None, 3)
    ('0.500', '')
    """
    return "" if value is None else f"{value:.{n}f}"


def percent(share: float) -> str:
    """A share in whole per cent.

    >>> percent(0.256)
    '26%'
    """
    return f"{share:.0%}"
