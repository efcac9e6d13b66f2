"""Equations as MathML: browsers draw it without a script and without fonts of ours."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)


def with_mathml(page: str) -> str:
    r"""A page's HTML in which what ``pymdownx.arithmatex`` marked is MathML.

    >>> with_mathml(r'<span class="arithmatex">\(x\)</span>')
    '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow><mi>x</mi></mrow></math>'
    """
    return EQUATION.sub(_mathml, page)


def _mathml(equation: re.Match[str]) -> str:
    kind, latex = equation.groups()
    is_block = kind == "div"
    drawn = convert(html.unescape(latex).strip(), display="block" if is_block else "inline")
    return f'<div class="equation">{drawn}</div>' if is_block else drawn
