"""A name from a file, an archive or a request becomes a path through `kc/outside.py` and `kc/files.py` alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READS = {"read_json", "parse_json", "read_yaml", "parse_yaml", "read_lines", "read_text", "loads", "DictReader"}
READS |= {"namelist", "infolist", "getmembers", "getnames", "query_params", "splitlines"}
"""Calls and attributes whose result is what somebody else wrote."""
CHECKS = {"inside", "inside_text", "plain_name", "file_name", "hashed_path", "shortened", "_target", "run_id"}
CHECKS |= {"int", "float", "len", "bool", "sha256", "sha1", "enumerate", "range", "_digest"}
"""Calls whose result may become a path, or is no name."""
JOINS = {"joinpath", "with_name", "join"}
ALLOWED = {
    (
        "kc/data/readers/labelme.py",
        "PurePosixPath(file).parent / str(content['imagePath']).replace('\\\\', '/')",
    ): "goes through `inside` as a whole",
    (
        "kc/data/readers/embedded.py",
        "folder / f'{name}.npy'",
    ): "the list that this package writes into its cache when the arrays are whole",
    (
        "kc/proposals/detectron2_files.py",
        "config.parent / Path(base).expanduser()",
    ): "the config that this one, which the user gave, builds on: ../Base.yaml in detectron2's own layout",
}
"""(file, join) -> why it is right."""


def called(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else node
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_outside(node: ast.AST, known: set[str]) -> bool:
    """Whether `node` holds something that is read, or one of the `known` variables, and no check between."""
    if isinstance(node, ast.Call) and called(node) in CHECKS:
        return False
    if isinstance(node, ast.Call | ast.Attribute) and called(node) in READS:
        return True
    if isinstance(node, ast.Attribute) and node.attr == "filename":
        return True
    if isinstance(node, ast.Name):
        return node.id in known
    return any(is_outside(child, known) for child in ast.iter_child_nodes(node))


def outside_names(function: ast.AST) -> set[str]:
    """Variables of a function that hold what was read, followed through its assignments and loops."""
    known: set[str] = set()
    while True:
        found = set(known)
        for node in ast.walk(function):
            pairs: list[tuple[ast.AST, ast.AST]] = []
            if isinstance(node, ast.Assign):
                pairs = [(target, node.value) for target in node.targets]
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                pairs = [(node.target, node.value)]
            elif isinstance(node, ast.For | ast.comprehension):
                pairs = [(node.target, node.iter)]
            for target, value in pairs:
                if is_outside(value, known):
                    found |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name) and n.id != "self"}
        if found == known:
            return known
        known = found


def joins(source: str) -> list[str]:
    """The joins of a module whose added part came from outside and was not checked."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        known = outside_names(function)
        for node in ast.walk(function):
            parts: list[ast.expr] = []
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                parts = [node.right]
            elif isinstance(node, ast.Call) and called(node) in JOINS and not isinstance(node.func, ast.Name):
                text = ast.unparse(node.func)
                parts = node.args if "path" in text or called(node) != "join" else []
            if any(is_outside(part, known) for part in parts):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    ("line", "n"),
    [
        ("root / content['file']", 1),
        ("root / f'{content.get(1)}.png'", 1),
        ("os.path.join(root, content['file'])", 1),
        ("[root / entry for entry in content]", 1),
        ("inside(root, content['file'])", 0),
        ("root / plain_name(content['file'], 'here')", 0),
        ("root / other", 0),
    ],
)
def test_a_join_is_found(line: str, n: int) -> None:
    assert len(joins(f"def f(root, other):\n    content = read_json(root)\n    return {line}")) == n


def test_names_from_outside_are_checked_before_they_are_joined() -> None:
    found = set()
    for path in sorted((ROOT / "kc").rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        found |= {(where, join) for join in joins(path.read_text(encoding="utf-8"))}
    assert found == set(ALLOWED)
