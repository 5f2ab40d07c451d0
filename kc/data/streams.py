"""The kinds of stream: what changes from task to task, and what an answer may name. Loads in milliseconds.

| stream        | what a task brings                                         | scored over                          |
|---------------|------------------------------------------------------------|--------------------------------------|
| `class`       | new classes, images and labels under the setting           | all classes seen                     |
| `task`        | the same                                                   | the classes of each image's own task |
| `online`      | the same, every image once                                 | all classes seen                     |
| `blurry`      | the same, and some images of classes of other tasks        | all classes seen                     |
| `long-tailed` | the same, with ever fewer training images from class to class | all classes seen                  |
| `names`       | after the first task names alone, no image                 | all classes seen                     |
| `domain`      | all classes in another domain: a corruption of every image | each domain                          |

`docs/streams.md` says what every metric then means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt

from kc.errors import SplitError, unknown_name
from kc.types import EvaluatedOn, Setting, StreamKind

if TYPE_CHECKING:
    from kc.data.manifest import Manifest

STREAMS: tuple[StreamKind, ...] = get_args(StreamKind)
LeakTo = Literal["later", "all"]
LEAK_TO: tuple[LeakTo, ...] = get_args(LeakTo)
CLEAN = "clean"
STANDARD_DOMAINS = "clean,gaussian-noise,gaussian-blur,jpeg,contrast"
USUAL_STRENGTH = 3


@dataclass(frozen=True)
class DomainOptions:
    """Options of a domain-incremental stream.

    Args:
        corruptions: One task each, separated by commas: clean or a corruption, with :STRENGTH (1 to 5) or at strength
            3: gaussian-noise, shot-noise, impulse-noise, gaussian-blur, defocus-blur, contrast, brightness, jpeg,
            pixelate.
    """

    corruptions: str = STANDARD_DOMAINS


@dataclass(frozen=True)
class BlurryOptions:
    """Options of a blurry stream.

    Args:
        classes: Share of the classes that leak into other tasks.
        leak: Share of the training images of such a class that come in another task.
        leak_to: later (a class never comes before its task) or all (any other task, as published).
    """

    classes: Annotated[float, Gt(0), Le(1)] = 0.5
    leak: Annotated[float, Gt(0), Lt(1)] = 0.3
    leak_to: LeakTo = "later"


@dataclass(frozen=True)
class LongTailedOptions:
    """Options of a long-tailed stream.

    Args:
        imbalance: Training images of the most frequent class divided by those of the rarest.
    """

    imbalance: Annotated[float, Ge(1)] = 100.0


STREAM_OPTIONS: dict[str, type[Any]] = {
    "domain": DomainOptions,
    "blurry": BlurryOptions,
    "long-tailed": LongTailedOptions,
}
"""Kind of stream -> its options; other kinds have none."""


@dataclass(frozen=True)
class Domain:
    """One look of every image: `corruption` of `kc.data.corruptions` at `strength` 1 to 5, or CLEAN at 0."""

    corruption: str
    strength: int

    @property
    def clean(self) -> bool:
        """Whether images stay as they are."""
        return self.corruption == CLEAN

    @property
    def name(self) -> str:
        """ "clean", or "jpeg-3"."""
        return CLEAN if self.clean else f"{self.corruption}-{self.strength}"


@dataclass(frozen=True)
class Stream:
    """A kind of stream and its numbers; each kind reads its own.

    `domains`: names of corruptions or "clean", each with ":STRENGTH" or at strength 3, separated by commas, one a
    task. `blurry_classes`: share of the classes that leak; `leak`: share of the training images of such a class that
    come in another task. `leak_to` "later": only in later ones, so the classes of the last task do not leak; "all": in
    any other task, as in the published protocols (Bang et al. 2021, blurry-M: all classes, leak M %; Koh et al. 2022,
    i-Blurry-N-M: N % of the classes do not leak, of the others M % do). `imbalance`: training images of the most
    frequent class divided by those of the rarest.

    Raises `UnknownNameError` for a kind or a corruption that does not exist, `SplitError` for a number out of range.
    """

    kind: StreamKind = "class"
    domains: str = STANDARD_DOMAINS
    blurry_classes: float = 0.5
    leak: float = 0.3
    leak_to: LeakTo = "later"
    imbalance: float = 100.0

    def __post_init__(self) -> None:
        if self.kind not in STREAMS:
            raise unknown_name("stream", self.kind, STREAMS)
        for flag, value in (("--blurry.classes", self.blurry_classes), ("--blurry.leak", self.leak)):
            if not 0 < value <= 1 or (flag == "--blurry.leak" and value == 1):
                most = "at most 1" if flag == "--blurry.classes" else "below 1"
                raise SplitError(f"{flag} {value}: a share above 0 and {most} is expected")
        if self.leak_to not in LEAK_TO:
            raise unknown_name("leak_to", self.leak_to, LEAK_TO)
        if self.imbalance < 1:
            raise SplitError(f"--long-tailed.imbalance {self.imbalance}: must be at least 1")
        if self.kind == "domain":
            self.domain_list()

    def domain_list(self) -> tuple[Domain, ...]:
        """The domains in the order of the tasks."""
        from kc.data.corruptions import CORRUPTIONS, N_STRENGTHS

        found: list[Domain] = []
        for part in self.domains.split(","):
            name, _, strength = part.strip().partition(":")
            if name not in (CLEAN, *CORRUPTIONS):
                raise unknown_name("domain", name, [CLEAN, *CORRUPTIONS])
            if name == CLEAN and strength:
                raise SplitError(f"--domain.corruptions {self.domains}: {CLEAN!r} has no strength")
            if strength and (not strength.isdecimal() or not 1 <= int(strength) <= N_STRENGTHS):
                raise SplitError(f"--domain.corruptions {self.domains}: the strength of {name} is 1 to {N_STRENGTHS}")
            found.append(Domain(name, 0 if name == CLEAN else int(strength or USUAL_STRENGTH)))
        if len(set(found)) < len(found):
            raise SplitError(f"--domain.corruptions {self.domains}: a domain is there twice")
        return tuple(found)

    @property
    def evaluated_on(self) -> EvaluatedOn:
        """Over which classes answers are scored."""
        return self.kind if self.kind in ("task", "domain") else "seen"


def check_stream(stream: Stream, manifest: Manifest, setting: Setting) -> None:
    """Refuse a stream that a benchmark cannot come in. Raises `SplitError`."""
    if stream.kind == "long-tailed" and manifest.task_kind != "classification":
        raise SplitError(
            f"a long-tailed stream thins out the images of each class; in the {manifest.task_kind} {manifest.name} an "
            "image holds several classes, whose frequencies are long-tailed as they are"
        )
    if stream.kind == "domain" and setting != "overlapped":
        raise SplitError(
            f"setting {setting!r} divides classes between tasks, but a domain-incremental stream shows all of them in "
            "every task: leave --setting out"
        )
