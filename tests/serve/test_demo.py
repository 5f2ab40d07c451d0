"""The page: what it answers, what it refuses, and a whole visit in a real browser."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from kc.commands.serve import ServeConfig, listening
from kc.config import RunConfig
from kc.errors import KcError
from kc.memory.disk import Memory
from kc.predict.examples import ExampleImage
from kc.predict.opening import open_memory
from kc.predict.teach import create, remember
from kc.resolve import with_options
from kc.serve import demo as demos
from kc.serve.app import app
from kc.serve.demo import DemoSession
from kc.session import Facts

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
MARK = {"X-KC": "1"}


def texture(kind: int, size: int = 96) -> np.ndarray[Any, np.dtype[np.uint8]]:
    y, x = np.mgrid[:size, :size]
    wave = np.sin((x if kind else y) / (2.0 if kind else 5.0))
    color = np.array((220, 60, 40) if kind else (40, 90, 220))
    noise = np.random.default_rng(kind).integers(-10, 11, (size, size, 3))
    return np.clip(color * (0.6 + 0.4 * wave[..., None]) + noise, 0, 255).astype(np.uint8)


def png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


BOTH = png(np.concatenate([texture(0), texture(1)], axis=1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory that knows the left thing only."""
    path = tmp_path_factory.mktemp("made") / "memory"
    run = with_options(RunConfig(methods="knn", encoder="lite0", proposals="superpixels", keys="pooled"))
    remember(
        path,
        create(path, run, Facts("", "semantic", (96, 96), {})),
        [("blue waves", ExampleImage("a.png", texture(0)))],
    )
    return path


@pytest.fixture
def memory(made: Path, tmp_path: Path) -> Path:
    """The same for each test, which may change it."""
    return Path(shutil.copytree(made, tmp_path / "memory"))


@pytest.fixture
def client(memory: Path) -> TestClient:
    return TestClient(app(DemoSession(open_memory(memory)), ["127.0.0.1"]), base_url="http://127.0.0.1")


def test_a_visit_without_a_browser(client: TestClient, memory: Path) -> None:
    assert client.get("/api/facts", headers=MARK).json()["names"][0]["name"] == "blue waves"
    said = client.post("/api/look", content=BOTH, headers=MARK).json()
    assert (said["width"], said["height"]) == (192, 96)
    assert [entry["name"] for entry in said["views"]["answer"]["legend"]] == ["blue waves"]
    token = said["token"]

    chosen: list[int] = []
    for x in np.linspace(0.53, 0.98, 10):
        for y in np.linspace(0.05, 0.95, 10):
            point = {"token": token, "x": x, "y": y, "whole": False, "selection": chosen}
            more = client.post("/api/select", json=point, headers=MARK).json()
            if len(more["selection"]) > len(chosen):  # a second click on a region takes it out again
                chosen = more["selection"]
                last = more
    assert last["neighbours"][0]["name"] == "blue waves"
    assert sum(n["share"] for n in last["neighbours"]) <= 1 + 1e-9
    taught = client.post("/api/teach", json={"token": token, "selection": chosen, "name": " röd,  2 "}, headers=MARK)
    legend = {entry["name"]: entry["share"] for entry in taught.json()["views"]["answer"]["legend"]}
    assert legend["röd, 2"] > 0.3
    assert Memory.open(memory).class_names == {0: "blue waves", 1: "röd, 2"}

    only = client.post("/api/again", json={"token": token, "names": r"röd\, 2"}, headers=MARK).json()
    assert {entry["name"] for entry in only["views"]["answer"]["legend"]} <= {"röd, 2", "nothing known"}
    gone = client.post("/api/forget", json={"token": token, "name": "röd, 2"}, headers=MARK).json()
    assert "rows erased, in none of" in gone["said"]
    assert Memory.open(memory).class_names == {0: "blue waves"}
    left = client.post("/api/forget", json={"token": token, "name": "blue waves"}, headers=MARK).json()
    assert [entry["name"] for entry in left["views"]["answer"]["legend"]] == ["nothing known"]
    assert left["facts"] == {"names": [], "views": ["memory"], "rows": 0}
    whole = {"token": token, "x": 0.5, "y": 0.5, "whole": True, "selection": []}
    first = client.post("/api/select", json=whole, headers=MARK).json()["selection"]
    taught = client.post("/api/teach", json={"token": token, "selection": first, "name": "all"}, headers=MARK)
    assert [e["name"] for e in taught.json()["views"]["answer"]["legend"]] == ["all"]
    assert sorted(p.name for p in memory.parent.iterdir()) == ["memory"]  # nothing of a picture is written anywhere


