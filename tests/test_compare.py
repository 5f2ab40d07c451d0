"""Run folders: each run has its own, and a run is only finished on what it was started on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from kc.compare import new_folder
from kc.config import RunConfig


def test_runs_that_start_in_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    config, together = RunConfig(out=tmp_path / "runs"), Barrier(8)

    def start(_: int) -> Path:
        together.wait()
        return new_folder(config)

    with ThreadPoolExecutor(8) as pool:
        folders = {folder for _ in range(5) for folder in pool.map(start, range(8))}
    assert len(folders) == 40
    assert all((folder / "config.yaml").is_file() for folder in folders)
