"""`kc data`: what benchmarks there are, whether their data is sound, what is in it, what it looks like."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from kc.errors import KcError, unknown_name
from kc.types import SplitName

PARTS: tuple[SplitName, ...] = get_args(SplitName)
COMMANDS = {
    "list": ("look", "every benchmark: kind, classes, parts, and whether its data is here"),
    "show": ("look", "one benchmark: its classes, splits, licence, and how to get its data"),
    "fetch": ("look", "download its archives, verify and unpack them; goes on where it was interrupted"),
    "check": ("count", "read every file and report everything that is wrong; status 1 if anything is"),
    "stats": ("count", "count images, pixels and instances of every class, task, step and setting"),
    "preview": ("look", "a contact sheet of images with their labels, as PNG"),
    "split": ("split", "show which classes and images each task has, and write them in the formats of MiB and PLOP"),
    "shards": ("shards", "write it as tar shards with an index (WebDataset); goes on where it was interrupted"),
}
"""Sub-command -> (`kc.commands.data_MODULE`, whose `run_COMMAND` does it, what it does)."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in the way of the other commands."""

    def error(self, message: str) -> NoReturn:
        raise KcError(f"{message} (see `{self.prog} --help`)")


def parser(prog: str = "kc data") -> argparse.ArgumentParser:
    """The parser of `kc data` and its sub-commands."""
    top = _Parser(prog=prog, description=__doc__, allow_abbrev=False)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str) -> argparse.ArgumentParser:
        text = COMMANDS[name][1]
        result = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        result.add_argument("--data-root", type=Path, help="folder of the data sets (default: KC_DATA)")
        if name != "list":
            result.add_argument("benchmark", help="name of a benchmark, or path of a manifest")
        return result

    def reading(result: argparse.ArgumentParser) -> None:
        result.add_argument("--limit-images", type=_positive, help="at most so many images of a part")
        result.add_argument("--num-workers", type=_positive, help="threads that read (default: one a core, at most 8)")

    def streaming(result: argparse.ArgumentParser) -> None:
        result.add_argument("--tasks", type=_positive, help="number of tasks; classes are divided evenly")
        result.add_argument("--split", help="one of the benchmark's named task splits, such as 15-1")
        result.add_argument("--class-order", default="natural", help="natural, shuffle:SEED, or a file of class names")
        result.add_argument("--seed", type=_natural, default=0, help="of the setting `partition` (default: 0)")

    def skipping(result: argparse.ArgumentParser) -> None:
        result.add_argument("--skip-bad", action="store_true", help="list files that cannot be read, and go on without")

    listing = command("list")
    listing.add_argument("--kind", choices=("classification", "semantic", "panoptic"), help="only of this kind")
    command("show")
    fetching = command("fetch")
    fetching.add_argument("--keep-archives", action="store_true", help="leave the archives in DATA_ROOT/.kc-downloads")
    checking = command("check")
    checking.add_argument("--part", choices=PARTS, action="append", help="train, val or test (default: all)")
    checking.add_argument("--strict", action="store_true", help="notes (equal images, empty classes) count as problems")
    reading(checking)
    counting = command("stats")
    counting.add_argument("--part", choices=PARTS, default="train", help="train (default), val or test")
    counting.add_argument("--out", type=Path, help="also write everything, with the images of every step, as JSON")
    streaming(counting)
    reading(counting)
    skipping(counting)
    previewing = command("preview")
    previewing.add_argument("--part", choices=PARTS, default="train", help="train (default), val or test")
    previewing.add_argument("--images", type=_positive, default=12, help="how many (default: 12)")
    previewing.add_argument("--columns", type=_positive, default=3, help="in a row (default: 3)")
    previewing.add_argument("--out", type=Path, help="the PNG to write (default: BENCHMARK-PART.png)")
    splitting = command("split")
    streaming(splitting)
    splitting.add_argument("--setting", default="overlapped", help="overlapped, disjoint, sequential or partition")
    splitting.add_argument("--image-lists", type=Path, help="folder of train-0.npy, train-1.npy ... (or .txt)")
    splitting.add_argument("--limit-images", type=_positive, help="at most so many images")
    splitting.add_argument("--out", type=Path, help="folder for tasks.yaml, order.txt, train-T.npy and train-T.txt")
    sharding = command("shards")
    sharding.add_argument("--out", required=True, help="folder, or an address such as s3://bucket/camvid")
    sharding.add_argument("--part", choices=PARTS, action="append", help="train, val or test (default: all)")
    sharding.add_argument("--per-shard", type=_positive, default=1000, help="images a shard (default: 1000)")
    reading(sharding)
    skipping(sharding)
    return top


def run_data(arguments: Sequence[str], prog: str = "kc data") -> int:
    """Run one sub-command. Returns the exit status. Raises KcError for what a user can mend."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise unknown_name("command of kc data", arguments[0], COMMANDS)
    given = parser(prog).parse_args(list(arguments) or ["--help"])
    module = importlib.import_module(f"kc.commands.data_{COMMANDS[given.command][0]}")
    status: int = getattr(module, f"run_{given.command}")(given)
    return status


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)
