"""sam:PATH: Segment Anything (Kirillov et al. 2023, arXiv 2304.02643), asked on a grid of points or in given boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from kc.proposals.filters import MaskFilter, Rle, as_segments, encode, stability
from kc.proposals.pretrained import Checkpoint
from kc.spec import ProposerSpec
from kc.types import Float32Array, Segments, UInt8Array


@dataclass(frozen=True)
class SegmentAnything(Checkpoint):
    """Masks of the checkpoint in the folder `path`.

    `propose` prompts at `points` x `points` places, as the paper's automatic masks do: masks whose predicted IoU is
    above `min_iou` and whose stability is above `min_stability`, without those whose boxes overlap a better one's by
    more than `max_box_overlap`. `keep` then takes out masks that are small or equal. `batch`: points
    that are asked for at a time.
    """

    spec = ProposerSpec(
        "Masks of Segment Anything, asked at a grid of points.",
        form="sam:PATH",
        argument=".*",
        check="kc.proposals.pretrained:check_checkpoint",
        paper="Kirillov et al. 2023, arXiv 2304.02643",
        package="transformers",
        extra="proposals",
    )
    family = "sam"
    kind = "sam"
    classes = ("SamModel", "SamProcessor")

    points: int = 32
    min_iou: float = 0.88
    min_stability: float = 0.95
    max_box_overlap: float = 0.7
    keep: MaskFilter = field(default_factory=MaskFilter)
    batch: int = 64

    @property
    def key(self) -> str:
        """Contents of the checkpoint, and settings."""
        grid = f"{self.points}-{self.min_iou:g}-{self.min_stability:g}-{self.max_box_overlap:g}"
        return f"sam-{self.digest}-{grid}-{self.keep.key}"

    @torch.no_grad()
    def propose(self, image: UInt8Array) -> Segments:
        """Masks of `image` (H, W, 3) uint8 RGB, best predicted IoU first; they may overlap."""
        model, processor = self.loaded[0], self.loaded[1].image_processor
        size = (image.shape[0], image.shape[1])
        crops, points, pictures, labels = processor.generate_crop_boxes(
            image, processor.size["longest_edge"], points_per_crop=self.points
        )
        inputs = processor(images=pictures, return_tensors="pt")
        embedding = model.get_image_embeddings(inputs["pixel_values"].to(model.device))
        rles: list[Any] = []
        scores, boxes = [], []
        for start in range(0, points.shape[1], self.batch):
            part = slice(start, start + self.batch)
            logits, iou = self._predict(inputs, embedding, input_points=points[:, part], input_labels=labels[:, part])
            found, score, box = processor.filter_masks(logits, iou, size, crops[0], self.min_iou, self.min_stability)
            rles += found
            scores.append(score)
            boxes.append(box)
        if not rles:
            return as_segments([], np.zeros(0, np.float32), np.zeros(0, np.int64), size)
        _, best, kept, _ = processor.post_process_for_mask_generation(
            rles, torch.cat(scores), torch.cat(boxes), self.max_box_overlap
        )
        values: Float32Array = best.float().cpu().numpy()
        packed: list[Rle] = [coco.frPyObjects(rle, *size) for rle in kept]
        return as_segments(packed, values, self.keep.kept(packed, values), size)

    @torch.no_grad()
    def in_boxes(self, image: UInt8Array, boxes: Float32Array) -> tuple[list[Rle], Float32Array]:
        """The best mask in each box (N, 4), x0 y0 x1 y1 in pixels of `image`, and its stability (N,)."""
        if len(boxes) == 0:
            return [], np.zeros(0, np.float32)
        model, processor = self.loaded[0], self.loaded[1].image_processor
        inputs = processor(images=image, input_data_format="channels_last", return_tensors="pt")
        embedding = model.get_image_embeddings(inputs["pixel_values"].to(model.device))
        height, width = inputs["reshaped_input_sizes"][0].tolist()
        scale = torch.tensor([width / image.shape[1], height / image.shape[0]]).repeat(2)
        scaled = torch.from_numpy(boxes).float() * scale
        logits, _ = self._predict(inputs, embedding, input_boxes=scaled[None], multimask_output=False)
        return encode((logits[:, 0] > 0).cpu().numpy()), stability(logits[:, 0])

    def _predict(self, inputs: Any, embedding: Tensor, **prompts: Any) -> tuple[Tensor, Tensor]:
        """Mask logits (P, M, H, W) at the original size and predicted IoU (P, M) for P prompts of one image."""
        model, processor = self.loaded
        prompts = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in prompts.items()}
        out = model(image_embeddings=embedding, **prompts)
        sizes = (inputs[name].tolist() for name in ("original_sizes", "reshaped_input_sizes"))
        (logits,) = processor.image_processor.post_process_masks(out.pred_masks.float(), *sizes, binarize=False)
        return logits, out.iou_scores[0]
