"""A method's answers as files that other programs score: COCO panoptic and results, index PNGs, a table.

What was asked lies beside them in `truth`, with the same image ids: those of the owner's annotation file, where the
images come from one. See docs/how-to/own-data.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kc.data.coco_format import PanopticWriter, category_list, instance_results, save_png, write_json
from kc.files import csv_text, file_name, write_atomic
from kc.label_png import to_pixels
from kc.types import VOID, ClassInfo, Instances, Int32Array, Int64Array, Prediction, TaskKind

COLUMNS = ("sample_id", "label", "label_name", "answer", "answer_name", "score")


class PredictionWriter:
    """Writes `folder`, whole or not at all: until `finish` everything lies in a folder beside it.

    A part is one pass over test images; the only one lies in `folder` itself, several in `task-1`, `task-2`, ...
    `owner_id`: the owner's id of an image by its row in the reader; None: images are numbered from 1.
    """

    def __init__(
        self,
        folder: Path,
        kind: TaskKind,
        classes: Iterable[ClassInfo],
        owner_id: Callable[[int], int | str] | None = None,
    ) -> None:
        self.folder, self.kind, self.classes, self.owner_id = folder, kind, tuple(classes), owner_id
        self._draft = folder.with_name(folder.name + ".part")
        self._parts: dict[int | None, _Table | _Maps] = {}

    def start(self) -> None:
        """Begin anew."""
        shutil.rmtree(self._draft, ignore_errors=True)
        self._parts = {}

    def add(self, part: int | None, batch: Mapping[str, Any], prediction: Prediction) -> None:
        """One batch of a part: what `kc.stream.evaluate.evaluate` scores. `part`: a task, None for the only pass."""
        if part not in self._parts:
            place = self._draft if part is None else self._draft / f"task-{part + 1}"
            self._parts[part] = (
                _Table(place, self.classes)
                if self.kind == "classification"
                else _Maps(place, self.kind, self.classes, self.owner_id)
            )
        self._parts[part].add(batch, prediction)

    def finish(self) -> None:
        """Write what ends a part, and put the folder in its place."""
        for part in self._parts.values():
            part.close()
        self._parts = {}
        if self._draft.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self._draft.rename(self.folder)


class _Table:
    """answers.csv of a classification benchmark, a row an image; `score` as the method gives it."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.folder, self.names = folder, {c.id: c.name for c in classes}
        self.rows: list[tuple[Any, ...]] = []

    def add(self, batch: Mapping[str, Any], prediction: Prediction) -> None:
        assert prediction.scores is not None
        scores = prediction.scores.float().cpu().numpy()
        best = scores.argmax(1)
        for i, (name, label) in enumerate(zip(batch["sample_id"], batch["label"].tolist(), strict=True)):
            answer, score = prediction.vocabulary[best[i]], float(scores[i, best[i]])
            # VOID: a class that is not learned yet, whose images are not asked about.
            self.rows.append((name, label, self.names.get(label, ""), answer, self.names[answer], repr(score)))

    def close(self) -> None:
        write_atomic(self.folder / "answers.csv", csv_text([COLUMNS, *self.rows]).encode(), sync=False)


class _Maps:
    """Label maps as PNGs of class ids; of panoptic benchmarks JSON beside them."""

    def __init__(
        self,
        folder: Path,
        kind: TaskKind,
        classes: Sequence[ClassInfo],
        owner_id: Callable[[int], int | str] | None,
    ) -> None:
        self.folder, self.classes, self.owner_id = folder, classes, owner_id
        self.things = tuple(c.id for c in classes if c.is_thing)
        self.top = max(c.id for c in classes)
        self.panoptic: tuple[PanopticWriter, PanopticWriter] | None = None
        if kind == "panoptic":
            truth = folder / "truth"
            self.panoptic = (
                PanopticWriter(folder / "panoptic.json", folder / "panoptic", classes),
                PanopticWriter(truth / "panoptic.json", truth / "panoptic", classes),
            )
        self.images: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] | None = None
        self.true: list[dict[str, Any]] = []

    def add(self, batch: Mapping[str, Any], prediction: Prediction) -> None:
        vocabulary = (*prediction.vocabulary, VOID)
        for i, sample_id in enumerate(batch["sample_id"]):
            number = len(self.images) + 1 if self.owner_id is None else self.owner_id(int(batch["index"][i]))
            name = f"{file_name(sample_id.partition('/')[2])}.png"
            truth = np.asarray(batch["semantic"][i])
            height, width = truth.shape
            self.images.append({"id": number, "file_name": name, "height": height, "width": width})
            self._semantic(self.folder / "semantic" / name, prediction.semantic[i])
            asked = np.where(np.isin(truth, vocabulary), truth, VOID)
            self._semantic(self.folder / "truth" / "semantic" / name, asked)
            if self.panoptic is None:
                continue
            answers, questions = self.panoptic
            panoptic: Int32Array = np.array(batch["panoptic"][i], dtype=np.int32)
            panoptic[~np.isin(panoptic[..., 0], vocabulary)] = (VOID, 0)
            crowd = frozenset(batch["crowd"][i])
            answers.add(number, name, prediction.panoptic[i])
            questions.add(number, name, panoptic, crowd)
            if prediction.instances:
                self._instances(number, panoptic, crowd, prediction.instances[i], prediction.vocabulary)

    def _semantic(self, path: Path, semantic: Int64Array) -> None:
        save_png(path, to_pixels(semantic, self.top))

    def _instances(
        self,
        number: int | str,
        panoptic: Int32Array,
        crowd: frozenset[int],
        found: Instances,
        vocabulary: Sequence[int],
    ) -> None:
        self.found = self.found or []
        things = [c for c in self.things if c in vocabulary]
        keep = np.isin(found.class_ids, things)
        self.found += instance_results(number, found.masks[keep], found.class_ids[keep].tolist(), found.scores[keep])
        of_things = panoptic[np.isin(panoptic[..., 0], things)]
        pairs = [(c, n, (panoptic == (c, n)).all(-1), n in crowd) for c, n in np.unique(of_things, axis=0).tolist()]
        void = panoptic[..., 0] == VOID
        if void.any():  # void pixels are no evidence: a crowd of every class, as our mask AP counts them
            pairs += [(c, 0, void, True) for c in things]
        for class_id, _, mask, is_crowd in pairs:
            (result,) = instance_results(number, mask[None], [class_id], np.ones(1, np.float32))
            result.pop("score")
            self.true.append({**result, "id": len(self.true) + 1, "area": int(mask.sum()), "iscrowd": int(is_crowd)})

    def close(self) -> None:
        categories = category_list(self.classes)
        write_json(self.folder / "classes.json", categories)
        for writer in self.panoptic or ():
            writer.close()
        if self.found is not None:
            write_json(self.folder / "instances.json", self.found)
            content = {"images": self.images, "annotations": self.true, "categories": categories}
            write_json(self.folder / "truth" / "instances.json", content)
