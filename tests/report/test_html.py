"""The page: what is in it, that it needs nothing else, and that its script works in a real browser."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kc.errors import RunError
from kc.report import html_scores
from kc.report.charts import Point, Series, cost_chart, line_chart
from kc.report.examples import save_example, save_prediction
from kc.report.html import write_report
from kc.report.merge import merge_seeds
from kc.report.pictures import ERRORS, error_uri, errors
from kc.report.records import Results
from kc.report.sentences import sentences
from kc.report.style import looks
from kc.types import VOID, ClassInfo

Make = Callable[..., Results]
BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


class Reader(HTMLParser):
    """Collects tags, ids, text and the targets of links; fails on a tag closed that was not opened."""

    VOID_TAGS = frozenset({"meta", "img", "br", "link", "line", "circle", "polyline", "polygon"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.anchors: list[str] = []
        self.stack: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = {k: v or "" for k, v in attrs}
        if "id" in found:
            self.ids.append(found["id"])
        if "src" in found:
            self.sources.append(found["src"])
        if "href" in found:
            self.anchors.append(found["href"])
        if tag not in self.VOID_TAGS:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def written(run: Path, results: Results) -> tuple[str, Reader]:
    write_report(run, results, run / "report.html")
    text = (run / "report.html").read_text(encoding="utf-8")
    return text, Reader(text)


def panoptic_examples(run: Path, methods: list[str]) -> None:
    infos = [ClassInfo(0, "background", background=True), ClassInfo(1, "a <b> & ü", is_thing=True)]
    rng = np.random.default_rng(0)
    for k in range(3):
        truth = np.zeros((20, 30, 2), np.int32)
        truth[4:12, 5:20] = (1, 1)
        truth[15:, :4, 0] = VOID
        save_example(run / "examples", f"test/{k}", rng.integers(0, 256, (20, 30, 3), dtype=np.uint8), truth, infos)
        for method in methods:
            save_prediction(run / "examples", f"test/{k}", method, truth[::-1].copy())


def test_the_page_is_whole_and_alone(make_results: Make, tmp_path: Path) -> None:
    results = make_results(4)
    panoptic_examples(tmp_path, ["finetune", "knn"])
    text, page = written(tmp_path, results)
    assert not re.search(r"https?://|url\(|@import|<link|src=\"(?!data:)", text)
    assert len(page.sources) == 3 * (2 + 2 * 2)  # image and truth; answer and errors of two methods
    assert page.tags.count("svg") == 5 + 2 + 2
    assert page.tags.count("h1") == 1
    assert {a.lstrip("#") for a in page.anchors} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    for sentence in sentences(results):
        assert sentence in page.text
    for words in (
        "overlapped",
        "background, zero",
        "Chaudhry",
        "the score before any training was not measured",
        "lite0",
    ):
        assert words in page.text
    assert "NaN" not in re.sub(r"<script>.*</script>", "", text, flags=re.S)
    assert "a &lt;b&gt; &amp; ü" in text
    assert "not labelled" in page.text


def test_without_examples_and_with_one_task(make_results: Make, tmp_path: Path) -> None:
    _, page = written(tmp_path, make_results(1, methods=("knn",)))
    assert "examples" not in page.ids
    assert "There is one task" in page.text
    results = make_results(2, methods=("knn",))
    results.methods[0].per_class, results.methods[0].final = {}, {}
    results.methods[0].matrix = [[None, None], [None, None]]
    results.methods[0].seen = [None, None]
    _, page = written(tmp_path, results)
    assert "classes" not in page.ids
    assert "final" not in page.ids


def test_classification_examples(make_results: Make, tmp_path: Path) -> None:
    infos = [ClassInfo(0, "cat"), ClassInfo(1, "dog")]
    save_example(tmp_path / "examples", "a", np.zeros((9, 9, 3), np.uint8), 0, infos)
    save_prediction(tmp_path / "examples", "a", "knn", 0)
    save_prediction(tmp_path / "examples", "a", "finetune", 1)
    text, _ = written(tmp_path, make_results(2, methods=("finetune", "knn")))
    assert '<span class="wrong">finetune: dog</span>' in text
    assert '<span class="right">knn: cat</span>' in text


def test_names_cannot_inject(make_results: Make, tmp_path: Path) -> None:
    evil = "<script>x</script>\"'&$title"
    results = make_results(2, methods=(evil,))
    data = results.model_dump(mode="json", by_alias=True)
    data |= {"benchmark": evil, "config": {evil: evil}, "versions": {evil: evil}}
    data["tasks"][1] = [evil]
    data["methods"][0]["per_class"] = {evil: [0.5, 0.5]}
    data["methods"][0]["metric"] = evil
    data["methods"][0]["final"] = {evil: 0.5}
    data["methods"][0]["undefined"] = {"forward_transfer": evil}
    text, page = written(tmp_path, Results.model_validate(data))
    assert page.tags.count("script") == 1
    assert "<script>x" not in text
    assert html.escape(evil) in text


def test_a_method_shows_only_the_settings_of_its_own(make_results: Make, tmp_path: Path) -> None:
    results = make_results(2, methods=("finetune", "knn"))
    results.config = {"epochs": 3, "lr": None}
    results.methods[0].config = {"epochs": 3, "lr": None}
    results.methods[1].config = {"epochs": 9, "lr": None, "k": 8}
    _, page = written(tmp_path, results)
    assert "Configuration of finetune" not in page.text
    assert page.text.split("Configuration of knn, beside that")[1].startswith("epochs9k8\n")


def test_many_long_names_are_counted_in_the_title(make_results: Make, tmp_path: Path) -> None:
    text, _ = written(tmp_path, make_results(2, methods=tuple(f"a method with settings {i}" for i in range(5))))
    assert "<h1>5 methods compared</h1>" in text


def test_a_large_vocabulary_is_folded(make_results: Make, tmp_path: Path) -> None:
    results = make_results(40, methods=("knn",))
    text, page = written(tmp_path, results)
    assert "<details><summary>41 classes" in text
    assert "nine 39" in page.text
    assert len(text) < 1_000_000


def test_the_number_of_pictures_is_limited_and_said(make_results: Make, tmp_path: Path) -> None:
    panoptic_examples(tmp_path, ["knn"])
    write_report(tmp_path, make_results(2, methods=("knn",)), tmp_path / "r.html", max_examples=2)
    assert "2 of 3 stored examples." in (tmp_path / "r.html").read_text()


def test_no_place_to_write(make_results: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        write_report(tmp_path, make_results(2), tmp_path / "file" / "report.html")


def test_chart_points_by_hand() -> None:
    nan = np.full(3, np.nan)
    svg = line_chart([Series("a & b", "t0", np.array([np.nan, 0.0, 1.0]), nan)], "label", 100)
    assert svg.count("<circle") == 2
    assert 'data-tip="a &amp; b, after task 3: 100.0"' in svg
    assert 'aria-label="a &amp; b: 0.0 after task 2, 100.0 after task 3"' in svg
    heights = [float(v) for v in re.findall(r'cy="([\d.]+)"', svg)]
    assert heights == [230.0, 10.0]


def test_a_band_ends_with_the_axis() -> None:
    svg = line_chart([Series("a", "t0", np.array([0.05, 0.95]), np.array([0.2, 0.2]))], "label", 100)
    found = re.search(r'<polygon points="([^"]+)"', svg)
    assert found
    assert [p.split(",")[1] for p in found[1].split()] == ["175.0", "10.0", "65.0", "230.0"]


def test_scores_that_nothing_has_are_no_row(make_results: Make, tmp_path: Path) -> None:
    results = make_results(2, methods=("finetune", "knn"))
    results.methods[0].final = {"miou": 0.5, "ap": None}
    results.methods[1].final = {"pixel_accuracy": 0.75, "miou_old": 0.125, "miou": 0.25, "ap": None}
    text, _ = written(tmp_path, results)
    table = text[text.index('id="final"') : text.index('id="protocol"')]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table)
    assert [(name, re.findall("<td>(.*?)</td>", cells)) for name, cells in rows] == [
        ("mIoU", ["50.0", "25.0"]),
        ("mIoU old classes", ["–", "12.5"]),
        ("pixel accuracy", ["–", "75.0"]),
    ]


def test_the_protocol_says_what_was_compared(make_results: Make, tmp_path: Path) -> None:
    results = make_results(2)
    results.config = {"stream": "online", "encoder": "lite0", "limit_images": None, "decoder": "fpn"}
    _, page = written(tmp_path, results)
    facts = page.text.split("Setting", 1)[1].split("Tasks, in order")[0]
    assert [word for word in ("Stream", "online", "Encoder", "lite0", "Decoder", "fpn") if word not in facts] == []
    assert "at most" not in facts


def test_cost_chart_by_hand() -> None:
    points = [Point("a & b", "m0", 1.0, 1.0, math.nan, "a & b: 100.0 for 1 s"), Point("c", "m1", 100.0, 0.5, 0.1, "c")]
    svg = cost_chart(points, "label", "seconds", "s", 100)
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="6" data-tip="([^"]*)"', svg)
    assert circles == [("48.0", "10.0", "a &amp; b: 100.0 for 1 s"), ("350.0", "120.0", "c")]
    assert [t for t in re.findall(r">([^<>]+)</text>", svg) if t.endswith(" s")] == ["1 s", "10 s", "100 s"]
    assert svg.count('class="lead"') == 1  # a bar only where there is a deviation
    assert 'y1="98.0" y2="142.0"' in svg


def test_a_method_without_an_average_has_no_place_in_the_cost_chart(make_results: Make, tmp_path: Path) -> None:
    results = make_results(2, methods=("finetune", "knn"))
    results.methods[0].metrics.average = None
    text, _ = written(tmp_path, results)
    assert text.count('class="series dots m1"') == 2
    assert 'class="series dots m0"' not in text
    results.methods[1].metrics.average = None
    assert "cost" not in written(tmp_path, results)[1].ids


def test_kinds_of_errors_by_hand() -> None:
    infos = [ClassInfo(0, "background", background=True), ClassInfo(1, "a"), ClassInfo(2, "b")]
    truth = np.array([[0, 1, 1, 1, 0, VOID]])
    said = np.array([[0, 1, 0, 2, 1, 1]])
    assert errors(truth, said, infos).tolist() == [[0, 0, 1, 3, 2, 4]]
    assert errors(truth, said, infos[1:]).tolist() == [[0, 0, 3, 3, 3, 4]]  # without a background all are confusions
    assert errors(np.array([[1, 2]]), np.array([[VOID, 2]]), infos[1:]).tolist() == [[1, 0]]
    instances = np.array([[[1, 1], [1, 2]]])
    assert errors(instances, instances[..., ::-1] * 0 + [1, 7], infos).tolist() == [[0, 0]]


def test_an_error_map_is_embedded_as_it_is() -> None:
    kinds = np.array([[0, 1, 2], [3, 4, 0]], np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(error_uri(kinds).partition(",")[2]))) as image:
        colors = np.array(image.convert("RGB")).reshape(-1, 3).tolist()
    assert colors == [list(ERRORS[k][1]) for k in kinds.ravel()]


def test_the_share_of_right_pixels_is_said(make_results: Make, tmp_path: Path) -> None:
    truth = np.array([[0, 1, 1, VOID]])
    save_example(
        tmp_path / "examples", "a", np.zeros((1, 4, 3), np.uint8), truth, [ClassInfo(0, "o"), ClassInfo(1, "i")]
    )
    save_prediction(tmp_path / "examples", "a", "knn", np.array([[0, 1, 0, 1]]))
    _, page = written(tmp_path, make_results(2, methods=("knn",)))
    assert "knn, 66.7 % right" in page.text
    assert all(name in page.text for name, _ in ERRORS)


def test_names_that_differ_at_the_end_do_so_beside_their_lines() -> None:
    nan = np.full(2, np.nan)
    lines = [Series(f"mask2former #{i}", "m0", np.array([0.5, 0.5]), nan, end=f"mask2former #{i}") for i in (1, 2)]
    assert re.findall(r'class="end"[^>]*>([^<]*)<', line_chart(lines, "label", 100)) == ["mask2…er #1", "mask2…er #2"]


PROBE = """
<script>
addEventListener("load", () => {
  const out = {};
  const heads = [...document.querySelectorAll("#comparison thead th")];
  const head = (name) => heads.find(h => h.textContent.startsWith(name));
  const order = () => [...document.querySelectorAll("#comparison tbody tr")].map(r => r.cells[0].textContent);
  out.before = order();
  head("Average").querySelector("button").click();
  out.average = order(); out.sort = head("Average").getAttribute("aria-sort");
  head("Average").querySelector("button").click();
  out.reversed = order();
  head("Intransigence").querySelector("button").click();
  out.undefined_last = order();
  head("Method").querySelector("button").click();
  out.names = order();
  const chart = document.querySelector("svg.chart"), series = chart.querySelectorAll("g.series");
  const box = series[0].querySelector("circle").getBoundingClientRect();
  const at = { bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  chart.dispatchEvent(new PointerEvent("pointermove", at));
  out.tip = document.getElementById("tip").textContent;
  out.shown = document.getElementById("tip").style.visibility;
  series[1].dispatchEvent(new MouseEvent("click", at));
  out.pressed = [...series].map(g => g.getAttribute("aria-pressed"));
  out.dim = chart.classList.contains("dim");
  series[2].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
  out.key = document.getElementById("tip").textContent;
  series[1].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  out.released = [...series].map(g => g.getAttribute("aria-pressed"));
  const dot = document.querySelector("#cost g.dots");
  dot.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  out.dot = dot.getAttribute("aria-pressed");
  dot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  out.price = document.getElementById("tip").textContent;
  out.overflow = document.documentElement.scrollWidth - innerWidth;
  out.images = [...document.images].every(i => i.complete && i.naturalWidth > 0);
  out.errors = window.problems;
  const pre = document.createElement("pre");
  pre.id = "out"; pre.textContent = JSON.stringify(out);
  document.body.replaceChildren(pre);
});
</script>"""


def opened(page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    """The page after its scripts ran, as `stdout`, and what the console said, in `stderr`; without a network."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_sorting_curves_and_keys_in_a_browser(make_results: Make, tmp_path: Path) -> None:
    panoptic_examples(tmp_path, ["knn"])
    results = make_results(3, methods=("finetune", "joint", "knn"))
    write_report(tmp_path, results, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    watch = (
        "<script>window.problems = []; addEventListener('error', e => problems.push(e.message)); "
        "addEventListener('securitypolicyviolation', e => problems.push(e.violatedDirective));</script>"
    )
    text = text.replace("<style>", watch + "<style>", 1).replace("</body>", PROBE + "</body>")
    (tmp_path / "probe.html").write_text(text)
    done = opened(tmp_path / "probe.html", tmp_path / "profile")
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, flags=re.S)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    out = json.loads(html.unescape(found[1]))
    assert out["errors"] == []
    assert "CONSOLE" not in done.stderr
    by_average = sorted(results.methods, key=lambda m: -(m.metrics.average or 0))
    assert out["before"] == ["finetune", "joint", "knn"]
    assert out["average"] == [m.name for m in by_average]
    assert out["sort"] == "descending"
    assert out["reversed"] == out["average"][::-1]
    assert out["undefined_last"][-1] == "joint"
    assert out["names"] == ["finetune", "joint", "knn"]
    fine = results.methods[0].seen[0]
    assert fine is not None
    assert out["tip"] == f"finetune, after task 1: {100 * fine:.1f}"
    assert out["shown"] == "visible"
    assert out["pressed"] == ["false", "true", "false"]
    assert out["dim"] is True
    assert out["key"].startswith("knn, after task 2: ")
    assert out["released"] == ["false", "false", "false"]
    assert out["dot"] == "true"
    assert out["price"].startswith("finetune: ")
    assert out["price"].endswith(" s")
    assert out["overflow"] <= 0
    assert out["images"] is True


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_nothing_is_wider_than_a_phone_or_than_paper(make_results: Make, tmp_path: Path) -> None:
    panoptic_examples(tmp_path, ["finetune", "knn"])
    names = ("finetune", "knn (fuse_lambda 0.7, fuse_threshold 1.01)")
    results = make_results(10, methods=names, seeds=(0, 1))
    results.config["a_rather_long_setting"] = "/a/long/path/" * 9
    for method in results.methods:
        method.final |= {f"score_of_kind_{i}": 0.5 for i in range(20)}
    write_report(tmp_path, results, tmp_path / "report.html")
    # A window has a least width, a frame has none. What the frame measures comes out as a message.
    measure = (
        "<script>addEventListener('load', () => { for (const d of document.querySelectorAll('details')) d.open = true;"
        "parent.postMessage([innerWidth, document.documentElement.scrollWidth], '*'); });</script></body>"
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8").replace("</body>", measure)
    (tmp_path / "phone.html").write_text(text, encoding="utf-8")
    assert text.count("@media print {") == 1
    (tmp_path / "paper.html").write_text(text.replace("@media print {", "@media all {"), encoding="utf-8")
    frames = [
        f'<iframe src="{name}.html" style="border: 0" width="{width}" height="780"></iframe>'
        for name, width in (("phone", 360), ("paper", 794))  # 794: A4
    ]
    (tmp_path / "both.html").write_text(
        "<script>addEventListener('message', e => { document.body.dataset[`of${e.data[0]}`] = e.data[1]; });</script>"
        f"<body>{''.join(frames)}</body>"
    )
    said = opened(tmp_path / "both.html", tmp_path / "profile").stdout
    widths = {int(frame): int(content) for frame, content in re.findall(r'data-of(\d+)="(\d+)"', said)}
    assert set(widths) == {360, 794}
    assert all(content <= frame for frame, content in widths.items()), widths


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_console_error_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "wrong.html").write_text("<body><script>undefined.nothing</script></body>")
    assert "CONSOLE" in opened(tmp_path / "wrong.html", tmp_path / "profile").stderr


def test_a_run_on_ten_thousand_images_makes_a_page_that_can_be_sent(make_results: Make, tmp_path: Path) -> None:
    """As many classes, tasks and examples as such a run has: pictures of noise, which nothing compresses."""
    results = make_results(50, methods=("finetune", "joint", "knn", "lwf"), seeds=(0, 1))
    results.config["limit_images"] = 10_000
    rng = np.random.default_rng(0)
    infos = [ClassInfo(i, f"class, {i} ü") for i in range(150)]
    for k in range(13):
        truth = rng.integers(0, 150, (270, 360)).astype(np.int64)
        name = f"test/{k}"
        save_example(tmp_path / "examples", name, rng.integers(0, 256, (270, 360, 3), dtype=np.uint8), truth, infos)
        for method in ("finetune", "joint", "knn", "lwf"):
            save_prediction(tmp_path / "examples", name, method, np.roll(truth, 1))
    write_report(tmp_path, results, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 20e6


def test_old_and_new_classes_have_the_same_columns(make_results: Make) -> None:
    results = make_results(3, methods=("finetune",))
    page = html_scores.confusion(results, merge_seeds(results))
    cells = re.findall("<td>([^<]*)</td>", page)
    assert cells == ["old classes", "50.0", "10.0", "40.0", "0.0", "new classes", "75.0", "0.0", "25.0", "0.0"]


def test_two_tasks_have_no_curve_of_forgetting(make_results: Make) -> None:
    for n, curves in ((2, 1), (3, 2)):
        merged = merge_seeds(make_results(n, methods=("knn", "replay")))
        assert html_scores.growth(merged, looks(["knn", "replay"])).count("<figure>") == curves


def test_whole_images_have_no_decoder_and_no_proposals(make_results: Make, tmp_path: Path) -> None:
    results = make_results(2)
    results.config = {"decoder": "fpn", "proposals": "superpixels"}
    for kind, shown in (("semantic", 1), ("classification", 0)):
        results.task_kind = kind  # type: ignore[assignment]
        write_report(tmp_path, results, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert page.count('<th scope="row">Decoder</th>') == page.count('<th scope="row">Proposals</th>') == shown
