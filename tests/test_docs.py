"""The documentation builds without a warning and loads nothing from elsewhere; its code runs, its commands parse, its
formulas are rendered and the README's links resolve."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kc import actions, cli
from kc.errors import DataError, ManifestError, MissingExtraError, RunError, UnknownNameError
from kc.registry import BASES, ENCODERS, METHODS, PROPOSERS, STUDIES, spec_of

ROOT = Path(__file__).parents[1]
NEEDS = {"detectron2.md": ("detectron2", "panopticapi")}
"""Packages that the code of a page needs beyond those of the project."""

BLOCK = re.compile(
    r"^```(?:python|yaml(?= title))(?: title=\"(?P<file>[^\"]+)\")?\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE
)
FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:\w+=\S+\s)*(?:kc [a-z]|python -m benchmarks\.)[^`]*)`")
PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if BLOCK.search(p.read_text(encoding="utf-8"))]
TEXTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


RESOLVED = ("run", "sweep")
"""Commands whose config is also resolved: names, ranges and what goes together are checked."""
MISSING_HERE = (DataError, ManifestError, MissingExtraError, RunError)
"""A command may name a benchmark, weights or a run that a reader has."""
SHELL_VARIABLES = {"$method": "knn", "$seed": "0"}
"""Values of the variables in scripts of docs/."""


class Parsed(BaseException):
    """Raised in place of running a command."""


def commands(text: str) -> list[str]:
    """The commands of the project in the shell blocks of `text`, continued lines joined, comments cut off."""
    blocks = [block["code"] for block in FENCE.finditer(text) if block["language"] in ("", "bash")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    wanted = (re.sub(r"\s#.*", "", line).strip() for line in lines)
    return [line for line in wanted if re.match(r"(\w+=\S+ )*(kc|python (-m benchmarks\.|experiments/)\S+)\s", line)]


def parse(command: str) -> None:
    """Parse a command without running it. Raises Parsed, or what its parser raises."""
    words = [SHELL_VARIABLES.get(w, w) for w in shlex.split(command) if not re.match(r"[A-Z_]+=", w)]
    if words[0] == "kc":
        try:
            cli.main([*words[1:], *(["--print-config"] if words[1] in RESOLVED else [])])
        except SystemExit as end:
            raise Parsed from end
        return
    module = words[2] if words[1] == "-m" else words[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *words[3 if words[1] == "-m" else 2 :]])
        if words[1] == "-m":
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / module), run_name="__main__")


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads the options of a command raises Parsed in the end; errors are raised, not printed."""
    real = actions.read

    def read(*given, **named):
        real(*given, **named)
        raise Parsed

    monkeypatch.setattr(actions, "read", read)
    monkeypatch.setattr(cli, "KcError", ())
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
@pytest.mark.usefixtures("only_parse")
def test_commands_parse(page: Path) -> None:
    """Commands of shell blocks parse as they stand; those in a sentence name commands and options that exist."""
    text = page.read_text(encoding="utf-8")
    for command in commands(text):
        try:
            with pytest.raises(Parsed):
                parse(command)
        except MISSING_HERE:
            continue
        except Exception as error:
            raise AssertionError(f"{page.name}: {command}: {error}") from error
    sentences = FENCE.sub("", text)
    studies = re.findall(rf"`((?:{'|'.join(STUDIES)})\s--[^`]+)`", sentences)
    for command in INLINE.findall(sentences) + [f"kc study {study}" for study in studies]:
        try:
            parse(command.replace("...", ""))
        except UnknownNameError as error:
            raise AssertionError(f"{page.name}: {command}: {error}") from error
        except (Exception, SystemExit, Parsed):  # what a sentence leaves out is no error
            continue


