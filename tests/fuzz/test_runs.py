"""Records and configs of runs with anything in them: the only error is KcError, and no page has a tag of theirs."""

from __future__ import annotations

import contextlib
import json
import tempfile
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, seed
from hypothesis import strategies as st

from kc.config import RunConfig
from kc.errors import KcError
from kc.parsing import parse, read_config
from kc.report.combine import combine, open_runs
from kc.report.html import write_page
from kc.report.records import metrics_csv
from kc.report.tables import latex, markdown, show, table_csv
from kc.resolve import resolve
from tests.fuzz.test_data_files import anything, fuzz, numbers
from tests.report.conftest import build

EVIL = ["<script>x</script>", '"><img src=x>', "\x1b[2J", "=1+1", "\\input{x}", "a|b\n", "$x^", "../x", "", "x" * 300]
RECORD = build(2, ("knn", "replay"), (0, 1)).model_dump(mode="json", by_alias=True)
values = st.one_of(st.sampled_from(EVIL), numbers, anything, st.just(10**400))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a nested record is."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


PLACES = places(RECORD)


@st.composite
def records(draw: st.DrawFn) -> Any:
    """The record with some values exchanged, or names of it: the same everywhere."""
    record = deepcopy(RECORD)
    for path in draw(st.lists(st.sampled_from(PLACES[1:]), max_size=3)):
        place = record
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = draw(values)
    text = json.dumps(record)
    for name in draw(st.lists(st.sampled_from(["knn", "zero", "digit-scenes", "miou", "epochs"]), max_size=3)):
        text = text.replace(f'"{name}"', json.dumps(draw(st.sampled_from(EVIL))))
    return text


class Tags(HTMLParser):
    """Counts the tags that no page of ours has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts = self.strange = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.strange += tag == "img" or any(name.startswith("on") for name, _ in attributes)


@fuzz
@seed(1)
@given(records())
def test_records(content: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "results.json").write_text(content)
        try:
            comparison = combine(open_runs([folder]))
        except KcError:
            return
        write_page(comparison, folder / "report.html")
        page = Tags((folder / "report.html").read_text())
        assert (page.scripts, page.strange) == (1, 0)
        latex(comparison.results), markdown(comparison.results), table_csv(comparison.results)
        metrics_csv(comparison.results, folder / "metrics.csv")
        with contextlib.redirect_stdout(None):
            show(comparison.results)


SETTINGS = {"lr": 0.1, "epochs": 2, "methods": "knn,ewc", "tasks": 2, "benchmark": "digits", "seed": 0, "out": "x"}
given_options = st.one_of(
    anything,
    st.fixed_dictionaries({}, optional={k: st.one_of(st.just(v), values) for k, v in SETTINGS.items()}),
    st.dictionaries(
        st.sampled_from([*RunConfig.__dataclass_fields__, "ewc", "knn", "lambda"]),
        st.one_of(values, st.dictionaries(st.sampled_from(["lambda", "k", "x"]), values, max_size=2)), max_size=3,
    ),
)  # fmt: skip


@fuzz
@seed(1)
@given(st.one_of(given_options.map(lambda x: yaml.safe_dump(x).encode()), st.binary(max_size=80)))
def test_configs(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "config.yaml"
        path.write_bytes(content)
        with contextlib.suppress(KcError):
            parse(["--config", str(path)])
        with contextlib.suppress(KcError):
            resolve(read_config(RunConfig, path.parent))
