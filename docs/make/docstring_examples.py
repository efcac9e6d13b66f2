"""Examples in docstrings as blocks of code: without fences Markdown reads ``>>>`` as a quotation."""

from __future__ import annotations

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", flags=re.MULTILINE)
EXAMPLE = re.compile(r"^Example:\n(?P<code>(?:    .*\n?|\n)+)", flags=re.MULTILINE)


class DocstringExamples(griffe.Extension):
    """Fences the examples of every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_fences(obj.docstring.value)


def with_fences(docstring: str) -> str:
    """A docstring whose doctests, and code below ``Example:``, are fenced.

    >>> print(with_fences("Adds.\\n\\n>>> 1 + 1\\n2").replace("`", "'"))
    Adds.
    <BLANKLINE>
    '''pycon
    >>> 1 + 1
    2
    '''
    """
    return DOCTEST.sub(_fenced_doctest, EXAMPLE.sub(_fenced_example, docstring))


def _fenced_doctest(found: re.Match[str]) -> str:
    indent = found["indent"]
    return f"{indent}```pycon\n{found[0]}\n{indent}```"


def _fenced_example(found: re.Match[str]) -> str:
    if ">>>" in found["code"]:
        return found[0]
    return f"Example:\n    ```python\n{found['code'].rstrip()}\n    ```\n"
