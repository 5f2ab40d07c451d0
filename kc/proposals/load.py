"""Names of proposers. Nothing heavy loads until one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kc.errors import KcError, unknown_name

if TYPE_CHECKING:
    from kc.proposals.base import Proposer


def _superpixels(**settings: Any) -> Proposer:
    from kc.proposals.superpixels import Superpixels

    return Superpixels(**settings)


def _felzenszwalb(**settings: Any) -> Proposer:
    from kc.proposals.felzenszwalb import Felzenszwalb

    return Felzenszwalb(**settings)


def _edges(**settings: Any) -> Proposer:
    from kc.proposals.edges import Edges

    return Edges(**settings)


def _mask2former(path: str, **settings: Any) -> Proposer:
    from kc.proposals.mask2former import Mask2FormerMasks

    return Mask2FormerMasks(path, **settings)


def _check_mask2former(path: str) -> None:
    from kc.proposals.pretrained import check_folder

    check_folder(path, ("mask2former",), f"mask2former:{path}")


def _sam(path: str, **settings: Any) -> Proposer:
    from kc.proposals.sam import SegmentAnything

    return SegmentAnything(path, **settings)


def _check_sam(path: str) -> None:
    from kc.proposals.pretrained import check_folder

    check_folder(path, ("sam",), f"sam:{path}")


def _grounded_sam(paths: str, names: tuple[str, ...] = (), **settings: Any) -> Proposer:
    from kc.proposals.grounded_sam import GroundedSam
    from kc.proposals.grounding import GroundingDino
    from kc.proposals.sam import SegmentAnything

    dino, sam = _two(paths)
    return GroundedSam(GroundingDino(dino), SegmentAnything(sam), tuple(names), **settings)


def _check_grounded_sam(paths: str) -> None:
    from kc.proposals.pretrained import check_folder

    dino, sam = _two(paths)
    check_folder(dino, ("grounding-dino",), f"grounded-sam:{paths}")
    check_folder(sam, ("sam",), f"grounded-sam:{paths}")


def _detectron2(places: str, **settings: Any) -> Proposer:
    from kc.proposals.detectron2_model import Detectron2Masks

    return Detectron2Masks(places, **settings)


def _check_detectron2(places: str) -> None:
    from kc.proposals.detectron2_files import check_detectron2

    check_detectron2(places, f"--proposals detectron2:{places}")


def _two(paths: str) -> tuple[str, str]:
    dino, comma, sam = paths.partition(",")
    if not comma or not dino or not sam:
        raise KcError(f"--proposals grounded-sam:{paths}: expected two folders, grounded-sam:DINO_PATH,SAM_PATH")
    return dino, sam


@dataclass(frozen=True)
class Family:
    """Proposers that stand on checkpoints: what follows the name, how it is checked without torch, how it is loaded."""

    places: str
    check: Callable[[str], None]
    load: Callable[..., Proposer]


PROPOSERS: dict[str, Callable[..., Proposer]] = {
    "superpixels": _superpixels,
    "felzenszwalb": _felzenszwalb,
    "edges": _edges,
}
"""Proposers with one name; ground truth as regions is `kc.proposals.oracle`."""

FAMILIES: dict[str, Family] = {
    "mask2former": Family("PATH", _check_mask2former, _mask2former),
    "sam": Family("PATH", _check_sam, _sam),
    "grounded-sam": Family("DINO_PATH,SAM_PATH", _check_grounded_sam, _grounded_sam),
    "detectron2": Family("CONFIG.yaml,WEIGHTS.pth", _check_detectron2, _detectron2),
}
"""Proposers named `family:PATH`."""

READS_NAMES = {"grounded-sam"}
"""Families that look for what is named: `load_proposer(..., names=...)`."""


def reads_names(name: str) -> bool:
    """Whether proposer `name` looks for things by their names."""
    return name.partition(":")[0] in READS_NAMES


def check_proposals(name: str, others: tuple[str, ...] = ("oracle",)) -> None:
    """Refuse a proposer that does not exist or lacks a file or package, before torch or any model is loaded.

    `others`: names that are valid here and mean no proposer. Raises UnknownNameError, MissingExtraError or KcError.
    """
    if name in others:
        return
    family, _, places = name.partition(":")
    if family in FAMILIES:
        FAMILIES[family].check(places)
    elif name not in PROPOSERS:
        raise unknown_name("proposals", name, [*PROPOSERS, *others, *(f"{f}:{x.places}" for f, x in FAMILIES.items())])
    elif name == "edges":
        from kc.proposals.packages import hed_weights

        hed_weights()


def load_proposer(name: str, **settings: Any) -> Proposer:
    """The proposer `name`; `settings` override its defaults.

    Raises:
        UnknownNameError: there is no such proposer.
        MissingExtraError: a package or a checkpoint that it stands on is missing.
        TypeError: it has no such setting.
    """
    check_proposals(name, others=())
    family, _, places = name.partition(":")
    return FAMILIES[family].load(places, **settings) if family in FAMILIES else PROPOSERS[name](**settings)
