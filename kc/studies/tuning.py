"""The settings that the studies compare: as given, calibrated on the memory, and the best that a sweep finds."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from kc.memory.disk import Memory
from kc.memory.vote.fusion import retrieval_logits
from kc.methods.config import MethodOptions
from kc.methods.retrieval.calibration import KS, LAMBDAS, Setting, choose, knn_clip_grid, leave_samples_out
from kc.studies.record import Row
from kc.studies.scenes import Bench, Regions, best_of, fused, held, joined, voted

SWEPT_THRESHOLDS = (0.2, 0.5, 1.01)
SWEPT_K = (1, 3, 9, 16)


def given(k: int) -> Setting:
    """The defaults of the command line, with `k`."""
    return Setting.of(MethodOptions(k=k))


def calibrated(bench: Bench, memory: Memory, regions: Regions, seed: int) -> Setting:
    """What `--fusion calibrated` chooses from a memory of `regions`; `given(1)` for an empty one."""
    if len(memory) == 0:
        return given(1)
    out = leave_samples_out(memory, bench.ids, max(KS), seed)
    said = bench.says(regions.at(out.ids - memory.labels().id[0]))
    setting, _ = choose(
        out,
        bench.ids,
        knn_clip_grid(),
        lambda neighbours: retrieval_logits(neighbours, bench.ids),
        lambda s, p, has: joined(said, out.known, s, p, has),
    )
    return setting


def scored(bench: Bench, memory: Memory, said: Tensor, setting: Setting) -> dict[str, float]:
    """Scores on the test images of base and memory together."""
    found = memory.search(bench.test.keys, setting.k)
    return bench.score(best_of(fused(said, found, bench.ids, held(memory, bench.ids), setting), bench.ids))


def alone(bench: Bench, memory: Memory, k: int) -> dict[str, float]:
    """Scores on the test images of the memory without the base."""
    return bench.score(voted(memory.search(bench.test.keys, k), bench.ids))


def shown(bench: Bench, memory: Memory, said: Tensor, setting: Setting) -> Row:
    """A setting of kNN-CLIP and its scores."""
    values = {"k": setting.k, "threshold": setting.threshold, "lam": setting.lam}
    return {**values, **scored(bench, memory, said, setting)}


def sweep_grid() -> Iterator[Setting]:
    """The fixed settings among which the best on the test images is looked for."""
    for k in SWEPT_K:
        for threshold in SWEPT_THRESHOLDS:
            for lam in LAMBDAS:
                yield Setting(k, lam, threshold, 0, 0, 0)
