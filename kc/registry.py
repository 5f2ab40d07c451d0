"""Every method by its name, and what each can do: read before any of them is imported."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "finetune": "kc.methods.finetune.naive:Finetune",
    "joint": "kc.methods.finetune.naive:Joint",
    "replay": "kc.methods.finetune.replay:Replay",
    "linear-probe": "kc.methods.finetune.naive:LinearProbe",
    "ewc": "kc.methods.finetune.ewc:Ewc",
    "ewc-online": "kc.methods.finetune.ewc:EwcOnline",
    "si": "kc.methods.finetune.si:Si",
    "lwf": "kc.methods.finetune.lwf:Lwf",
    "ilt": "kc.methods.finetune.ilt:Ilt",
    "mib": "kc.methods.finetune.mib:Mib",
    "plop": "kc.methods.finetune.plop:Plop",
    "ssul": "kc.methods.finetune.ssul:Ssul",
    "mask2former": "kc.methods.finetune.mask2former:Mask2Former",
    "mask2former-joint": "kc.methods.finetune.mask2former:Mask2FormerJoint",
    "mask2former-replay": "kc.methods.finetune.mask2former:Mask2FormerReplay",
    "comformer": "kc.methods.finetune.comformer:CoMFormer",
    "eclipse": "kc.methods.finetune.eclipse:Eclipse",
    "er": "kc.methods.finetune.er:Er",
    "der++": "kc.methods.finetune.der:DerPlusPlus",
    "icarl": "kc.methods.finetune.icarl:ICarl",
    "wise-ft": "kc.methods.finetune.wise_ft:WiseFt",
    "lora": "kc.methods.finetune.lora:Lora",
    "knn": "kc.methods.retrieval.visual_memory:VisualMemory",
    "ncm": "kc.methods.retrieval.prototypes:NearestClassMean",
    "ranpac": "kc.methods.retrieval.ranpac:RanPac",
    "fecam": "kc.methods.retrieval.fecam:FeCam",
    "tip-adapter": "kc.methods.retrieval.tip_adapter:TipAdapter",
    "knn-clip": "kc.methods.retrieval.knn_clip:KnnClip",
    "ret-clip": "kc.methods.retrieval.ret_clip:RetClip",
    "hybrid": "kc.methods.hybrid.hybrid:Hybrid",
    "hybrid-replay": "kc.methods.hybrid.hybrid:HybridReplay",
    "zeroshot": "kc.methods.retrieval.zeroshot:ZeroShot",
}
"""Every method by its name on the command line: `module:class`."""

CLASSIFICATION_ONLY = {"ncm", "ranpac", "fecam", "tip-adapter", "linear-probe", "er", "der++", "icarl"}
MASKS = {"mask2former", "mask2former-joint", "mask2former-replay", "comformer", "eclipse"}
PIXELS_ONLY = {"ilt", "mib", "plop", "ssul"} | MASKS
NEEDS_BACKGROUND = {"mib", "plop", "ssul"}
"""Methods that read old classes into pixels labelled "none of the classes"."""
TRAINS_ENCODER = {"lora"}
NEEDS_BASE = {"zeroshot", "knn-clip", "ret-clip"}
NEEDS_EXEMPLARS = {"replay", "er", "der++", "icarl", "mask2former-replay", "hybrid-replay"}
ANSWERS_LATE = {"icarl"}
NEEDS_PACKAGE = {"lora": ("peft", "lora"), **dict.fromkeys(MASKS, ("transformers", "masks"))}
"""Method -> (package, extra that brings it)."""

SECOND_PASS = {"joint", "mask2former-joint", "ewc", "ewc-online", "icarl", "plop"}
"""Methods that look at training images again when a task has been learned, or in later tasks."""
ONE_CLASS_ONE_TASK = {"fecam", "icarl", "ilt", "mib", "plop", "ssul", "eclipse", "comformer"}
"""Methods in which a class belongs to one task: kept as that task left it, or background where it is not labelled."""
BY_NAME = {"zeroshot", "knn", "tip-adapter", "knn-clip", "ret-clip"}
"""Methods that, on a base model, answer for a class of which only the name is known."""
