"""Formulas become MathML when the site is built: a hook of mkdocs.

Browsers draw MathML themselves (Chromium since 109, Firefox, Safari), so pages need neither a script nor a font. KaTeX
and MathJax would each ship more than a megabyte; `latex2mathml` is pure Python. GitHub renders the same `$...$`.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
"""What `pymdownx.arithmatex` leaves of `$...$` and `$$...$$`."""


def to_mathml(found: re.Match[str]) -> str:
    r"""The `math` element of a formula. Raises ValueError for a command that is unknown, such as `\foo`."""
    latex = html.unescape(found[2]).strip()
    math: str = convert(latex, display="inline" if found[1] == "span" else "block")
    if "\\" in math:
        raise ValueError(f"a formula that cannot be rendered: {latex}")
    return math


def on_page_content(content: str, /, **_: Any) -> str:
    """Called by mkdocs with the HTML of every page."""
    return FORMULA.sub(to_mathml, content)
