"""Names from outside cannot steer a terminal: what is printed has none of their control characters."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.table import Table

from kc.errors import KcError, visible
from kc.outside import one_line
from kc.process import Clean, Patient
from kc.progress import Plain

EVIL = "\x1b]0;x\x07\x1b[2J\x9b31m\u202e\x7f\ra"
SPELLED = r"\x1b]0;x\x07\x1b[2J\x9b31m\u202e\x7f\ra"


def on_a_terminal(*command: str) -> str:
    """What a terminal gets from `python -m kc`, standard output and error."""
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-m", "kc", *command], stdout=theirs, stderr=theirs, check=False)
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 1 << 16):
            said += block
    except OSError:  # the end, on Linux
        pass
    os.close(ours)
    return said.decode()


def test_control_characters_are_spelled() -> None:
    assert visible(EVIL) == SPELLED
    assert visible("ü 梨\tb\n") == "ü 梨\tb\n"
    assert str(KcError(EVIL)) == SPELLED
    assert one_line(f"{EVIL}\n\x1b") == SPELLED.replace(r"\r", " ") + r" \x1b"


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_manifest_cannot_steer_a_terminal(command: str, tmp_path: Path) -> None:
    content = {
        "name": "f", "task_kind": "classification", "source": {"reader": "folder", "folder": "."}, "licence": EVIL,
        "splits": {"train": {"path": "."}}, "classes": [{"id": 0, "name": EVIL}], "input_size": [8, 8],
    }  # fmt: skip
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(content))
    said = on_a_terminal("data", command, str(tmp_path / "f.yaml"), "--data-root", str(tmp_path))
    assert r"\x1b[2J\x9b31m\u202e" in said
    assert not [sign for sign in ("\x1b]0", "\x1b[2J", "\x9b", "\u202e", "\x07") if sign in said]


def test_tables_and_lines_are_clean_and_keep_their_own_colours() -> None:
    out = io.StringIO()
    console = Plain(file=out)
    console._force_terminal = True  # as on a terminal
    table = Table(EVIL)
    table.add_row(EVIL)
    console.print(table)
    console.say(EVIL, style="bold")
    assert out.getvalue().count(r"\x1b]0;x") == 3
    assert "\x1b]0" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_libraries_may_begin_a_line_anew_on_standard_error_without_colours() -> None:
    out, err = io.StringIO(), io.StringIO()
    Clean(Patient(out)).write("\r\x1b[31mred")
    Clean(Patient(err), logs=True).write("\r\x1b[31mred\r\x1b[2A")
    assert out.getvalue() == r"\r\x1b[31mred"
    assert err.getvalue() == "\r" + r"red\r\x1b[2A"
