"""What one run is asked to do: the typed signature behind the command line and YAML files. Loads in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kc.methods.config import MethodOptions


@dataclass(frozen=True)
class RunConfig(MethodOptions):
    """Compare methods over one stream of tasks. The knobs of the methods come from `MethodOptions`.

    Args:
        benchmark: Name of a benchmark, or path of a manifest (YAML).
        data_root: Folder that holds the data sets; default: the environment variable KC_DATA.
        tasks: Number of tasks the classes are divided into; default: 10, or what --split says.
        split: Named split of the benchmark, such as 6-1, or a published table of class ids (FILE.yaml:NAME, such as
            splits/voc-plop.yaml:15-5s_b); wins over --tasks.
        setting: Which images and labels a task sees: overlapped, disjoint, sequential or partition.
        class_order: natural, shuffle:SEED, or a file: one class name or id a line, .npy of class ids, FILE.yaml:NAME.
        image_lists: Folder of train-0.npy, train-1.npy ... (MiB, PLOP), or a table .npy (CoMFormer, ECLIPSE): the
            training images of each task, instead of those of the setting.
        skip_bad: List images that cannot be read, and go on without them.
        stream: What changes from task to task: class, task (answers restricted to the task's classes), domain, online
            (one pass), blurry, long-tailed, or names (vocabulary growth by names only): see docs/streams.md.
        domains: Stream domain: one task each: clean or a corruption, with :STRENGTH (1 to 5) or at strength 3:
            gaussian-noise, shot-noise, impulse-noise, gaussian-blur, defocus-blur, contrast, brightness, jpeg,
            pixelate.
        shard_order: How training images of shards are shuffled: random (from all of them) or stream (shard after shard
            with a shuffle buffer: for shards that lie far away).
        blurry_classes: Stream blurry: share of the classes that leak into other tasks.
        leak: Stream blurry: share of the training images of such a class that come in another task.
        leak_to: Stream blurry: later (a class never comes before its task) or all (any other task, as published).
        imbalance: Stream long-tailed: training images of the most frequent class divided by those of the rarest.
        methods: Methods to compare, separated by commas.
        encoder: Encoder: lite0, lite1, lite2, timm:MODEL[@FILE], torchvision:MODEL[@FILE], open_clip:MODEL[@FILE], or
            mlp:WIDTHxDEPTH, a multilayer perceptron on grey pixels that has learned nothing (use it with --train full).
        base: Open-vocabulary base model that retrieval is fused with and zeroshot asks: none, conse, or a training-free
            dense CLIP: clip, maskclip, sclip, clearclip, naclip, proxyclip or gclip, on the encoder's CLIP or, as
            ROW:MODEL@FILE, on one of its own; fc-clip@FILE, made by kc fc-clip convert; or a model of detectron2 for
            the names it knows, detectron2:CONFIG.yaml,WEIGHTS.pth.
        protocol: Dense CLIP: how images are cut and scores decided: sclip, naclip, clearclip, proxyclip or whole-image;
            default: that of the row's paper.
        fuse_layers: Dense CLIP gclip: blocks whose attention is fused: 6,7 ... or auto; default: the paper's for
            ViT-B-16-quickgelu, else auto.
        fuse_weights: Dense CLIP gclip: one weight a fused block and one for the last block; default: their mean.
        head_mode: Dense CLIP gclip: per_head or averaged; default: per_head.
        cs_layers: Dense CLIP: blocks whose strongest channel is suppressed: 6,7 ..., auto or none; default: the row's.
        pamr_steps: Dense CLIP: steps of pixel-adaptive mask refinement; 0 is none.
        fc_clip_alpha: Base fc-clip: share of the frozen CLIP in the opinion on names it was trained on; default: 0.4.
        fc_clip_beta: Base fc-clip: that share for other names; default: 0.8.
        fc_clip_sides: Base fc-clip: SHORT,LONG side of the image it sees; default: 800,1333, on Cityscapes 1024,2560.
        proposals: Where masks come from in segmentation: superpixels, felzenszwalb, edges, oracle, fc-clip (of the
            base), or folders of checkpoints of transformers: mask2former:PATH, sam:PATH, or
            grounded-sam:DINO_PATH,SAM_PATH, which looks for the names of all classes; or a model of detectron2,
            detectron2:CONFIG.yaml,WEIGHTS.pth;
            default: what the benchmark recommends, else superpixels.
        batch_size: Images a batch.
        keys: How a region becomes a key: pooled (from the image's feature map) or masked (crop, black out, encode);
            default: what the benchmark recommends, else pooled.
        decoder: What fine-tuning classifies in segmentation: pixels, by fpn (a small feature pyramid over all levels)
            or deeplabv3 (torchvision's ASPP on the coarsest; with torchvision:resnet101 the network of MiB and PLOP),
            or regions (the proposals and keys that retrieval reads); default: what the benchmark recommends, else fpn.
        seed: Seed, or several separated by commas: tables then show mean and deviation.
        out: Folder in which run folders are made.
        resume: Run folder to finish; everything else is read from it.
        accelerator: Lightning accelerator: auto, cpu, gpu ...
        devices: Number of devices, or of processes with --accelerator cpu; they share each batch out
            (where the images of a task do not divide by it, the first ones are seen twice in an epoch).
        num_workers: Processes that load data; the numbers do not depend on it.
        limit_images: At most so many images a split, for a quick look.
        save_predictions: Write each method's answers on the test images after the last task, and what was asked, below
            methods/NAME-sSEED/predictions: COCO panoptic and results, index PNGs, or a table.
        wandb: Weights & Biases: online, offline or disabled.
        logger: Further loggers of scores and costs a task, separated by commas: csv, tensorboard.
        wandb_project: Project of the W&B runs.
        wandb_entity: User or team of the W&B runs.
    """

    benchmark: str = "digit-scenes"
    data_root: Path | None = None
    tasks: int | None = None
    split: str | None = None
    setting: str = "overlapped"
    class_order: str = "natural"
    image_lists: Path | None = None
    skip_bad: bool = False
    shard_order: str = "random"
    stream: str = "class"
    domains: str = "clean,gaussian-noise,gaussian-blur,jpeg,contrast"
    blurry_classes: float = 0.5
    leak: float = 0.3
    leak_to: str = "later"
    imbalance: float = 100.0
    methods: str = "finetune,replay,joint,knn"
    encoder: str = "lite0"
    base: str = "none"
    protocol: str | None = None
    fuse_layers: str | None = None
    fuse_weights: str | None = None
    head_mode: str | None = None
    cs_layers: str | None = None
    pamr_steps: int = 0
    fc_clip_alpha: float | None = None
    fc_clip_beta: float | None = None
    fc_clip_sides: str | None = None
    proposals: str | None = None
    batch_size: int = 16
    keys: str | None = None
    decoder: str | None = None
    seed: int | str = 0
    out: Path = Path("runs")
    resume: Path | None = None
    accelerator: str = "auto"
    devices: int = 1
    num_workers: int = 0
    limit_images: int | None = None
    save_predictions: bool = False
    wandb: str = "offline"
    logger: str = ""
    wandb_project: str = "kc"
    wandb_entity: str | None = None

    @property
    def method_names(self) -> list[str]:
        """The methods, in order, as given."""
        return [m.strip() for m in self.methods.split(",") if m.strip()]

    @property
    def loggers(self) -> list[str]:
        """The loggers beside W&B, in order, as given."""
        return [m.strip() for m in self.logger.split(",") if m.strip()]

    @property
    def seeds(self) -> list[int]:
        """The seeds. Raises ValueError for what is not a list of whole numbers."""
        return [int(s) for s in str(self.seed).split(",")]
