"""The page: what it answers, what it refuses, and a whole visit in a real browser."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from kc.cli import main
from kc.commands.serve import ServeConfig, listening
from kc.config import RunConfig
from kc.data.readers.files import read_image
from kc.errors import DataError, KcError
from kc.memory.disk import Memory
from kc.predict.edit import create, forget, open_session, remember
from kc.predict.examples import ExampleImage
from kc.predict.opening import open_memory
from kc.predict.predictor import MemoryPredictor
from kc.resolve import with_options
from kc.serve import demo as demos
from kc.serve.app import ACTIONS, HEADERS, SMALL, Hurried, app
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
    return TestClient(app(DemoSession(open_memory(memory)), []), base_url="http://127.0.0.1")


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
    taught = client.post("/api/remember", json={"token": token, "selection": chosen, "name": " röd,  2 "}, headers=MARK)
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
    taught = client.post("/api/remember", json={"token": token, "selection": first, "name": "all"}, headers=MARK)
    assert [e["name"] for e in taught.json()["views"]["answer"]["legend"]] == ["all"]
    assert sorted(p.name for p in memory.parent.iterdir()) == ["memory"]  # nothing of a picture is written anywhere


def test_nothing_is_shown_of_what_another_process_erased(
    client: TestClient, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in answers that were given before, nor in one that is under way, nor as a picture that is kept."""
    reader = Memory.open(memory)
    remember(memory, open_session(memory), [("red", ExampleImage("b.png", texture(1)))])
    said = client.post("/api/look", content=BOTH, headers=MARK).json()
    names = lambda said: {entry["name"] for entry in said["views"]["answer"]["legend"]}  # noqa: E731
    token, point = said["token"], {"x": 0.8, "y": 0.5, "whole": True, "selection": []}
    before = client.post("/api/select", json={"token": token, **point}, headers=MARK).json()
    assert {n["name"] for n in before["neighbours"]} <= {"red", "blue waves"}
    assert not reader.current
    assert main(["forget", "red", "--memory", str(memory)]) == 0
    again = client.post("/api/again", json={"token": token, "names": ""}, headers=MARK).json()
    assert names(again) == {"blue waves"}
    after = client.post("/api/select", json={"token": token, **point}, headers=MARK).json()
    assert {n["name"] for n in after["neighbours"]} == {"blue waves"}
    assert any("/red/" in n["sample"] for n in before["neighbours"])
    assert not any("/red/" in n["sample"] for n in after["neighbours"])
    assert [n["name"] for n in client.get("/api/facts", headers=MARK).json()["names"]] == ["blue waves"]

    remember(memory, open_session(memory), [("red", ExampleImage("b.png", texture(1)))])
    real, calls = MemoryPredictor.predict, []

    def predict(self: MemoryPredictor, *args: Any) -> Any:
        found = real(self, *args)
        calls.append(1)
        if len(calls) == 1:  # while the page is answered
            forget(memory, "red")
        return found

    monkeypatch.setattr(MemoryPredictor, "predict", predict)
    assert names(client.post("/api/look", content=BOTH, headers=MARK).json()) == {"blue waves"}
    assert len(calls) == 3  # the second view was told to open the memory again; then both


def test_thumbnails_of_erased_rows_are_dropped(memory: Path) -> None:
    demo = DemoSession(open_memory(memory))
    demo.pictures.small("train/1")
    assert demo.pictures.small.cache_info().currsize == 1
    assert demo.facts()["rows"] > 0
    assert main(["forget", "blue waves", "--memory", str(memory)]) == 0
    assert demo.facts()["rows"] == 0
    assert demo.pictures.small.cache_info().currsize == 0


