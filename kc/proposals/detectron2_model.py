"""detectron2:CONFIG.yaml,WEIGHTS.pth: a trained model of detectron2 as it is, and its masks as class-agnostic regions.

https://github.com/facebookresearch/detectron2; see docs/detectron2.md. No file that could run code is read: weights are
tensors alone, configs plain YAML.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kc.errors import KcError
from kc.proposals.base import from_partition
from kc.proposals.detectron2_files import check_detectron2
from kc.proposals.filters import MaskFilter, as_segments, encode
from kc.proposals.pretrained import update_with
from kc.spec import ProposerSpec
from kc.types import BoolArray, Float32Array, Segments, UInt8Array

_SHOWN = 5


@dataclass(frozen=True)
class Detectron2Model:
    """A model by its two files, built when it is first asked. `places` as in `detectron2:PLACES`."""

    places: str

    def __post_init__(self) -> None:
        check_detectron2(self.places, self.name)

    @property
    def name(self) -> str:
        return f"detectron2:{self.places}"

    @cached_property
    def config(self) -> Any:
        """The config on the device of this machine. Raises KcError for keys that detectron2 itself does not have."""
        path, _ = check_detectron2(self.places, self.name)
        config = importlib.import_module("detectron2.config").get_cfg()
        try:
            config.merge_from_file(str(path), allow_unsafe=False)
        except Exception as error:  # unknown keys, types that differ, YAML that asks for objects
            raise KcError(f"{self.name}: {path} is no config of detectron2 ({' '.join(str(error).split())})") from error
        config.MODEL.WEIGHTS = ""
        config.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        return config

    @cached_property
    def digest(self) -> str:
        """12 hex digits over the whole config, without the device, and the file of weights."""
        config = self.config.clone()
        config.MODEL.DEVICE = ""
        result = hashlib.sha256(config.dump().encode())
        update_with(result, check_detectron2(self.places, self.name)[1])
        return result.hexdigest()[:12]

    @cached_property
    def network(self) -> Any:
        """The network with its weights, in evaluation mode. Raises KcError unless they fill it, all of them."""
        _, path = check_detectron2(self.places, self.name)
        try:
            network = importlib.import_module("detectron2.modeling").build_model(self.config)
        except Exception as error:  # a config that no builder accepts
            raise KcError(f"{self.name}: detectron2 cannot build it ({type(error).__name__}: {error})") from error
        tensors = read_tensors(path)
        try:
            fit = network.load_state_dict(tensors, strict=False)
        except RuntimeError as error:  # tensors of another shape
            raise KcError(f"{path}: does not fit the config ({' '.join(str(error).split())})") from error
        said = [
            f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
            for what, names in (("missing", fit.missing_keys), ("unexpected", fit.unexpected_keys))
            if names
        ]
        if said:
            raise KcError(f"{path}: does not fit the config; tensors {'; '.join(said)}")
        return network.eval()

    @cached_property
    def metadata(self) -> Any:
        """Names of the model's classes: those of the first data set in DATASETS.TEST. Raises KcError without one."""
        names = self.config.DATASETS.TEST
        if not names:
            raise KcError(f"{self.name}: its config has no DATASETS.TEST, which would say the names of its classes")
        return importlib.import_module("detectron2.data").MetadataCatalog.get(names[0])

    @torch.no_grad()
    def __call__(self, image: UInt8Array) -> dict[str, Any]:
        """The model's answer to `image` (H, W, 3) uint8 RGB, resized for it as DefaultPredictor does."""
        config, network = self.config, self.network
        transforms = importlib.import_module("detectron2.data.transforms")
        sides = [config.INPUT.MIN_SIZE_TEST, config.INPUT.MIN_SIZE_TEST]
        given = image if config.INPUT.FORMAT == "RGB" else image[:, :, ::-1]
        resize = transforms.ResizeShortestEdge(sides, config.INPUT.MAX_SIZE_TEST).get_transform(given)
        seen = torch.as_tensor(resize.apply_image(given).astype(np.float32).transpose(2, 0, 1))
        answer: dict[str, Any] = network([{"image": seen, "height": image.shape[0], "width": image.shape[1]}])[0]
        return answer


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file (there of `model`, if it has one). Raises KcError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files, and pickles of more than tensors, fail in many ways
        raise KcError(f"{path}: cannot read tensors from it ({type(error).__name__}: {error})") from error
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise KcError(f"{path}: expected a dictionary of tensors, at the top or under 'model'")
    return tensors


@dataclass(frozen=True)
class Detectron2Masks:
    """Regions of a model: its panoptic segments, else its instances, else the partition by its semantic classes.

    Of segments and instances those that `keep` lets through, by the model's scores (1 where a segment has none); they
    may leave pixels uncovered.
    """

    spec = ProposerSpec(
        "Segments of a model of detectron2.",
        form="detectron2:CONFIG.yaml,WEIGHTS.pth",
        argument=".*",
        check="kc.proposals.detectron2_files:check_proposals",
        package="detectron2",
        extra="detectron2",
    )

    places: str
    keep: MaskFilter = field(default_factory=MaskFilter)

    def __post_init__(self) -> None:
        check_detectron2(self.places, f"--proposals detectron2:{self.places}")

    @property
    def name(self) -> str:
        return f"detectron2:{self.places}"

    @cached_property
    def model(self) -> Detectron2Model:
        return Detectron2Model(self.places)

    @cached_property
    def key(self) -> str:
        """Contents of both files, and settings."""
        return f"detectron2-{self.model.digest}-{self.keep.key}"

    def propose(self, image: UInt8Array) -> Segments:
        """Regions of `image` (H, W, 3) uint8 RGB, best first. Raises KcError for a model that finds no masks."""
        answer = self.model(image)
        found = masks_of(answer)
        if found is None:
            if "sem_seg" not in answer:
                raise KcError(f"{self.name}: the model answers {', '.join(answer) or 'nothing'}, but no masks")
            return from_partition(answer["sem_seg"].argmax(0).cpu().numpy())
        masks, scores = found
        rles = encode(masks)
        return as_segments(rles, scores, self.keep.kept(rles, scores), (image.shape[0], image.shape[1]))


def masks_of(answer: dict[str, Any]) -> tuple[BoolArray, Float32Array] | None:
    """Masks (N, H, W) and scores (N,) of panoptic segments, else of instances; None where there are neither."""
    if "panoptic_seg" in answer:
        numbers, segments = answer["panoptic_seg"]
        seg: npt.NDArray[np.integer[Any]] = numbers.cpu().numpy()
        if segments is None:  # models that number by class and instance list nothing; -1 is no segment
            segments = [{"id": int(i)} for i in np.unique(seg) if i >= 0]
        masks: BoolArray = seg[None] == np.array([s["id"] for s in segments], dtype=np.int64)[:, None, None]
        return masks, np.array([s.get("score", 1.0) for s in segments], dtype=np.float32)
    instances = answer.get("instances")
    if instances is None or not instances.has("pred_masks"):
        return None
    return instances.pred_masks.cpu().numpy().astype(np.bool_), instances.scores.float().cpu().numpy()
