"""The memory of a run: thumbnails of what decided, and what teaching it means for a run that is not finished."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kc.cli import main
from kc.memory.disk import Memory
from kc.predict.opening import open_memory
from kc.predict.sources import Sources
from kc.report.records import Results
from kc.serve.demo import DemoSession


def test_a_taught_memory_and_its_run(
    tiny_index_png: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tiny_index_png.root
    arguments = ["--benchmark", str(tiny_index_png.path), "--data-root", str(root), "--wandb", "disabled"]
    more = ["--methods", "knn", "--split", "2-1", "--out", str(tmp_path / "runs")]
    assert main(["run", *arguments, *more]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    whole = Results.load(run / "results.json").methods[0].matrix
    memory = run / "methods" / "knn-s0" / "memory"

    # Who decided is shown by name, with a picture where the data is; a browser names no file.
    predictor = open_memory(memory)
    settings = predictor.session.config
    picture = io.BytesIO()
    with Image.open(root / "tiny-index" / "images" / "train" / "frame_0.png") as given:
        given.save(picture, "PNG")
        left = given.size
    demo = DemoSession(predictor, Sources.of(predictor.memory, settings, root))
    token = demo.look(picture.getvalue(), "")["token"]
    first = demo.select(token, 0.1, 0.9, True, [])["neighbours"][0]
    assert first["name"] in {"sky", "car", "tree", "road"}
    assert first["sample"].startswith("train/")
    assert first["picture"].startswith("data:image/png;base64,")
    small = Sources.of(predictor.memory, settings, root).small(first["sample"])
    assert small is not None
    assert small.size == left
    assert demo.pictures.small("../../etc/passwd") is None
    away = DemoSession(predictor, Sources.of(predictor.memory, settings, tmp_path / "nowhere"))
    token = away.look(picture.getvalue(), "")["token"]
    second = away.select(token, 0.1, 0.9, True, [])["neighbours"][0]
    assert second == first | {"picture": None}

    # Not finished: the last task is still to come. Going on would drop what is taught, so it is refused.
    state = run / "methods" / "knn-s0" / "state.json"
    record = json.loads(state.read_text())
    for name in ("rows", "seen", "per_class", "cost"):
        record[name] = record[name][:2]
    state.write_text(json.dumps(record))
    Image.fromarray(np.full((24, 32, 3), 7, np.uint8)).save(tmp_path / "new.png")
    things = tmp_path / "a thing, taught"
    things.mkdir()
    (tmp_path / "new.png").rename(things / "new.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)).save(things / "other.png")
    assert main(["remember", str(things), "--name", "a thing, taught", "--memory", str(memory)]) == 0
    assert "a thing, taught" in Memory.open(memory).class_names.values()
    capsys.readouterr()
    assert main(["run", "--resume", str(run), "--wandb", "disabled"]) == 2
    said = capsys.readouterr().err
    assert "of kc remember, which going on with the run would drop" in said
    assert len(Memory.open(memory).ids(source="remembered")) > 0

    copy = shutil.copytree(memory, tmp_path / "copy")
    asked = ["predict", str(things), "--memory", str(copy), "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    told = json.loads((tmp_path / "out" / "other.png.json").read_text(encoding="utf-8"))
    assert "a thing, taught" in {name["name"] for name in told["names"]}
    assert main(["memory", "remove", str(memory), "--source", "remembered"]) == 0
    assert main(["run", "--resume", str(run), "--wandb", "disabled"]) == 0
    assert Results.load(run / "results.json").methods[0].matrix == whole

    # A run folder can be moved, and be named from any place.
    moved = run.rename(tmp_path / "moved, über uns")
    (moved / "report.html").unlink()
    monkeypatch.chdir(moved / "methods")
    assert main(["report", ".."]) == 0
    assert "tiny-index" in (moved / "report.html").read_text(encoding="utf-8")
    assert main(["predict", "../../a thing, taught/new.png", "--run", "..", "--out", "said, é"]) == 0
    assert (moved / "methods" / "said, é" / "new.png.json").is_file()