def test_what_is_refused(client: TestClient, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.post("/api/look", content=BOTH).status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/../../etc/passwd").status_code == 404
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for content in (b"", b"GIF89a", b"<svg/>", BOTH[: len(BOTH) // 2]):
        answer = client.post("/api/look", content=content, headers=MARK)
        assert (answer.status_code, answer.json()["error"][:20]) == (400, "this is not a whole ")
    token = client.post("/api/look", content=BOTH, headers=MARK).json()["token"]
    for path, value in (
        ("select", {"token": token, "x": 2, "y": 0, "whole": True, "selection": []}),
        ("select", {"token": token, "x": 0.1, "y": 0.1, "whole": True, "selection": ["/etc"]}),
        ("select", {"token": "../x", "x": 0.1, "y": 0.1, "whole": True, "selection": []}),
        ("teach", {"token": token, "selection": [], "name": "x"}),
        ("teach", {"token": token, "selection": [0], "name": " "}),
        ("teach", {"token": token, "selection": [0], "name": "a\x00"}),
        ("forget", {"token": token, "name": "nobody"}),
        ("again", {"token": token, "names": "never taught"}),
        ("again", [1]),
    ):
        answer = client.post(f"/api/{path}", json=value, headers=MARK)
        assert answer.status_code == 400, (path, value)
        assert answer.json()["error"]
    assert client.get("/api/teach", headers=MARK).status_code == 405
    monkeypatch.setattr("kc.serve.app.MAX_BYTES", 1000)
    assert client.post("/api/look", content=BOTH, headers=MARK).status_code == 413
    monkeypatch.setattr("kc.serve.app.MAX_BYTES", 10**6)
    monkeypatch.setattr(demos, "MAX_PIXELS", 100)
    assert "at most 100" in client.post("/api/look", content=BOTH, headers=MARK).json()["error"]
    assert Memory.open(memory).class_names == {0: "blue waves"}


def test_it_listens_on_this_computer_alone(memory: Path) -> None:
    assert ServeConfig(memory=memory).host == "127.0.0.1"
    with listening(ServeConfig(memory=memory, port=0)) as first:
        host, port = first.getsockname()
        assert host == "127.0.0.1"
        first.listen()
        with pytest.raises(KcError, match="try another --port"):
            listening(ServeConfig(memory=memory, port=port))


@pytest.fixture
def address(memory: Path) -> Iterator[str]:
    with listening(ServeConfig(memory=memory, port=0)) as opened:
        server = uvicorn.Server(uvicorn.Config(app(DemoSession(open_memory(memory)), ["127.0.0.1"]), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_visit_in_a_browser(address: str, memory: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    picture = tmp_path / "both.png"
    picture.write_bytes(BOTH)
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(address)
        page.get_by_text("blue waves: ").wait_for()
        page.set_input_files("#file", picture)
        live = page.locator(".stack.live").first
        live.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_label("a click takes the whole area").uncheck()
        box = live.bounding_box()
        assert box is not None
        n = 0
        for x in (0.6, 0.7, 0.8, 0.9):
            for y in (0.2, 0.5, 0.8):
                before = page.locator("#what").inner_text()
                live.click(position={"x": x * box["width"], "y": y * box["height"]})
                page.wait_for_function("t => document.getElementById('what').textContent !== t", arg=before)
                n += 1
        assert page.locator("#neighbours tr").count() > 1
        page.screenshot(path=tmp_path / "selected.png", full_page=True)
        page.get_by_label("Call it").fill("red <b>é</b>, stripes")
        page.get_by_role("button", name="Remember").click()
        page.get_by_text("red <b>é</b>, stripes: ").first.wait_for()
        page.locator(".legend").get_by_text("red <b>é</b>, stripes").wait_for()
        assert "red <b>é</b>, stripes" in Memory.open(memory).class_names.values()
        page.get_by_role("button", name="Forget red").click()
        page.get_by_text("rows erased, in none of").wait_for()
        assert Memory.open(memory).class_names == {0: "blue waves"}
        page.get_by_label("Names").fill("no such thing")
        page.get_by_role("button", name="Ask").click()
        page.get_by_text("unknown name").wait_for()
        browser.close()
    assert [text for text in said if "400" not in text] == []
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
