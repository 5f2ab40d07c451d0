"""The knobs of all methods: the one place where their defaults and their help stand. Loads in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Le

from kc.spec import BelowOne, Count, CountPerTask, NonNegative, Positive, PositivePerTask, Whole

USUAL_EWC_LAMBDA = {"images": 100.0, "maps": 500.0}
"""What `ewc_lambda` is where it is not given."""


@dataclass(frozen=True)
class MethodOptions:
    """What the command line and the methods share; each method reads its own.

    Args:
        epochs: Epochs a task for methods that train; several separated by commas: the first task, the second ..., the
            last one for all that follow.
        lr: Learning rate of the head; several separated by commas as for --epochs.
        encoder_lr: Learning rate of a trained encoder, as a share of --lr.
        optimizer: adamw, adam or sgd.
        momentum: Momentum of sgd.
        weight_decay: Weight decay.
        schedule: Learning rate over the steps of a task: cosine, poly (power 0.9) or constant.
        accumulate: Batches a step of the optimiser.
        clip_grad: Norm to which gradients are clipped; 0 does not clip.
        precision: 32-true, bf16-mixed or 16-mixed; weights stay in 32 bits.
        ema: Decay of an exponential average of the weights, which replaces them when a task ends; 0 is off.
        patience: Score the validation split after each epoch, keep the best weights of the task and stop after so many
            epochs without a better score; 0 is off.
        train: What fine-tuning trains: head (the encoder stays frozen, its features are cached) or full (a copy of it
            is trained with the head).
        mask_model: Network of mask2former: tiny (random weights), encoder (small and random over the pretrained
            --encoder, which needs three dense levels; with --train head they are cached, and a step costs less than
            half), or a published one: a folder that transformers saved, or its name on the hub.
        mask_score: Probability that a query of a mask classifier must pass to be a panoptic segment; default: the
            authors', 0.8 (eclipse: 0), which suits long training; after a short one few queries are so sure.
        mask_overlap: Share of its mask that a query must win to be a panoptic segment; default: the authors', 0.8
            (eclipse: 0).
        exemplars: Images that replay, er, der++ and icarl may keep in all.
        ewc_lambda: Strength of ewc and ewc-online: lambda * sum F (w - w_old)^2 (half of Kirkpatrick's lambda);
            default: 100 for images, 500 for maps, where F is scaled to at most 1.
        ewc_decay: What ewc-online keeps of the old importance when a task ends (its gamma).
        ewc_fisher: How ewc measures importance: samples (the mean over the images of a finished task, one by one) or
            running (as the authors of mib do: 0.9 of the newest batch's squared gradient + 0.1 of what was, through all
            steps and tasks).
        fisher: Labels of the Fisher information: empirical (those of the data) or sampled (drawn from the model).
        si_lambda: Strength of si: its c.
        si_damping: Damping of si: its xi.
        lwf_lambda: Strength of the distillation of lwf for images; maps have pixel_kd.
        lwf_columns: What the distillation of lwf compares: old (the old columns among themselves) or, for images, all
            (new columns too, whose wanted probability is 0).
        lwf_temperature: Temperature of the distillation of lwf for images.
        der_alpha: Strength of the distance to the stored logits in der++.
        der_beta: Strength of the cross entropy on stored images in der++.
        wise_alpha: Share of the trained weights in the mixture of wise-ft; 1 is fine-tuning.
        lora_rank: Rank of the adapters of lora.
        lora_scope: grow (one adapter is trained in every task) or task (a new one a task, the old ones frozen).
        ranpac_dim: Width of the random projection of ranpac; the paper's is 10000, which keeps 800 MB.
        fecam_shrink: Share of the mean variance that fecam adds to each diagonal.
        fecam_shrink_off: Share of the mean covariance that fecam adds off the diagonal.
        fecam_tukey: Exponent of fecam's transform of features that are not negative; 1 changes nothing.
        tip_alpha: Weight of the cache of tip-adapter beside the zero-shot logits.
        tip_beta: Sharpness of the cache of tip-adapter.
        tip_shots: Images a class in the cache of tip-adapter.
        k: Neighbours that vote.
        vote: Vote of the neighbours: plurality, distance, softmax, rank or tip (sharpness: tip_beta).
        tau: Temperature of the softmax vote.
        alpha: Offset of the rank vote.
        purity: Share of a region's pixels that must be labelled as one class for it to become a row.
        anonymous: The memory keeps the names of images as salted hashes only; its keys are what they are.
        fuse_lambda: Weight of the retrieval opinion where a base model is fused (kNN-CLIP's lambda; the value is ours).
        fuse_threshold: The base is left alone where its best probability reaches this (kNN-CLIP's T); above 1 always
            fuses.
        fuse_alpha: Weight of what ret-clip retrieves, for names that the base was trained on (the paper's alpha).
        fuse_beta: The same for other names (the paper's beta).
        fuse_gamma: Share of the memory beside the base's frozen CLIP in ret-clip (the paper's gamma).
        fusion: Weights of knn-clip, ret-clip and hybrid: fixed (as given) or calibrated (chosen after each task by
            leaving stored samples out of their own search; no validation image is read).
        retrieval: Opinion of the memory in knn-clip, ret-clip and hybrid: cosine (kNN-CLIP's formula) or vote (that of
            --vote).
        names: File with names that knn-clip and ret-clip are asked for beside the classes learned so far; line t adds
            those of task t, separated by commas, synonyms by |.
        pixel_kd: Strength of the distillation of maps in lwf and ilt; 100 in both papers' comparisons.
        ilt_features: Strength of the distillation of features in ilt.
        mib_kd: Strength of the unbiased distillation in mib.
        plop_features: Strength of local POD on feature maps; 0.01 for VOC, 0.001 for ADE20K.
        plop_logits: Strength of local POD on logits; 0.0005 for VOC, 0.00001 for ADE20K.
        plop_entropy: How plop accepts pseudo-labels: paper (entropy below the median of its class) or official (as the
            authors' code does, which hardly ever rejects where there are many classes).
        plop_pod: What local POD pools: paper (features as they are) or official (squared, as the authors' code does).
        ssul_threshold: Probability from which ssul believes the old model.
        comformer_kd: Strength of the distillation of queries in comformer.
        eclipse_focal: Factor of eclipse's focal loss, a mean over the columns of the head; 50 in the authors' code, for
            100 classes and more. Half the number of columns gives each column of a small head the weight it has there.
        eclipse_prompts: Queries that eclipse adds in each task after the first.
        eclipse_delta: Logit manipulation of eclipse: share of what other tasks' classifiers see that counts as "no
            object" (several separated by commas as for --epochs); below 0: share of the task's own "no object".
    """

    epochs: CountPerTask = 5
    lr: PositivePerTask = 2e-3
    encoder_lr: Positive = 0.1
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: BelowOne = 0.9
    weight_decay: NonNegative = 1e-4
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    accumulate: Count = 1
    clip_grad: NonNegative = 0.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    ema: BelowOne = 0.0
    patience: Whole = 0
    train: Literal["head", "full"] = "head"
    mask_model: str = "tiny"
    mask_score: float | None = None
    mask_overlap: float | None = None
    exemplars: Count = 100
    ewc_lambda: float | None = None
    ewc_decay: float = 1.0
    ewc_fisher: str = "samples"
    fisher: str = "empirical"
    si_lambda: float = 1.0
    si_damping: float = 0.1
    lwf_lambda: float = 1.0
    lwf_columns: str = "all"
    lwf_temperature: float = 2.0
    der_alpha: float = 0.1
    der_beta: float = 0.5
    wise_alpha: float = 0.5
    lora_rank: int = 8
    lora_scope: str = "grow"
    ranpac_dim: int = 2000
    fecam_shrink: float = 1.0
    fecam_shrink_off: float = 0.0
    fecam_tukey: float = 1.0
    tip_alpha: float = 1.17
    tip_beta: float = 1.0
    tip_shots: int = 16
    k: int = 16
    vote: str = "softmax"
    tau: float = 0.07
    alpha: float = 2.0
    purity: Annotated[float, Gt(0), Le(1)] = 0.5
    anonymous: bool = False
    fuse_lambda: float = 0.7
    fuse_threshold: float = 1.01
    fuse_alpha: float = 0.4
    fuse_beta: float = 0.7
    fuse_gamma: float = 0.3
    fusion: str = "fixed"
    retrieval: str = "cosine"
    names: Path | None = None
    pixel_kd: float = 100.0
    ilt_features: float = 100.0
    mib_kd: float = 10.0
    plop_features: float = 0.01
    plop_logits: float = 0.0005
    plop_entropy: str = "paper"
    plop_pod: str = "paper"
    ssul_threshold: float = 0.7
    comformer_kd: float = 10.0
    eclipse_focal: float = 50.0
    eclipse_prompts: int = 10
    eclipse_delta: float | str = "0.4,0.5"


@dataclass(frozen=True)
class MethodConfig(MethodOptions):
    """The knobs a method is given. Recorded as they stand in every result."""

    keys: str = "pooled"
    """How a region becomes a key: `pooled` or `masked` (see `kc.methods.regions.KEYS`)."""
    decoder: str = "fpn"
    """What fine-tuning classifies in segmentation: pixels (`kc.methods.finetune.decoders`), or `regions`, the proposals
    and keys that retrieval reads."""
