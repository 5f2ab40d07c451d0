"""What comes from outside, read with bounds: text, JSON, YAML, and names that become paths.

Every reader of such a file goes through here, so that whatever is wrong is one error that names the file.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from kc.errors import DataError, KcError, visible

MOST_TEXT = 1 << 26
"""Bytes of the largest text file that is read whole: lists, manifests, configs, records (64 MiB)."""
MOST_JSON = 1 << 32
"""Bytes of the largest annotation file in JSON that is read (4 GiB; that of COCO's training images has 0.5)."""
MOST_DEPTH = 32
"""Levels of the deepest YAML."""
_MOST_SHOWN = 200

ErrorType = type[KcError]


def read_text(path: Path, *, most: int = MOST_TEXT, error: ErrorType = DataError) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Args:
        path: The file.
        most: Bytes that it may have.
        error: What is raised.

    Raises:
        error: It is missing, larger than `most`, not a file, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as reason:
        raise error(f"{path}: cannot be read ({getattr(reason, 'strerror', None) or reason})") from reason
    if len(data) > most:
        raise error(f"{path}: larger than {most:,} bytes, which is the most that is read of such a file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = data.count(b"\n", 0, reason.start) + 1
        raise error(f"{path}, line {line}: not UTF-8 (byte {data[reason.start]:#04x}); save it as UTF-8") from reason


def read_json(path: Path, *, most: int = MOST_TEXT, error: ErrorType = DataError) -> Any:
    """The value of a JSON file. Raises `error` as `read_text` and `parse_json` do."""
    return parse_json(read_text(path, most=most, error=error), str(path), error=error)


def parse_json(text: str | bytes, name: str, *, error: ErrorType = DataError) -> Any:
    """The value of JSON `text`; `name` is what errors call it.

    Raises:
        error: It is not JSON, has NaN or infinity, nests too deeply, or a number has too many digits.
    """

    def no_constant(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(text, parse_constant=no_constant)
    except json.JSONDecodeError as reason:
        raise error(f"{name}, line {reason.lineno}: not JSON ({reason.msg})") from reason
    except RecursionError as reason:
        raise error(f"{name}: nested too deeply to be read") from reason
    except ValueError as reason:
        raise error(f"{name}: not JSON ({one_line(reason)})") from reason


def read_yaml(path: Path, *, error: ErrorType = DataError) -> Any:
    """The value of a YAML file. Raises `error` as `read_text` and `parse_yaml` do."""
    return parse_yaml(read_text(path, error=error), str(path), error=error)


def parse_yaml(text: str, name: str, *, error: ErrorType = DataError) -> Any:
    """The value of YAML `text`: mappings, lists and plain values; `name` is what errors call it.

    Raises:
        error: It is not YAML, has an anchor, an alias or a tag, says a key twice, or nests deeper than MOST_DEPTH.
    """
    try:
        _check_events(yaml.parse(text, Loader=_LOADER))
        return yaml.load(text, Loader=_Unique)
    except yaml.MarkedYAMLError as reason:
        mark = reason.problem_mark or reason.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise error(f"{name}{where}: not YAML ({one_line(reason.problem or reason.context)})") from reason
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as reason:
        raise error(f"{name}: not YAML ({one_line(reason)})") from reason


def lines_of(text: str) -> dict[str, int]:
    """The line, from 1, of each `key` of a mapping in YAML, and as `key.inner` of the mappings in it; `parse_yaml` has
    accepted it."""
    found: dict[str, int] = {}

    def add(node: Any, prefix: str) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            found[f"{prefix}{key.value}"] = key.start_mark.line + 1
            if not prefix:
                add(value, f"{key.value}.")

    add(yaml.compose(text, Loader=_LOADER), "")
    return found


def not_downloaded(head: bytes) -> str:
    """What a file that begins with `head` is instead of what was downloaded; empty where that cannot be told."""
    head = head.lstrip()
    if not head:
        return "the file is empty: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "the file is a pointer of Git LFS: run `git lfs pull` where it was cloned"
    page = head[:1] == b"<" and not head.startswith((b"<svg", b"<?xml"))
    return "the file is a web page: download the file itself" if page else ""


def no_weights(path: Path) -> str:
    """What a file that cannot be read as weights is, and what to do; empty where that cannot be told."""
    with path.open("rb") as file:
        if said := not_downloaded(file.read(512)):
            return said
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                return "the file is a TorchScript archive: give torch.save(torch.jit.load(FILE).state_dict(), NEW)"
    return ""


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Unique(_LOADER):  # type: ignore[misc]  # chosen when the module is loaded
    """Refuses a key that a mapping says twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for child, _ in node.value:
            if isinstance(child, yaml.ScalarNode):
                if (key := (child.tag, child.value)) in seen:
                    problem = f"{child.value!r} is said twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, child.start_mark)
                seen.add(key)
        made: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return made


def _check_events(events: Iterator[Any]) -> None:
    depth = 0
    for event in events:
        problem = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "anchors and aliases are not read: write the value out"
        elif getattr(event, "tag", None) is not None:
            problem = f"the tag {event.tag!r} is not read: write a plain value"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            problem = f"nested deeper than {MOST_DEPTH} levels"
        if problem:
            raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)


def one_line(reason: object) -> str:
    """A reason of a library on one line, cut where it is long, as a terminal may show it."""
    text = visible(" ".join(str(reason).split()))
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + " ..."


@lru_cache(maxsize=1024)
def _kept(folder: str) -> str:
    return os.path.realpath(folder, strict=True)  # raises, and so keeps nothing, where there is no such folder yet


def follow_links_again() -> None:
    """Forget where the links of folders pointed: they may have been changed since another reader was opened."""
    _kept.cache_clear()


def _real(folder: str) -> str:
    try:
        return _kept(folder)
    except OSError:
        return os.path.realpath(folder)


def inside(root: Path, relative: str | Path) -> Path:
    """The path under `root`, with links followed.

    Raises:
        DataError: the path, or what a link in it points to, lies outside `root` and the folders of KC_LINK_ROOTS.
    """
    return Path(inside_text(root, relative))


def inside_text(root: Path, relative: str | Path) -> str:
    """What `inside` gives, as text."""
    # On text: making Path objects of every step costs several times what following the links does. The links of a
    # folder are followed once a process, those of a file every time.
    base = _real(os.path.abspath(root))  # a relative one depends on where we are
    folder, name = os.path.split(os.path.join(base, relative))
    path = os.path.join(_real(folder), name)
    if name in ("", os.curdir, os.pardir) or os.path.islink(path):
        path = os.path.realpath(path)
    if not _below(path, base):
        if ".." in os.path.normpath(relative).split(os.sep) or os.path.isabs(relative):
            raise DataError(f"{root / relative}: this name leaves the data folder {base}: refused")
        if not any(_below(path, _real(root)) for root in link_roots()):
            advice = (
                f". Copy the data inside, or let links open all below a folder: --link-roots {os.path.dirname(path)} "
                "(or KC_LINK_ROOTS)"
            )
            raise DataError(
                f"{root / relative}: leaves the data folder {base}: this link points to {path}"
                + (advice if os.path.lexists(path) else ", which does not exist")
            )
    return path


def _below(path: str, base: str) -> bool:
    return path == base or path.startswith(base.rstrip(os.sep) + os.sep)


def link_roots() -> list[str]:
    """Folders outside a data folder into which its links may point: the environment variable KC_LINK_ROOTS."""
    given = os.environ.get("KC_LINK_ROOTS", "").replace(os.pathsep, ",").split(",")
    return [os.path.abspath(os.path.expanduser(root.strip())) for root in given if root.strip()]


@contextmanager
def linked(config: object) -> Iterator[None]:
    """Within, also in processes that begin within, `link_roots` are those of the config where it says any."""
    before, roots = os.environ.get("KC_LINK_ROOTS"), getattr(config, "link_roots", None)
    if roots is not None:
        os.environ["KC_LINK_ROOTS"] = roots
    try:
        yield
    finally:
        if before is not None:
            os.environ["KC_LINK_ROOTS"] = before
        elif roots is not None:
            del os.environ["KC_LINK_ROOTS"]


def plain_name(name: object, where: str, *, error: ErrorType = DataError) -> str:
    """A name from outside that is to become one file of a folder.

    Raises:
        error: it is no text, empty, has a separator, is a folder (`.`, `..`) or a drive, or has control characters.
    """
    text = name if isinstance(name, str) else ""
    if not text or text in (os.curdir, os.pardir) or not text.isprintable() or set(text) & set("/\\:"):
        raise error(f"{where}: {str(name)[:80]!r} is not the name of a file in one folder: refused")
    return text
