"""The main job from shards: the numbers of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kc.cli import main
from kc.compare import run
from kc.config import RunConfig
from kc.data.datamodule import IncrementalDataModule
from kc.data.shards.index import ShardIndex


def numbers(benchmark: Path, root: Path, out: Path, **more: Any) -> tuple[list[Any], list[int] | None]:
    """Every score of a run, and the bytes that a pass over each task reads."""
    config = RunConfig(
        benchmark=str(benchmark), data_root=root, out=out, epochs=1, exemplars=12, accelerator="cpu",
        wandb="disabled", tasks=2, **more,
    )  # fmt: skip
    folder = run(config, Console(quiet=True))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return [(m["name"], m["matrix"], m["seen"], m["final"]) for m in results["methods"]], results.get("read_bytes")


@pytest.mark.parametrize("name", ["tiny_folder", "tiny_index_png", "tiny_coco"])
def test_a_run_from_shards_has_the_numbers_of_the_folder(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = request.getfixturevalue(name)
    out = tmp_path / "sharded"
    assert main(["data", "shards", str(tiny.path), "--data-root", str(tiny.root), "--out", str(out),
                 "--per-shard", "2"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert f"run on them with: --benchmark {out / tiny.manifest.name}.yaml --data-root {out}" in said
    # The images of the folder are so small that the encoder gives zeros for some, which no memory takes.
    methods = "finetune,replay" if name == "tiny_folder" else "finetune,replay,knn"
    kind = {"methods": methods} | ({} if name == "tiny_folder" else {"proposals": "oracle"})
    folder = numbers(tiny.path, tiny.root, tmp_path / "a", **kind)
    shards = numbers(out / f"{tiny.manifest.name}.yaml", out, tmp_path / "b", **kind)
    assert shards[0] == folder[0]
    assert folder[1] is None
    index = ShardIndex.from_bytes((out / "train.index.npz").read_bytes(), "index")
    data = IncrementalDataModule(out / f"{tiny.manifest.name}.yaml", data_root=out, tasks=2)
    blocks = [  # (shard, block) of every byte of a task's images
        {
            (int(index.shard[row]), b)
            for row in data.dataset("train", t).indices.tolist()
            for b in range(int(index.offset[row]) // 4096, int(index.offset[row] + index.size[row] - 1) // 4096 + 1)
        }
        for t in range(2)
    ]
    assert shards[1] == [4096 * len(of_task) + index.n_bytes for of_task in blocks]
    capsys.readouterr()
    assert (
        main(["data", "stats", str(out / f"{tiny.manifest.name}.yaml"), "--data-root", str(out), "--tasks", "2"]) == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    for t, read in enumerate(shards[1]):
        assert f"task {t + 1} reads " in said
        assert f"task {t + 1} reads {read:,} bytes" in said
