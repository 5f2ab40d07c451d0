"""`kc memory build`: fill a memory from a benchmark, or from unlabelled images and a list of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Le

from kc.commands.console import Terminal
from kc.commands.memory import MemoryConfig
from kc.errors import KcError, UnknownNameError, stopped
from kc.spec import Count, DataOptions
from kc.types import ClassInfo

if TYPE_CHECKING:
    from kc.data.manifest import Manifest
    from kc.memory.disk import Memory
    from kc.methods.retrieval.build import KeysOf, Picture
    from kc.proposals.grounded_sam import GroundedSam
    from kc.session import Session
    from kc.stream.progress import RunProgress

INPUT_SIZE = (480, 640)
"""(H, W) that images are given to the encoder in where no benchmark says it; pooled keys depend on it."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig(MemoryConfig, DataOptions):
    """Fill a memory from the labels of a benchmark, or from unlabelled images and a list of names. The same command
    goes on after a stop.

    Args:
        benchmark: Benchmark whose training images are stored, or whose names are looked for in --images.
        images: Folder of unlabelled images.
        names: File with the names to look for in --images, one a line; default: those of --benchmark.
        fallback: Images for names that end without a row: folders of classes, or, with --proposals grounded-sam,
            unlabelled ones.
        encoder: Encoder of the keys.
        keys: How a region becomes a key: averaged from the image's feature map, or cropped, blacked out and encoded.
        proposals: Regions that become rows: oracle (the labelled segments; the default), any of kc run, or
            grounded-sam:DINO_PATH,SAM_PATH, which finds names in --images.
        purity: Share of a region's pixels that must be labelled as one class for it to become a row.
        limit_images: At most so many images of the benchmark.
    """

    benchmark: str | None = None
    images: Path | None = None
    names: Path | None = None
    fallback: Path | None = None
    encoder: str = "lite0"
    keys: Literal["pooled", "masked"] = "pooled"
    proposals: str | None = None
    purity: Annotated[float, Gt(0), Le(1)] = 0.5
    limit_images: Count | None = None


def build(config: BuildConfig) -> int:
    """`kc memory build`. Returns the exit status; raises KcError before any model loads where something is missing."""
    from kc.data.manifest import load_manifest

    manifest = None if config.benchmark is None else load_manifest(config.benchmark)
    names = _checked(config, manifest)
    from kc.memory.disk import Memory
    from kc.methods.retrieval.build import add_named
    from kc.proposals.grounded_sam import GroundedSam
    from kc.stream.progress import RunProgress

    session = opened(config, names)
    regions = session.regions
    proposer = None if regions is None or regions.partitions is None else regions.partitions.proposer
    grounded = proposer if isinstance(proposer, GroundedSam) else None
    with Memory.open_or_create(
        config.memory, dim=session.dim, fingerprint=session.fingerprint, info=session.memory_info("knn")
    ) as memory:
        stored = memory.class_names
        if stored != names:
            raise KcError(
                f"{config.memory} was made for {len(stored)} other names: its classes never change, so a longer list "
                "needs a new memory (rows move with kc memory export and import)"
            )
        task = max([0, *(v.task for v in memory.versions())])
        before = len(memory)
        with (
            stopped("the same command goes on: what is committed stays and is not stored twice"),
            RunProgress(Terminal()) as progress,
        ):
            if config.images is None:
                _from_benchmark(config, session, memory, task, progress)
            elif grounded is not None:
                files = _files(config.images)
                pictures = _pictures(config.images, files)
                with progress.bar(f"looking for {len(names)} names", len(files), "images") as bar:
                    add_named(memory, pictures, names, grounded, keys_in(session),
                              source=config.images.name, task=task, advance=bar.advance)  # fmt: skip
            progress.line(f"{len(memory) - before:,} new rows, {len(memory):,} in all")
            progress.line(f"memory: {config.memory}")
            if config.fallback is not None:
                _fallback(config.fallback, names, memory, keys_in(session), grounded, task, progress)
    return 0


