"""The tables of methods in README and docs, made from the specs: `python docs/tables.py [--write]`.

Each stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. Without `--write` pages that differ are named, and
the status is 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from kc.registry import METHODS, method_spec
from kc.spec import MethodSpec, options_of

ROOT = Path(__file__).resolve().parents[1]
SPECS = {name: method_spec(name) for name in METHODS}
GATED = ("online", "domain", "blurry", "names")
"""Streams that some methods cannot do."""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in lines).replace("| ---", "|---").replace("--- |", "---|")


def source(spec: MethodSpec) -> str:
    """The papers, each a link."""
    return re.sub(r"([^;]*?),? ?arXiv ([\d.]+\d)", _link, spec.paper).strip() or "–"


def _link(found: re.Match[str]) -> str:
    lead = re.match(r"\s*", found[1])
    assert lead is not None
    return f"{lead[0]}[{found[1].strip() or f'arXiv {found[2]}'}](https://arxiv.org/abs/{found[2]})"


def benchmarks(spec: MethodSpec) -> str:
    """What a method answers for."""
    if "classification" not in spec.kinds:
        return "masks" if spec.mask_classifier else "pixels"
    return "images, maps" if "semantic" in spec.kinds else "images"


def overview() -> str:
    """Every method in one line."""
    return table(
        ("name", "for", "what it does", "keeps", "source"),
        ((f"`{n}`", benchmarks(s), s.summary.rstrip("."), s.keeps, source(s)) for n, s in SPECS.items()),
    )


def details(wanted: Callable[[MethodSpec], bool]) -> str:
    """Formula and options of the methods that are `wanted`."""
    return table(
        ("name", "loss or answer", "options and defaults", "source"),
        ((f"`{n}`", f"{s.summary} ${s.formula}$", defaults(s), source(s)) for n, s in SPECS.items() if wanted(s)),
    )


def defaults(spec: MethodSpec) -> str:
    """Every option with its default."""
    shown = [f"`{o.name}`" + ("" if o.default is None else f" {o.default}") for o in options_of(spec.options)]
    return ", ".join([*shown, *(["`--exemplars`"] if spec.exemplars else [])])


def refused() -> str:
    """The methods that a kind of stream refuses."""

    def able(spec: MethodSpec, stream: str) -> bool:
        if stream == "names":
            return spec.by_name
        return stream in spec.streams and not (stream == "online" and spec.second_pass)

    rows = ((f"`{t}`", ", ".join(f"`{n}`" for n, s in SPECS.items() if not able(s, t))) for t in GATED)
    return table(("stream", "methods that it refuses"), rows)


def _is(family: str, pixels: bool = False, masks: bool = False) -> Callable[[MethodSpec], bool]:
    return lambda s: (s.family, s.pixels and not s.mask_classifier, s.mask_classifier) == (family, pixels, masks)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "methods": ("README.md", overview),
    "gradient": ("docs/methods/fine-tuning.md", lambda: details(_is("gradient"))),
    "pixels": ("docs/methods/fine-tuning.md", lambda: details(_is("gradient", pixels=True))),
    "masks": ("docs/methods/fine-tuning.md", lambda: details(_is("gradient", masks=True))),
    "retrieval": ("docs/methods/retrieval.md", lambda: details(lambda s: s.family != "gradient")),
    "refused": ("docs/streams.md", refused),
}
"""Name of a table -> its page, and what makes it."""


def made(text: str, name: str, new: str) -> str:
    """`text` with the table `name` replaced. Raises ValueError where its marks are missing."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {name}:begin --> ... <!-- {name}:end -->")
    return pattern.sub(lambda m: m[1] + new + m[2], text)


def main(write: bool) -> int:
    """Compare, or write. Returns the exit status."""
    differ = []
    for name, (page, make) in TABLES.items():
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        if (new := made(text, name, make())) != text:
            differ.append(f"{page}: {name}")
            if write:
                path.write_text(new, encoding="utf-8")
    print("\n".join(differ) or "every table is that of the specs")
    return 0 if write or not differ else 1


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
