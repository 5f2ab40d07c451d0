"""`kc predict` from its command line to its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kc.cli import main
from kc.predict.render import share_of
from kc.predict.video import is_video
from kc.report.overlay import VOID_COLOR, Bar, Entry, bars, color_of, colors_of, compose, overlay
from kc.types import VOID, ClassInfo


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory with two names, one of them awkward; nothing here changes it."""
    tmp_path = tmp_path_factory.mktemp("memory")
    for n, name in enumerate(("blue, süß", "赤")):
        folder = tmp_path / "remembered" / str(n)
        folder.mkdir(parents=True)
        noise = np.random.default_rng(n).integers(0, 60, (64, 64, 3))
        noise[..., 2 - 2 * n] += 180
        Image.fromarray(noise.astype(np.uint8)).save(folder / "a.png")
        told = ["--name", name, "--memory", str(tmp_path / "memory")]
        assert main(["remember", str(folder), *told, *(["--size", "64"] if n == 0 else [])]) == 0
    return tmp_path / "memory"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures, one in a sub-folder, a mask, and a file that is broken."""
    folder = tmp_path / "pictures, neue"
    (folder / "sub").mkdir(parents=True)
    noise = np.random.default_rng(9).integers(0, 60, (48, 96, 3))
    noise[:, :48, 2] += 180
    noise[:, 48:, 0] += 180
    Image.fromarray(noise.astype(np.uint8)).save(folder / "é 1.png")
    Image.fromarray(noise.astype(np.uint8)).save(folder / "sub" / "b.png")
    Image.fromarray(np.ones((48, 96), np.uint8)).save(folder / "é 1.mask.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def test_a_folder_is_said_picture_by_picture(
    memory: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(pictures), "--memory", str(memory), "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "skipped: " in said
    assert "broken.png" in said
    made = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert made == ["sub/b.png.json", "sub/b.png.png", "é 1.png.json", "é 1.png.png"]
    record = json.loads((out / "é 1.png.json").read_text(encoding="utf-8"))
    segments = {s["name"]: s for s in record["answers"][0]["segments"]}
    assert set(segments) == {"blue, süß", "赤"}
    assert segments["赤"]["area"] > 0.3 * 48 * 96
    assert segments["赤"]["neighbours"][0]["name"] == "赤"
    assert 0 < segments["赤"]["score"] <= 1
    one = ["predict", str(pictures / "é 1.png"), "--memory", str(memory), "--out", str(out / "two")]
    assert main([*one, "--names", r"blue\, süß, 赤"]) == 0
    assert json.loads((out / "two" / "é 1.png.json").read_text(encoding="utf-8")) == record
    assert main([*one, "--memory-only"]) == 0
    views = json.loads((out / "two" / "é 1.png.json").read_text(encoding="utf-8"))["answers"]
    assert [v["view"] for v in views] == ["memory"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say who answers"),
        (["--memory", "{memory}", "--run", "x"], "one of them"),
        (["--memory", "{memory}", "--base-only"], "give --base conse"),
        (["--memory", "{memory}", "--k", "0"], "at least 1"),
        (["--memory", "{memory}", "--names", "a,,b"], "is no name"),
        (["--memory", "{memory}", "--names", "red"], "unknown name 'red'"),
        (["--memory", "nowhere"], "no memory in nowhere"),
        (["--run", "nowhere"], "nowhere holds no method"),
    ],
)
def test_what_cannot_be_asked_is_one_error(
    memory: Path, pictures: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [a.format(memory=memory) for a in arguments]
    assert main(["predict", str(pictures / "é 1.png"), *given]) == 2
    assert said in capsys.readouterr().err


def test_a_video_frame_by_frame(memory: Path, pictures: Path, tmp_path: Path) -> None:
    import av

    frame = np.asarray(Image.open(pictures / "é 1.png"))
    with av.open(str(tmp_path / "v.mp4"), "w") as made:
        stream = made.add_stream("mpeg4", rate=5, width=96, height=48)
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        made.mux(stream.encode(None))
    assert main(["predict", str(tmp_path / "v.mp4"), "--memory", str(memory), "--out", str(tmp_path / "o")]) == 0
    with av.open(str(tmp_path / "o" / "v.mp4.mp4")) as found:
        frames = [f.to_ndarray(format="rgb24") for f in found.decode(video=0)]
    assert len(frames) == 3
    assert frames[0].shape == (48, 96, 3)
    with Image.open(tmp_path / "o" / "v.mp4.mp4.png") as legend:
        assert legend.width > 96 + 20  # names beside the first frame
    (tmp_path / "w.mp4").write_bytes(b"no video")
    assert main(["predict", str(tmp_path / "w.mp4"), "--memory", str(memory), "--out", str(tmp_path / "o")]) == 2


def test_a_gif_that_moves_is_a_video(memory: Path, pictures: Path, tmp_path: Path) -> None:
    frames = [Image.open(pictures / "é 1.png").rotate(180 * i) for i in range(3)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    (tmp_path / "broken.gif").write_bytes(b"nothing")
    assert [is_video(tmp_path / f"{n}.gif") for n in ("moves", "still", "broken")] == [True, False, False]
    assert is_video(Path("a.MP4"))
    assert main(["predict", str(tmp_path / "moves.gif"), "--memory", str(memory), "--out", str(tmp_path / "o")]) == 0
    assert (tmp_path / "o" / "moves.gif.mp4").is_file()


def test_a_small_part_is_not_nothing() -> None:
    assert [share_of(part) for part in (0.0, 0.001, 0.006, 0.5)] == ["0 %", "<1 %", "1 %", "50 %"]


def test_colours_belong_to_names() -> None:
    first = colors_of([ClassInfo(3, "cat"), ClassInfo(4, "dog", color=(1, 2, 3))])
    assert first == {3: color_of("cat"), 4: (1, 2, 3)}
    assert colors_of([ClassInfo(9, "cat")])[9] == first[3]
    assert len({color_of(f"class {i}") for i in range(100)}) >= 99


def test_an_overlay_by_hand() -> None:
    image = np.full((1, 4, 3), 100, np.uint8)
    semantic = np.array([[1, 1, VOID, VOID]])
    shown = overlay(image, semantic, {1: (200, 0, 0)}, opacity=0.5)
    assert shown[0, 0].tolist() == [150, 50, 50]
    assert shown[0, 3].tolist() == [100, 100, 100]
    panoptic = np.array([[[1, 1], [1, 2], [1, 2], [1, 2]]], np.int32)
    assert overlay(image, np.ones((1, 4), np.int64), {1: (0, 0, 0)}, panoptic)[0, 1].tolist() == [255, 255, 255]
    sheet = compose([("a", image), ("b", image)], [Entry("x" * 300, VOID_COLOR), *[Entry("y", VOID_COLOR)] * 40])
    assert sheet.width < 4 * 64 * 2 + 8 + 330
    assert bars(image, [Bar("cat  50 %", 0.5, (9, 9, 9))]).shape[1:] == (320, 3)