def _checked(config: BuildConfig, manifest: Manifest | None) -> dict[int, str]:
    """Class id -> name. Refuses what cannot work before torch or any model loads."""
    from kc.encoders.load import check_encoder_name
    from kc.proposals.load import check_proposals, reads_names

    check_encoder_name(config.encoder)
    for option in ("images", "fallback", "names"):
        path: Path | None = getattr(config, option)
        if path is not None and not (path.is_file() if option == "names" else path.is_dir()):
            raise KcError(f"--{option} {path}: no such {'file' if option == 'names' else 'folder'}")
    if config.proposals is not None:
        check_proposals(config.proposals)
    finds_names = reads_names(config.proposals or "")
    if config.images is not None and not finds_names:
        raise KcError("--images has no labels: add --proposals grounded-sam:DINO_PATH,SAM_PATH, which finds the names")
    if config.fallback is not None and not finds_names and not any("/" in file for file in _files(config.fallback)):
        raise KcError(
            f"--fallback {config.fallback} has no folders of classes: add --proposals "
            "grounded-sam:DINO_PATH,SAM_PATH, which finds names in images without labels"
        )
    if config.images is None and manifest is None:
        raise KcError("say what to build from: --benchmark NAME, or --images FOLDER with --names FILE")
    if config.images is None and config.names is not None:
        raise KcError("--names goes with --images: the names of a benchmark stand in its manifest")
    if config.names is not None:
        return _names(config.names)
    if manifest is None:
        raise KcError("--images needs the names to look for: --names FILE, or --benchmark NAME for its classes")
    return {c.id: c.name for c in manifest.info}


def _names(path: Path) -> dict[int, str]:
    """One name a line; its class id is its place among the names, from 0. KcError for none, or one that is twice."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise KcError(f"--names {path}: cannot read this list ({error})") from error
    twice = sorted({n for n in names if names.count(n) > 1})
    if not names or twice:
        raise UnknownNameError(f"--names {path}: " + (f"{', '.join(twice)} stand there twice" if twice else "no name"))
    return dict(enumerate(names))


def opened(config: BuildConfig, names: Mapping[int, str]) -> Session:
    """What makes keys: of a benchmark's images with the caches of `kc run`, or of images that leave nothing on disk."""
    from kc.config import RunConfig
    from kc.resolve import with_options
    from kc.session import Facts, Session, open_data

    run = RunConfig(methods="knn", encoder=config.encoder, keys=config.keys, decoder="fpn", purity=config.purity)
    run = with_options(replace(run, proposals=config.proposals or "oracle", tasks=1, limit_images=config.limit_images))
    if config.images is None:
        assert config.benchmark is not None
        run = replace(run, benchmark=config.benchmark, data_root=config.data_root)
        return Session.of_data(run, open_data(run))
    size, classes = INPUT_SIZE, {i: ClassInfo(i, name) for i, name in names.items()}
    return Session.open(run, Facts("", "semantic", size, classes))


def keys_in(session: Session) -> KeysOf:
    """Keys (N, D) of given regions of an image."""
    return lambda image, segments: session.keys_of(image, segments)[0]


def _from_benchmark(config: BuildConfig, session: Session, memory: Memory, task: int, progress: RunProgress) -> None:
    """One pass over the training images with all their labels."""
    from kc.methods.retrieval.build import add_labelled

    data, name = session.stream, session.facts.name
    loader = data.loader("train", 0, "all", raw=True)
    with progress.bar(f"remembering {name}", len(data.presence("train")), "images") as bar:
        add_labelled(memory, loader, session.regions or session.features, data.class_ids,
                     purity=config.purity, source=name, task=task, advance=bar.advance)  # fmt: skip


def _files(folder: Path) -> list[str]:
    """The images below `folder`, relative to it, sorted."""
    from kc.data.readers.files import list_files

    return [file.removeprefix("./") for file in list_files(folder, ".", recursive=True)]


def _pictures(folder: Path, files: Sequence[str]) -> Iterator[Picture]:
    from kc.data.readers.files import read_image
    from kc.methods.retrieval.build import Picture

    for file in files:
        yield Picture(file, read_image(folder, file))


def _fallback(
    folder: Path,
    names: Mapping[int, str],
    memory: Memory,
    keys: KeysOf,
    grounded: GroundedSam | None,
    task: int,
    progress: RunProgress,
) -> None:
    """Rows for the names that have none, and a line that says which of them were found."""
    from kc.data.readers.files import read_image
    from kc.methods.retrieval.build import FallbackImages, add_fallback

    images = FallbackImages(_files(folder), lambda file: read_image(folder, file), keys, grounded)
    with progress.bar("looking up names without a row", len(names), "names") as bar:
        added = add_fallback(memory, names, images, task, bar.advance)
    found = [f"{name} {n}" for name, n in added.items() if n]
    lacking = [name for name, n in added.items() if not n]
    progress.line(f"fallback: {sum(added.values()):,} rows for {len(found)} names without one: {', '.join(found)}")
    if lacking:
        progress.line(f"still without a row: {', '.join(lacking)}")
