"""Speed of the dense CLIP rows beside the plain tower's own forward at the same resolution, in one run.

    python -m benchmarks.dense_clip [--quick] [--json FILE] [--model ViT-B-16-quickgelu] [--device cuda --dtype bf16]

Weights are random: time does not depend on them. Every repetition runs the plain tower and all rows in turn, so that a
change of the machine's speed meets all alike. Overheads are medians over repetitions of row / plain. On a CPU the time
is that of the process (one thread), which a busy machine disturbs less than the clock does. The roofline is the rate of
a large matrix product in the same type on the same device, measured here.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import start
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.protocol import InferenceProtocol
from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.dense_clip.segmenter import Segmenter
from kc.openvocab.dense_clip.text import TextBank
from kc.spec import Count

GOAL = 0.03
"""Overhead of the modified last block that is aimed at, as a share of the plain forward."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time the rows of dense CLIP beside the plain tower.

    Args:
        quick: Fewer repetitions and one size.
        json: Write the numbers to this file.
        model: Model of open_clip.
        device: cpu, cuda ...; default: cuda where there is one.
        dtype: Numbers of the tower; default: bf16 on a GPU, fp32 elsewhere.
        batch: Images a pass; default: 32 on a GPU, 1 elsewhere.
    """

    quick: bool = False
    json: Path | None = None
    model: str = "ViT-B-16-quickgelu"
    device: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    batch: Count | None = None


def run(config: Config) -> int:
    """Measure, print, write. Returns the exit status."""
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device != "cpu"
    dtype = DTYPES[config.dtype or ("bf16" if on_gpu else "fp32")]
    batch = config.batch or (32 if on_gpu else 1)
    repetitions = 3 if config.quick else 12
    if not on_gpu:
        torch.set_num_threads(1)
    side = 4096 if on_gpu else 1024 if config.quick else 2048
    torch.manual_seed(0)
    encoder = OpenClipEncoder(config.model, open_clip.create_model(config.model).eval()).eval()
    visual = encoder.network.visual.to(device, dtype)
    result: dict[str, Any] = {
        "model": config.model, "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "dtype": str(dtype), "batch": batch, "torch": torch.__version__, "repetitions": repetitions,
        "roofline_tflops": roofline(device, dtype, side),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    own = encoder.size
    sizes = [own] if config.quick else [own, (own[0] * 3 // 2, own[1] * 2)]
    result["rows"] = [line for size in sizes for line in rows_at(visual, size, batch, repetitions, result)]
    if not on_gpu:
        result["windows"] = windows(encoder, 1 if config.quick else 3)
    if config.json is not None:
        config.json.write_text(json.dumps(result, indent=1))
    return 0


@torch.no_grad()
def rows_at(visual: Any, size: tuple[int, int], batch: int, repetitions: int, about: dict[str, Any]) -> list[Any]:
    """Every row and the plain forward on images of one size, interleaved."""
    device, dtype = visual.conv1.weight.device, visual.conv1.weight.dtype
    images = torch.randn(batch, 3, *size, device=device, dtype=dtype)
    patch = visual.conv1.kernel_size
    proxy = torch.randn(batch, 384, size[0] // patch[0], size[1] // patch[1], device=device, dtype=dtype)
    last = len(visual.transformer.resblocks) - 1
    fuse, suppress = (last // 2 + 1, last // 2 + 2), tuple(range(last // 2 + 1, last))
    gclip = dataclasses.replace(ROWS["gclip"], fuse_layers=fuse, cs_layers=suppress)
    chosen = {**ROWS, "gclip": gclip, "gclip averaged": dataclasses.replace(gclip, head_mode="averaged")}
    models = {name: DenseClip(visual, row) for name, row in chosen.items()}
    # The plain tower takes its own size only; at others the unmodified row stands for it: the same blocks.
    plain = visual if size == tuple(visual.image_size) else models["clip"]
    jobs: dict[str, Callable[[], Any]] = {"plain": lambda: plain(images)}
    for name, model in models.items():
        given = proxy if name == "proxyclip" else None
        jobs[name] = lambda model=model, given=given: model(images, given)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(repetitions):
        for name, job in jobs.items():
            seconds[name].append(timed(job, device.type))
    counted = {}
    for name, job in jobs.items():
        with FlopCounterMode(display=False) as counter:
            job()
        counted[name] = counter.get_total_flops()
    lines = []
    print(f"{size[0]}x{size[1]}, batch {batch}")
    for name, times in seconds.items():
        overhead = statistics.median(t / p for t, p in zip(times, seconds["plain"], strict=True)) - 1
        median = statistics.median(times)
        rate = counted[name] / median / 1e12
        line = {
            "size": list(size), "row": name, "images_per_second": batch / median, "overhead": overhead,
            "met": overhead <= GOAL, "gflop_per_image": counted[name] / batch / 1e9, "tflops": rate,
            "share_of_roofline": rate / about["roofline_tflops"],
        }  # fmt: skip
        lines.append(line)
        share = 100 * rate / about["roofline_tflops"]
        pace = f"{batch / median:9.2f} images/s  {100 * overhead:+6.1f} %"
        print(f"  {name:<15} {pace}  {counted[name] / batch / 1e9:7.1f} GFLOP  {share:5.1f} % of the roofline")
    return lines


def windows(encoder: OpenClipEncoder, repetitions: int) -> dict[str, float]:
    """A photograph of 336 x 448 in windows of 224 every 112 pixels against the same photograph whole."""
    image = np.random.default_rng(0).integers(0, 256, (336, 448, 3), dtype=np.uint8)
    model = DenseClip(encoder.network.visual, ROWS["clearclip"])
    found = {}
    for name, crop in (("whole", None), ("windows", 224)):
        protocol = InferenceProtocol(name, 336, crop, None if crop is None else 112, 40.0, templates="name")
        segmenter = Segmenter(encoder, model, TextBank(encoder, "name"), protocol)
        segmenter.cells(image)
        found[name] = [timed(lambda s=segmenter: s.cells(image), "cpu") for _ in range(repetitions)]  # type: ignore[misc]
    ratio = statistics.median(w / a for w, a in zip(found["windows"], found["whole"], strict=True))
    pixels = 6 * 224 * 224 / (336 * 448)
    print(f"windows / whole image: time {ratio:.2f}, pixels {pixels:.2f}")
    return {"time_ratio": ratio, "pixel_ratio": pixels, "met": ratio <= pixels}


def timed(job: Callable[[], Any], device: str) -> float:
    """Seconds of one call: of the process on a CPU, of the clock with the device waited for elsewhere."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    job()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def roofline(device: str, dtype: torch.dtype, n: int) -> float:
    """Tera floating-point operations a second of an n x n matrix product: the best of five."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    best = min(timed(lambda: torch.mm(a, b), torch.device(device).type) for _ in range(5))
    return 2 * n**3 / best / 1e12


if __name__ == "__main__":
    start(run, "dense_clip")
