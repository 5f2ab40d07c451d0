"""What the page can do, without the web: images that were queried, selections, remembering and forgetting.

Pictures come as bytes and stay in RAM; nothing that a browser sends names a file, and only keys of regions that are
taught reach the disk, in the memory.
"""

from __future__ import annotations

import base64
import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from kc.data.readers.files import decode_image
from kc.errors import KcError
from kc.predict.answer import Answer, pixels_in
from kc.predict.edit import forget, remember
from kc.predict.examples import ExampleImage
from kc.predict.names import clean_name, split_names
from kc.predict.predictor import MemoryPredictor
from kc.predict.sources import Sources
from kc.report.overlay import VOID_COLOR, overlay
from kc.types import BoolArray, UInt8Array

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 12 * 2**20
MAX_PIXELS = 24_000_000
SIDE = 768
"""Pictures are made at most so wide and high before they are queried."""
TRIES = 5
"""How often a query is repeated where the memory changes meanwhile."""
KEPT = 8
"""Pictures that are kept in RAM, the last ones used."""


@dataclass
class QueryImage:
    """A picture and what each view said of it."""

    image: UInt8Array
    names: list[str] | None
    answers: dict[str, Answer]


class DemoSession:
    """The page's view of one memory: calls take turns, for a memory has one writer."""

    def __init__(self, predictor: MemoryPredictor, pictures: Sources | None = None) -> None:
        if predictor.session.regions is None:
            raise KcError(f"{predictor.memory.path} holds keys of whole images: the page shows and adds regions")
        self.predictor, self.pictures = predictor, pictures or Sources()
        self._looks: OrderedDict[str, QueryImage] = OrderedDict()
        self._turn = threading.Lock()

    def facts(self) -> dict[str, Any]:
        """Names in the memory with their rows, and which views there are."""
        return self._consistent(self._facts)

    def _consistent(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `read` returns, of the memory as it is now: nothing of what another process has changed or erased, in an
        answer, a picture or a name, before it was called or while it worked."""
        for _ in range(TRIES):
            with self._turn:
                self._refresh()
                try:
                    result = read()
                except KcError:
                    if self.predictor.memory.current:
                        raise
                    continue
                if self.predictor.memory.current:
                    return result
        raise KcError("another process changes this memory all the time: try again")

    def _refresh(self) -> None:
        """Open the memory anew where it has changed, and drop what was said of it."""
        if not self.predictor.memory.current:
            self.predictor = self.predictor.reopened()
            self.pictures.small.cache_clear()
            for look in self._looks.values():
                look.answers.clear()
                if look.names is not None and "base" not in self.predictor.views:
                    look.names = [n for n in look.names if n in self.predictor.names] or None

    def _facts(self) -> dict[str, Any]:
        labels = self.predictor.memory.labels().class_id
        rows = {id_: int((labels == id_).sum()) for id_ in self.predictor.classes}
        names = [{"name": c.name, "rows": rows[i]} for i, c in self.predictor.classes.items()]
        return {"names": names, "views": [v for v in self.predictor.views if v != "answer"], "rows": len(labels)}

    def look(self, data: bytes, names: str) -> dict[str, Any]:
        """Ask about a picture. Raises DataError for what is no picture or too large, KcError for names."""
        token, wanted = secrets.token_urlsafe(16), wanted_names(names)

        def read() -> dict[str, Any]:
            look = QueryImage(decoded(data), wanted, {})  # one picture of MAX_PIXELS at a time
            self._answer(look)
            self._looks[token] = look
            while len(self._looks) > KEPT:
                self._looks.popitem(last=False)
            return {"token": token, **self._shown(look)}

        return self._consistent(read)

    def again(self, token: str, names: str) -> dict[str, Any]:
        """Ask about the same picture once more, perhaps with other names."""
        wanted = wanted_names(names)

        def read() -> dict[str, Any]:
            look = self._look(token)
            look.names = wanted
            self._answer(look)
            return {"token": token, **self._shown(look)}

        return self._consistent(read)

    def select(self, token: str, x: float, y: float, whole: bool, chosen: list[int]) -> dict[str, Any]:
        """Add the region (or the whole area) at the point (shares of width and height) to a selection, or take it out.

        Returns the selection, its outline as a picture, and the rows that decided it.
        """

        def read() -> dict[str, Any]:
            look = self._look(token)
            answer = self._retrieved(look)
            assert answer.regions is not None
            assert answer.regions.partition is not None
            height, width = answer.image.shape[:2]
            row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
            region = int(answer.regions.partition[max(row, 0), max(column, 0)])
            hit = {region}
            if whole:
                area = next(a for a in answer.areas if a.mask[max(row, 0), max(column, 0)])
                hit = set(np.flatnonzero(pixels_in(answer.regions, area.mask)).tolist())
            kept = {c for c in chosen if 0 <= c < len(answer.regions)}
            selection = sorted(kept - hit if region in kept else kept | hit)
            mask = np.isin(answer.regions.partition, selection)
            weights = pixels_in(answer.regions, mask)
            voters = self.predictor.voters(answer, weights) if selection else ()
            assert answer.labels is not None
            names = {answer.name(int(answer.labels[c])) for c in selection}
            return {
                "selection": selection,
                "outline": _uri(Image.fromarray(_outline(mask))),
                "names": sorted(names),
                "pixels": int(mask.sum()),
                "neighbours": [vars(v) | {"picture": self._picture(v.sample)} for v in voters],
            }

        return self._consistent(read)

    def remember(self, token: str, chosen: list[int], name: str) -> dict[str, Any]:
        """Remember the selected regions of a picture under `name`."""
        name = clean_name(name)
        with self._turn:
            self._refresh()
            look = self._look(token)
            answer = self._retrieved(look)
            assert answer.regions is not None
            assert answer.regions.partition is not None
            mask: BoolArray = np.isin(answer.regions.partition, chosen)
            if not mask.any():
                raise KcError("select something first: click on the picture")
            shown = ExampleImage("browser", look.image, mask)
            (taught,) = remember(self.predictor.memory.path, self.predictor.session, [(name, shown)])
            said = f"{taught.name}: {taught.rows} new rows"
            said += f", {taught.known} were there already" if taught.known else ""
            return self._changed(look, token, said)

    def forget(self, token: str, name: str) -> dict[str, Any]:
        """Erase a name, with proof; the picture, if there is one, is queried again."""
        with self._turn:
            look = self._look(token) if token else None
            done = forget(self.predictor.memory.path, name)
            proof = (
                f"in none of {done.proof.files} files" if done.proof else "STILL THERE: " + "; ".join(done.proof.found)
            )
            proof += f"; {len(done.copies.removed)} copies erased; not reached: " + "; ".join(done.copies.left)
            return self._changed(look, token, f"{done.name}: {done.rows} rows erased, {proof}")

    def _picture(self, sample_id: str) -> str | None:
        """A thumbnail of what a row was made from, where that is on this machine; the name is the memory's own."""
        small = self.pictures.small(sample_id)
        return None if small is None else _uri(small)

    def _changed(self, look: QueryImage | None, token: str, said: str) -> dict[str, Any]:
        self._refresh()
        result: dict[str, Any] = {"said": said, "facts": self._facts()}
        if look is None:
            return result
        self._answer(look)
        return result | {"token": token, **self._shown(look)}

    def _look(self, token: str) -> QueryImage:
        if token not in self._looks:
            raise KcError("this picture is no longer kept: drop it again")
        self._looks.move_to_end(token)
        return self._looks[token]

    def _answer(self, look: QueryImage) -> None:
        names = look.names
        if names is None and not self.predictor.names:
            # A memory without a name says nothing, and what is on the picture can still be selected and taught.
            names = []
        views = [v for v in ("base", "memory", "answer") if v in self.predictor.views]
        look.answers = {v: self.predictor.predict(look.image, names, v) for v in views}

    def _retrieved(self, look: QueryImage) -> Answer:
        if not look.answers:
            self._answer(look)
        return look.answers["answer"]

    def _shown(self, look: QueryImage) -> dict[str, Any]:
        views = {}
        for view, answer in look.answers.items():
            assert answer.semantic is not None
            ids, counts = np.unique(answer.semantic, return_counts=True)
            order = np.argsort(-counts, kind="stable")
            views[view] = {
                "picture": _uri(Image.fromarray(overlay(look.image, answer.semantic, answer.colors, answer.panoptic))),
                "legend": [
                    {
                        "name": answer.name(int(ids[i])),
                        "share": float(counts[i] / answer.semantic.size),
                        "color": "#{:02x}{:02x}{:02x}".format(*answer.colors.get(int(ids[i]), VOID_COLOR)),
                    }
                    for i in order
                ],
            }
        return {"views": views, "width": look.image.shape[1], "height": look.image.shape[0]}


def wanted_names(text: str) -> list[str] | None:
    """The names in a list, None where none is given. Raises KcError for what is no list of names."""
    return split_names(text) if text.strip() else None


def decoded(data: bytes) -> UInt8Array:
    """The picture in `data` as (H, W, 3) uint8 RGB, read as `kc predict` reads a file, no side above SIDE.

    Raises DataError for what is not one JPEG, PNG or WebP picture of 8 bits, is damaged, or has more than MAX_PIXELS.
    """
    picture = Image.fromarray(decode_image(io.BytesIO(data), "the picture", MAX_PIXELS, FORMATS))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.array(picture)


def _outline(mask: BoolArray) -> UInt8Array:
    """(H, W, 4) uint8: yellow where `mask` is, stronger at its border."""
    border = mask.copy()
    border[1:-1, 1:-1] &= ~(mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:])
    shown = np.zeros((*mask.shape, 4), np.uint8)
    shown[mask] = (255, 230, 0, 90)
    shown[border] = (0, 0, 0, 255)
    return shown


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
