"""Run folders: each run has its own, and a run is only finished on what it was started on."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from kc.compare import new_folder, run
from kc.config import RunConfig
from kc.errors import KcError, RunError
from kc.parsing import parse, read_config
from kc.report.records import Results
from kc.report.sentences import sentences
from kc.stream.loop import MethodLoop
from kc.stream.resume import MethodState
from kc.versions import numeric_versions


def test_runs_that_start_in_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    config, together = RunConfig(out=tmp_path / "runs"), Barrier(8)

    def start(_: int) -> Path:
        together.wait()
        return new_folder(config)

    with ThreadPoolExecutor(8) as pool:
        folders = {folder for _ in range(5) for folder in pool.map(start, range(8))}
    assert len(folders) == 40
    assert all((folder / "config.yaml").is_file() for folder in folders)


def stopped(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was stopped after its first task."""
    task = MethodLoop._task

    def stop(self: MethodLoop, method: Any, state: MethodState, t: int) -> None:
        if t == 1:
            raise KeyboardInterrupt
        task(self, method, state, t)

    with monkeypatch.context() as patch:
        patch.setattr(MethodLoop, "_task", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config, Console(quiet=True))
    (folder,) = config.out.iterdir()
    return folder


def resume(folder: Path, *more: str) -> dict[str, Any]:
    """The record of a run that is finished."""
    common = ("--accelerator", "cpu", "--wandb", "disabled")
    run(parse(["--resume", str(folder), *common, *more]), Console(quiet=True))
    return dict(json.loads((folder / "results.json").read_text()))


@pytest.fixture
def begun(tiny_folder: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = RunConfig(
        benchmark=str(tiny_folder.path), data_root=tiny_folder.root, tasks=2, methods="ncm", accelerator="cpu",
        wandb="disabled", out=tmp_path / "runs",
    )  # fmt: skip
    return stopped(config, monkeypatch)


def test_a_run_whose_images_changed_is_not_resumed_unless_this_is_recorded(
    begun: Path, tiny_folder: SimpleNamespace
) -> None:
    for split in ("train", "test"):
        top = tiny_folder.folder / split
        for one, other in (("red", "x"), ("blue", "red"), ("x", "blue")):
            (top / one).rename(top / other)
    with pytest.raises(RunError, match=r"data: 12 files changed: test/blue/0\.png.*\n.*--accept-changes"):
        resume(begun)
    (said,) = resume(begun, "--accept-changes")["accepted_changes"]
    assert said.startswith("data: 12 files changed: test/blue/0.png")


def test_an_edited_config_of_a_run_is_named(begun: Path) -> None:
    path = begun / "config.yaml"
    path.write_text(path.read_text().replace("lr: ", "lr: 1"))
    with pytest.raises(RunError, match=r"\n  lr: .* is now 1"):
        resume(begun)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tusks: 2", "setting in FILE, line 1: 'tusks'. Did you mean 'tasks'"),
        ("ewc: {lambda: 1}", "FILE, line 1: --ewc.lambda: 'ewc' does not run"),
        ("batch_size: many", "FILE, line 1: batch-size many: expected"),
        ("setting: overlap", "FILE, line 1: setting 'overlap'. Did you mean 'overlapped'"),
    ],
)
def test_a_wrong_line_of_a_config_is_named(line: str, said: str, begun: Path) -> None:
    path = begun / "config.yaml"
    key = line.partition(":")[0]
    path.write_text("\n".join([line, *(s for s in path.read_text().splitlines() if not s.startswith(f"{key}:"))]))
    with pytest.raises(KcError) as caught:
        resume(begun)
    assert said.replace("FILE", str(path)) in str(caught.value)


def test_another_version_is_named_and_recorded_with_the_method(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = begun / "fingerprints.yaml"
    here = numeric_versions()["numpy"]
    for file in (path, begun / "methods" / "ncm-s0" / "state.json"):
        file.write_text(file.read_text().replace(f"numpy: {here}", "numpy: 1.0.0").replace(f'"{here}"', '"1.0.0"'))
    with pytest.raises(RunError, match=r"numpy: 1\.0\.0 is now"):
        resume(begun)
    record = resume(begun, "--accept-changes")
    assert record["versions"]["numpy"] == here
    assert record["methods"][0]["versions"] == {"numpy": f"1.0.0, {here}"}
    assert record["accepted_changes"] == [f"numpy: 1.0.0 is now {here}"]
    assert "numpy 1.0.0" in " ".join(sentences(Results.load(begun / "results.json")))


def test_moved_data_and_a_moved_manifest_are_resumed(begun: Path, tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder.root, tmp_path / "elsewhere")
    shutil.rmtree(tiny_folder.root)
    manifest = tiny_folder.path.rename(tmp_path / "moved.yaml")
    record = resume(begun, "--data-root", str(tmp_path / "elsewhere"), "--benchmark", str(manifest))
    assert "accepted_changes" not in record
    assert "versions" not in record["methods"][0]
    assert read_config(RunConfig, begun).data_root == tmp_path / "elsewhere"
    assert read_config(RunConfig, begun).benchmark == str(manifest)


def test_features_of_a_link_follow_the_link(
    tiny_folder: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run gives what a run from an empty cache gives."""
    first = tiny_folder.folder / "test"
    images = first.rename(first.with_name("v1"))
    other = Path(shutil.copytree(images, first.with_name("v2")))
    for one, two in (("red", "x"), ("blue", "red"), ("x", "blue")):
        (other / one).rename(other / two)
    config = RunConfig(
        benchmark=str(tiny_folder.path), data_root=tiny_folder.root, tasks=1, methods="ncm", accelerator="cpu",
        wandb="disabled", out=tmp_path / "runs", save_predictions=True,
    )  # fmt: skip
    seen = []
    for version, cache in ((images, "one"), (other, "one"), (other, "empty")):
        monkeypatch.setenv("KC_CACHE", str(tmp_path / cache))
        first.unlink(missing_ok=True)
        first.symlink_to(version.name)
        folder = run(config, Console(quiet=True))
        seen.append((folder / "methods" / "ncm-s0" / "predictions" / "answers.csv").read_text())
    assert seen[0] != seen[1] == seen[2]
