"""Every method, encoder, proposer, base and study by its name, one line each. Loads in milliseconds.

`spec_of` reads what a component says of itself from the text of its module, without importing it: the modules import
torch, which takes seconds, and a mistyped option should fail at once. Only the options dataclasses, the class's
`spec = ...` and the imports that they stand on are executed; `load_class` imports the module itself.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from kc.errors import unknown_name
from kc.spec import BaseSpec, EncoderSpec, MethodSpec, NamedSpec, ProposerSpec, Spec

Kind = Literal["method", "encoder", "proposer", "base", "study"]

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
    "hybrid": "kc.methods.hybrid:Hybrid",
    "hybrid-replay": "kc.methods.hybrid:HybridReplay",
    "zeroshot": "kc.methods.retrieval.zeroshot:ZeroShot",
}
ENCODERS: dict[str, str] = {
    "lite0": "kc.encoders.lite:Lite0",
    "lite1": "kc.encoders.lite:Lite1",
    "lite2": "kc.encoders.lite:Lite2",
    "timm": "kc.encoders.timm_model:TimmEncoder",
    "torchvision": "kc.encoders.torchvision_model:TorchvisionResNet",
    "open_clip": "kc.encoders.open_clip_model:OpenClipEncoder",
    "mlp": "kc.encoders.mlp:Mlp",
}
PROPOSERS: dict[str, str] = {
    "superpixels": "kc.proposals.superpixels:Superpixels",
    "felzenszwalb": "kc.proposals.superpixels:Felzenszwalb",
    "edges": "kc.proposals.edges:Edges",
    "mask2former": "kc.proposals.mask2former:Mask2FormerMasks",
    "sam": "kc.proposals.sam:SegmentAnything",
    "grounded-sam": "kc.proposals.grounded_sam:GroundedSam",
    "detectron2": "kc.proposals.detectron2_model:Detectron2Masks",
}
BASES: dict[str, str] = {
    "conse": "kc.openvocab.conse:Conse",
    "clip": "kc.openvocab.dense_clip.base:DenseBase",
    "maskclip": "kc.openvocab.dense_clip.base:DenseBase",
    "sclip": "kc.openvocab.dense_clip.base:DenseBase",
    "clearclip": "kc.openvocab.dense_clip.base:DenseBase",
    "naclip": "kc.openvocab.dense_clip.base:DenseBase",
    "proxyclip": "kc.openvocab.dense_clip.base:DenseBase",
    "gclip": "kc.openvocab.dense_clip.base:DenseBase",
    "fc-clip": "kc.openvocab.fc_clip.base:FcClipBase",
    "detectron2": "kc.openvocab.detectron2_base:Detectron2Base",
}
STUDIES: dict[str, str] = {
    "votes": "kc.studies.votes:Votes",
    "pruning": "kc.studies.pruning:Pruning",
    "noise": "kc.studies.noise:Noise",
    "scaling": "kc.studies.scaling:Scaling",
    "unknowns": "kc.studies.unknowns:Unknowns",
    "corruptions": "kc.studies.corruptions:Corruptions",
    "migrate": "kc.studies.migrate:Migrate",
    "compositionality": "kc.studies.compositionality:Compositionality",
    "rerank": "kc.studies.rerank:Rerank",
    "dimensions": "kc.studies.dimensions:Dimensions",
    "deletion": "kc.studies.deletion:Deletion",
    "growth": "kc.studies.growth:Growth",
    "sweep": "kc.studies.sweep:Sweep",
    "ann": "kc.studies.ann:Ann",
    "domain-shift": "kc.studies.domain_shift:DomainShift",
    "coverage": "kc.studies.coverage:Coverage",
    "transfer": "kc.studies.transfer:Transfer",
    "spaces": "kc.studies.spaces:Spaces",
    "continual": "kc.studies.continual:Continual",
    "background": "kc.studies.background:BackgroundShift",
    "vocabulary": "kc.studies.vocabulary:Vocabulary",
    "other-domain": "kc.studies.other_domain:OtherDomain",
}
TABLES: Mapping[Kind, dict[str, str]] = MappingProxyType(
    {"method": METHODS, "encoder": ENCODERS, "proposer": PROPOSERS, "base": BASES, "study": STUDIES}
)
LIGHT = ("kc.spec", "kc.types", "kc.errors")
"""Modules of kc that options and specs may import, beside those whose name ends in `options`."""
LIGHT_PACKAGES = ("__future__", "dataclasses", "typing", "pathlib", "annotated_types", "pydantic")
"""Other packages that they may import."""


def method_spec(name: str) -> MethodSpec:
    """The spec of method `name`. Raises UnknownNameError."""
    return cast(MethodSpec, spec_of("method", name))


def encoder_spec(name: str) -> EncoderSpec:
    """The spec of encoder `name` (without its argument). Raises UnknownNameError."""
    return cast(EncoderSpec, spec_of("encoder", name))


def proposer_spec(name: str) -> ProposerSpec:
    """The spec of proposer `name` (without its argument). Raises UnknownNameError."""
    return cast(ProposerSpec, spec_of("proposer", name))


def base_spec(name: str) -> BaseSpec:
    """The spec of base `name` (without its argument). Raises UnknownNameError."""
    return cast(BaseSpec, spec_of("base", name))


def spec_of(kind: Kind, name: str) -> Spec:
    """The spec of the component `name`. Raises UnknownNameError, with the nearest valid names."""
    return read_spec(_place(kind, name))


def _place(kind: Kind, name: str) -> str:
    if name not in TABLES[kind]:
        raise unknown_name(kind, name, forms(kind))
    return TABLES[kind][name]


def forms(kind: Kind) -> list[str]:
    """The valid names of `kind` as they are written, such as `timm:MODEL[@FILE]`."""
    specs = {name: read_spec(place) for name, place in TABLES[kind].items()}
    return [(spec.form if isinstance(spec, NamedSpec) else "") or name for name, spec in specs.items()]


def load_class(kind: Kind, name: str) -> type[Any]:
    """Import the class of the component `name`. Raises UnknownNameError."""
    module, _, attribute = _place(kind, name).partition(":")
    return cast(type[Any], getattr(importlib.import_module(module), attribute))


@cache
def read_spec(place: str) -> Spec:
    """The spec of the class at `module:class`, read from the module's text.

    Raises TypeError, naming the module, for a class that has no spec or one that stands on what is not LIGHT.
    """
    module, _, attribute = place.partition(":")
    if module in sys.modules:
        spec = vars(getattr(sys.modules[module], attribute)).get("spec")
    else:
        spec = _spec_in_text(place, module, attribute)
    if not isinstance(spec, Spec):
        raise TypeError(f"{place}: its spec is a {type(spec).__name__}")
    return spec


def _spec_in_text(place: str, module: str, attribute: str) -> Any:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise TypeError(f"{place}: there is no module {module}")
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    # Dataclasses look their module up by this name; it is not that of the real module, which may be imported later.
    light = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(f"{module}.__spec_text__", None))
    sys.modules[light.__name__] = light
    body = [node for node in tree.body if _is_light(node)]
    wanted = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == attribute), None)
    try:
        exec(compile(ast.Module(body, []), found.origin, "exec"), light.__dict__)
        return eval(compile(ast.Expression(_assigned(wanted)), found.origin, "eval"), light.__dict__)
    except NameError as error:
        allowed = f"{', '.join(LIGHT)} and *options"
        raise TypeError(f"{place}: its options and spec may use only {allowed} ({error})") from error


def _assigned(node: ast.ClassDef | None) -> ast.expr:
    for line in [] if node is None else node.body:
        if isinstance(line, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "spec" for t in line.targets):
            return line.value
    raise NameError("the class has no line `spec = ...`")


def _is_light(node: ast.stmt) -> bool:
    """Imports of light modules, dataclasses, and constants in capitals that are literals."""
    if isinstance(node, ast.ImportFrom):
        name = node.module or ""
        if name.startswith("kc."):
            return name in LIGHT or name.rpartition(".")[2].endswith("options")
        return name.partition(".")[0] in LIGHT_PACKAGES
    if isinstance(node, ast.ClassDef):
        return any("dataclass" in ast.dump(d) for d in node.decorator_list) and node.name.endswith("Options")
    if isinstance(node, ast.Assign):
        return all(isinstance(t, ast.Name) and t.id.isupper() for t in node.targets) and _is_literal(node.value)
    return False


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True