def options() -> set[str]:
    """Every option of every command and component, as it is written."""
    from kc.data.streams import STREAM_OPTIONS

    def of(command: list[str]) -> set[str]:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            cli.main([*command, "--help"])
        if re.match(r"usage: kc .*(COMMAND|ACTION|NAME) \[options\]", shown.getvalue()):
            names = re.findall(r"^  ([a-z][\w-]*) ", shown.getvalue(), re.MULTILINE)
            return set().union(*(of([*command, name]) for name in names))
        return set(re.findall(r"--[a-z][\w-]*", shown.getvalue()))

    found = of([])
    kinds = {"method": METHODS, "encoder": ENCODERS, "proposer": PROPOSERS, "base": BASES}
    nested = [(name, spec_of(kind, name).options) for kind, names in kinds.items() for name in names]
    for name, fields in [*nested, *STREAM_OPTIONS.items()]:
        found |= {f"--{name}.{f.name.strip('_').replace('_', '-')}" for f in dataclasses.fields(fields)}
    return found | {"--help", "--version", "--print-config"}


def test_options_in_sentences_exist() -> None:
    """Every `--option` in a sentence is one of some command; those of other programs stand in their command line."""
    known = options()
    for page in TEXTS:
        for code in re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
            if re.match(r"([A-Z_]+=\S+ )*(python|mkdocs|pip) ", code):
                continue
            for flag in re.findall(r"(?<![\w-])--[a-z][\w+.-]*\w", code):
                assert flag in known, f"{page.name}: {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_runs(page: Path, tmp_path: Path) -> None:
    """A block with a title is a file of that name; the others run one after another in one program."""
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed; docs/{page.name} says how")
    program = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["code"], encoding="utf-8")
        else:
            program.append(block["code"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_pages_with_code_are_found() -> None:
    assert {"concepts.md", "metrics.md", "own-data.md", "own-method.md", "own-encoder.md"} <= {p.name for p in PAGES}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; warnings are errors."""
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: it hides warnings from --strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    foreign = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+\"")
    for page in site.rglob("*.html"):
        loaded = [tag for tag in foreign.findall(page.read_text(encoding="utf-8")) if 'rel="canonical"' not in tag]
        assert loaded == [], f"{page.relative_to(site)} loads {loaded[0]}"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import\s+(url\()?[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style
    reference = (site / "reference" / "memory" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'id="kc\.memory[\w.]*\.Memory\.search"', reference)


def test_formulas_are_rendered(site: Path) -> None:
    """Every `$...$` of a page is a `math` element, without a command that the converter did not know."""
    for page in ("metrics", "dense_clip", "methods/fine-tuning"):
        source = re.sub(
            r"```.*?```|`[^`]*`", "", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), flags=re.S
        )
        written = len(re.findall(r"\$\$[^$]+\$\$|\$[^$\n]+\$", source))
        html = (site / page / "index.html").read_text(encoding="utf-8")
        found = re.findall(r"<math .*?</math>", html, flags=re.DOTALL)
        assert len(found) == written > 0, page
        assert not any("\\" in formula for formula in found), page
        assert "arithmatex" not in html, page


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_of_the_pages_outside_the_site_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_figures_show_the_tables_of_their_pages() -> None:
    """docs/figures.py draws every figure that a page shows, and its lines have the numbers of the table."""
    figures = runpy.run_path(str(ROOT / "docs" / "figures.py"))
    shown = {name for page in TEXTS for name in re.findall(r"\(figures/([\w-]+)\.svg\)", page.read_text("utf-8"))}
    drawn = {p.stem for p in (ROOT / "docs" / "figures").glob("*.svg")}
    assert shown == drawn == set(figures["FIGURES"])
    for drawing in figures["FIGURES"].values():
        assert all(line.get_ydata().size for ax in figures["draw"](drawing).axes for line in ax.get_lines())
    (ax,) = figures["draw"](figures["FIGURES"]["votes"]).axes
    plurality = next(line for line in ax.get_lines() if line.get_label() == "plurality")
    assert list(zip(plurality.get_xdata(), plurality.get_ydata(), strict=True))[-1] == (100, 83.8)
