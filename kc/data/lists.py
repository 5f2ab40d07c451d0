"""Class tables, class orders and image lists in the formats in which others publish theirs. Nothing is unpickled.

- `FILE.yaml[:NAME]`, tasks.py of MiB and PLOP: `{0: [ids], 1: [ids] ...}`, or several of them by name;
- `FILE.yaml[:NAME]`, configs of CoMFormer and ECLIPSE: `CONT: {ORDER, BASE_CLS, INC_CLS}`, where ORDER holds positions
  counted from 1, the background left out;
- `.npy` of a class order: (C,) class ids; `.txt` of one: a class name or id a line;
- a folder of MiB and PLOP: `train-T.npy` (rows of the training list) or `train-T.txt` (rows or names) for each step T;
- `.npy` of images of CoMFormer and ECLIPSE: (n, T) zeros and ones, which image is in which step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.data.manifest import manifest_folder
from kc.errors import SplitError, unknown_name
from kc.outside import read_text, read_yaml
from kc.types import ClassInfo, Int64Array


@dataclass(frozen=True)
class ClassTable:
    """Class ids in the order in which they are learned, and how many of them each step brings (None: not said)."""

    order: tuple[int, ...]
    counts: tuple[int, ...] | None


def is_table(text: str | Path) -> bool:
    """Whether this names a YAML file, with or without the name of a table in it."""
    return _parts(str(text))[0].endswith((".yaml", ".yml"))


def find(text: str) -> Path:
    """A file as given, or one that comes with the package ("splits/voc-plop.yaml"). Raises SplitError."""
    for path in (Path(text).expanduser(), manifest_folder() / text):
        if path.exists():
            return path
    raise SplitError(f"{text}: no such file, neither here nor in {manifest_folder()}")


def load_table(text: str | Path, classes: Sequence[ClassInfo]) -> ClassTable:
    """The classes of each step of a YAML file: see the table at the top of this module.

    Raises:
        SplitError: the file is missing or of another form, or does not name every class once.
        UnknownNameError: it holds no table of this name.
    """
    file, name = _parts(str(text))
    path = find(file)
    content = read_yaml(path, error=SplitError)
    if name is not None:
        if not isinstance(content, Mapping) or name not in content:
            raise unknown_name(f"table of {path}", name, map(str, content if isinstance(content, Mapping) else []))
        content = content[name]
    if isinstance(content, Mapping) and isinstance(content.get("CONT"), Mapping):
        table = _of_config(path, content["CONT"], classes)
    elif isinstance(content, Mapping) and content and all(isinstance(k, int) for k in content):
        table = _of_steps(path, content)
    elif isinstance(content, Mapping) and name is None and content:
        raise SplitError(f"{path} holds {len(content)} tables: {', '.join(map(str, content))}; say which: {file}:NAME")
    else:
        raise SplitError(f"{path}: expected {{0: [ids], 1: [ids] ...}}, or CONT with ORDER; got {content!r:.60}")
    known = {c.id for c in classes}
    wrong = [c for c in table.order if c not in known or table.order.count(c) > 1]
    missing = sorted(known - set(table.order) - {c.id for c in classes if c.background})
    if wrong or missing:
        raise SplitError(
            f"{path}{'' if name is None else ':' + name} must name every class once; unknown or twice: "
            f"{sorted(set(wrong))[:10]}, missing: {missing[:10]}"
        )
    return table


def _of_steps(path: Path, content: Mapping[int, Any]) -> ClassTable:
    if sorted(content) != list(range(len(content))):
        raise SplitError(f"{path}: steps {sorted(content)}; expected 0, 1, 2 ... without a gap")
    steps = [content[t] for t in range(len(content))]
    if not all(isinstance(s, list) and s and all(isinstance(i, int) for i in s) for s in steps):
        raise SplitError(f"{path}: every step needs a list of class ids")
    return ClassTable(tuple(i for step in steps for i in step), tuple(len(step) for step in steps))


def _of_config(path: Path, config: Mapping[str, Any], classes: Sequence[ClassInfo]) -> ClassTable:
    rest = [c.id for c in classes if not c.background]
    background = [c.id for c in classes if c.background]
    positions = config.get("ORDER", list(range(1, len(rest) + 1)))
    if not isinstance(positions, list) or not all(isinstance(i, int) and 1 <= i <= len(rest) for i in positions):
        raise SplitError(f"{path}: CONT.ORDER must hold positions from 1 to {len(rest)}")
    order = (*background, *(rest[i - 1] for i in positions))
    base, step = config.get("BASE_CLS"), config.get("INC_CLS")
    if base is None and step is None:
        return ClassTable(order, None)
    if not isinstance(base, int) or not isinstance(step, int) or step < 1 or not 0 < base <= len(rest):
        raise SplitError(f"{path}: CONT.BASE_CLS {base!r} and CONT.INC_CLS {step!r} do not divide {len(rest)} classes")
    if (len(rest) - base) % step:
        raise SplitError(f"{path}: {len(rest)} classes are not {base} and a whole number of steps of {step}")
    return ClassTable(order, (base + len(background), *[step] * ((len(rest) - base) // step)))


def read_array(path: Path) -> npt.NDArray[np.integer[Any]]:
    """A `.npy` of whole numbers (also where they were saved as float). Raises SplitError, also for a pickled one."""
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy fails in many ways, MemoryError among them
        if "pickle" in str(error).lower():
            raise SplitError(
                f"{path} holds pickled objects, which can run code when they are read: refused. Save its lists as "
                "plain arrays of whole numbers, one file a step"
            ) from error
        raise SplitError(f"{path}: cannot be read as .npy ({error})") from error
    whole = np.asarray(values)
    if whole.dtype.kind == "f" and (whole == np.floor(whole)).all():
        whole = whole.astype(np.int64)
    if whole.dtype.kind not in "iub":
        raise SplitError(f"{path}: expected whole numbers, not {whole.dtype}")
    return whole.astype(np.int64)


def load_image_lists(place: str | Path, n_tasks: int, sample_ids: Sequence[str]) -> tuple[Int64Array, ...]:
    """Sorted rows of the training images of each step, from a folder or a file: see the top of this module.

    Raises:
        SplitError: a step has no list, is empty, or names an image that there is not.
    """
    path = find(str(place))
    if path.is_file():
        table = read_array(path)
        if table.shape != (len(sample_ids), n_tasks) or not np.isin(table, (0, 1)).all():
            raise SplitError(
                f"{path}: {table.shape}; expected zeros and ones of {len(sample_ids)} images in {n_tasks} steps"
            )
        steps = [np.flatnonzero(table[:, t]).astype(np.int64) for t in range(n_tasks)]
    else:
        steps = [_rows(_list_of(path, t), sample_ids) for t in range(n_tasks)]
        if more := [p.name for p in (path / f"train-{n_tasks}{e}" for e in (".npy", ".txt")) if p.exists()]:
            raise SplitError(f"{path} holds {more[0]} too, but the stream has only {n_tasks} tasks")
    for t, rows in enumerate(steps):
        if not len(rows):
            raise SplitError(f"{path}: step {t} has no image")
    return tuple(steps)


def fingerprint(place: str | Path) -> str:
    """sha256 (hex) of the lists: names and content."""
    path = find(str(place))
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.iterdir() if p.name.startswith("train-")):
        digest.update(file.name.encode() + b"\n" + file.read_bytes())
    return digest.hexdigest()


def _list_of(folder: Path, t: int) -> Path:
    for ending in (".npy", ".txt"):
        if (folder / f"train-{t}{ending}").is_file():
            return folder / f"train-{t}{ending}"
    raise SplitError(f"{folder}: no train-{t}.npy and no train-{t}.txt; every step needs its list")


def _rows(path: Path, sample_ids: Sequence[str]) -> Int64Array:
    n = len(sample_ids)
    if path.suffix == ".npy":
        rows = read_array(path)
    else:
        lines = [line.strip() for line in read_text(path, error=SplitError).splitlines() if line.strip()]
        if all(line.isdecimal() for line in lines):
            rows = np.array([int(line) for line in lines], dtype=np.int64)
        else:
            at = {name: i for i, full in enumerate(sample_ids) for name in (full.partition("/")[2], full)}
            unknown = [line for line in lines if line not in at]
            if unknown:
                raise SplitError(f"{path}: {len(unknown)} names are of no training image, such as {unknown[0]!r}")
            rows = np.array([at[line] for line in lines], dtype=np.int64)
    if rows.ndim != 1 or (len(rows) and (rows.min() < 0 or rows.max() >= n)):
        raise SplitError(f"{path}: expected a list of rows from 0 to {n - 1} of the training images")
    if len(np.unique(rows)) < len(rows):
        raise SplitError(f"{path}: {len(rows) - len(np.unique(rows))} images are there twice")
    return np.sort(rows).astype(np.int64)


def _parts(text: str) -> tuple[str, str | None]:
    """File and table of "FILE.yaml:TABLE"."""
    for ending in (".yaml:", ".yml:"):
        if ending in text:
            head, _, name = text.rpartition(ending)
            return head + ending[:-1], name
    return text, None