def test_what_is_refused(client: TestClient, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.post("/api/look", content=BOTH).status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/../../etc/passwd").status_code == 404
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for content in (b"", b"GIF89a", b"<svg/>", BOTH[: len(BOTH) // 2]):
        answer = client.post("/api/look", content=content, headers=MARK)
        assert (answer.status_code, answer.json()["error"][:12]) == (400, "the picture:")
    token = client.post("/api/look", content=BOTH, headers=MARK).json()["token"]
    for path, value in (
        ("select", {"token": token, "x": 2, "y": 0, "whole": True, "selection": []}),
        ("select", {"token": token, "x": 0.1, "y": 0.1, "whole": True, "selection": ["/etc"]}),
        ("select", {"token": "../x", "x": 0.1, "y": 0.1, "whole": True, "selection": []}),
        ("remember", {"token": token, "selection": [], "name": "x"}),
        ("remember", {"token": token, "selection": [0], "name": " "}),
        ("remember", {"token": token, "selection": [0], "name": "a\x00"}),
        ("forget", {"token": token, "name": "nobody"}),
        ("again", {"token": token, "names": "never taught"}),
        ("again", [1]),
    ):
        answer = client.post(f"/api/{path}", json=value, headers=MARK)
        assert answer.status_code == 400, (path, value)
        assert answer.json()["error"]
    assert client.get("/api/remember", headers=MARK).status_code == 405
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
        with pytest.raises(KcError, match=f"--port {port}"):
            listening(ServeConfig(memory=memory, port=port))


def test_every_answer_has_the_headers_and_every_error_is_one_value(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: DemoSession) -> None:
        raise RuntimeError("at 0x7f")

    monkeypatch.setattr(DemoSession, "facts", broken)
    client = TestClient(client.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    for status, method, path, headers in (
        (200, "GET", "/", {}),
        (404, "GET", "/x", {}),
        (405, "POST", "/", {}),
        (403, "GET", "/api/facts", {}),
        (500, "GET", "/api/facts", MARK),
        (400, "POST", "/api/look", MARK),
        (400, "GET", "/", {"Host": "evil.example"}),
        (400, "POST", "/api/look", MARK | {"Origin": "http://evil.example"}),
        (400, "POST", "/api/look", MARK | {"Origin": "null"}),
    ):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == status, path
        assert answer.headers.items() >= {k.lower(): v for k, v in HEADERS.items()}.items(), path
        assert status == 200 or list(answer.json()) == ["error"]
        assert "0x7f" not in answer.text
    for host in ("[::1]:7860", "192.168.1.5", "localhost:1", "127.0.0.1"):
        assert client.get("/", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


GOOD: dict[str, Any] = {"token": "t", "names": "", "x": 0.5, "y": 0.5, "whole": True, "selection": [0], "name": "n"}
WRONG: dict[str, list[str]] = {
    **{name: ["null", "1", "[]", '"' + "x" * 20_000 + '"'] for name in ("token", "names", "name")},
    **{name: ["null", "true", '"0.5"', "-0.1", "1e999", "1" * 400, "[1]", "{}"] for name in ("x", "y")},
    "whole": ["null", "0", '"false"'],
    "selection": ["null", "{}", "[true]", "[0.5]", "[-1]", "[[0]]", '"0"', f"[{'9' * 400}]"],
}


@pytest.mark.parametrize("action", list(ACTIONS))
def test_a_value_of_another_type_is_named(client: TestClient, action: str) -> None:
    def sent(name: str, text: str) -> Any:
        fields = {field: json.dumps(GOOD[field]) for field in ACTIONS[action]} | {name: text}
        body = "{" + ",".join(f'"{field}":{value}' for field, value in fields.items()) + "}"
        return client.post(f"/api/{action}", content=body, headers=MARK)

    for name in ACTIONS[action]:
        for text in WRONG[name]:
            answer = sent(name, text)
            assert (answer.status_code, answer.json()["error"].split(":")[0]) == (400, name), text[:40]
        for text in ("[" * 100_000, "NaN", "1" * 5000, '"\\ud800"', ""):
            answer = sent(name, text)
            assert (answer.status_code, list(answer.json())) == (400, ["error"]), text[:40]
    for content in (b"", b"null", b"[]", b"7", b'"x"', b"\xff", b"{" * 1000, b"{}"):
        assert client.post(f"/api/{action}", content=content, headers=MARK).status_code == 400
    assert client.post(f"/api/{action}", content=b" " * (SMALL + 1), headers=MARK).status_code == 413


def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def test_pictures_are_read_as_kc_predict_reads_them(tmp_path: Path) -> None:
    image = Image.fromarray(texture(0, 48)).crop((0, 0, 40, 48))
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = image.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    other = Image.fromarray(texture(1, 48)).crop((0, 0, 40, 48))
    read = {
        "cmyk": saved(image.convert("CMYK"), "JPEG"),
        "palette": saved(palette, "PNG", transparency=bytes(range(256))),
        "rgba": saved(alpha, "WEBP", lossless=True),
        "la": saved(alpha.convert("LA"), "PNG"),
        "one bit": saved(image.convert("1"), "PNG"),
        "turned": saved(image, "JPEG", exif=exif),
        "turned png": saved(image, "PNG", exif=exif),
    }
    for name, data in read.items():
        (tmp_path / name).write_bytes(data)
        pixels = demos.decoded(data)
        np.testing.assert_array_equal(pixels, read_image(tmp_path, name))
        assert pixels.shape == ((40, 48, 3) if "turned" in name else (48, 40, 3))
    refused = {
        "deeper than 8 bits": saved(Image.fromarray(np.zeros((9, 9), np.uint16)), "PNG"),
        "JPEG, PNG, WEBP": saved(image, "GIF"),
        "holds 2 pictures": saved(image, "PNG", save_all=True, append_images=[other]),
        "holds 2 pictures; expected one": saved(image, "WEBP", save_all=True, append_images=[other]),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
        "web page": b"<html>",
    }
    for word, data in refused.items():
        with pytest.raises(DataError, match=word):
            demos.decoded(data)


def test_pictures_in_parallel_are_decoded_one_at_a_time(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0
    decoded = demos.decoded

    def counted(data: bytes) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.05)
        at_once -= 1
        return decoded(data)

    monkeypatch.setattr(demos, "decoded", counted)
    demo = DemoSession(open_memory(memory))
    with ThreadPoolExecutor(8) as pool:
        assert len({found["token"] for found in pool.map(lambda _: demo.look(BOTH, ""), range(8))}) == 8
    assert most == 1


def raw(address: str, *parts: bytes) -> bytes:
    """What the server answers to these bytes until it ends the connection."""
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as opened:
        for part in parts:
            opened.sendall(part)
        return b"".join(iter(lambda: opened.recv(4096), b""))


def test_slow_and_lying_clients_are_let_go(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"POST /api/look HTTP/1.1\r\nHost: 127.0.0.1\r\nX-KC: 1\r\nContent-Length: %d\r\n\r\n"
    monkeypatch.setattr("kc.serve.app.SECONDS", 0.2)
    with ThreadPoolExecutor(12) as pool:  # more than may upload at a time
        halves = [pool.submit(raw, address, head % 1000, b"half") for _ in range(10)]
        assert {half.result().split()[1] for half in halves} == {b"408"}
    assert raw(address) == b""
    assert raw(address, b"GET / HT") == b""
    for length in (10**9, 10**19):
        assert raw(address, head % length).split()[1] == b"413"
    shorter = raw(address, head % 4, b"\x89PNG and what was not announced")
    assert [line.split()[1] for line in shorter.splitlines() if line.startswith(b"HTTP/1.1")] in (
        [b"400"],
        [b"400"] * 2,
    )
    assert b"Content-Security-Policy".lower() in raw(address, head % 10**9).lower()


def test_it_listens_on_ipv6() -> None:
    config = ServeConfig(host="::1", port=0)
    try:
        opened = listening(config)
    except KcError:
        pytest.skip("no IPv6 here")
    with opened:
        assert opened.getsockname()[0] == "::1"
    with pytest.raises(KcError, match=r"--host nosuchhost\.invalid"):
        listening(ServeConfig(host="nosuchhost.invalid"))


@pytest.fixture
def address(memory: Path) -> Iterator[str]:
    with listening(ServeConfig(memory=memory, port=0)) as opened:
        served = app(DemoSession(open_memory(memory)), [])
        server = uvicorn.Server(uvicorn.Config(served, http=Hurried, log_level="error"))
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
