"""`kc data`: what benchmarks there are, whether their data is sound, what is in it, what it looks like."""

from __future__ import annotations

from kc.actions import Table

ACTIONS: Table = {
    "list": ("kc.commands.data_show:list_all", "every benchmark: kind, classes, parts, and whether its data is here"),
    "show": ("kc.commands.data_show:show", "one benchmark: its classes, splits, licence, and how to get its data"),
    "fetch": ("kc.commands.data_show:fetch", "download its archives, verify and unpack them; resumes"),
    "check": ("kc.commands.data_check:check", "read every file and report all that is wrong; status 1 if anything is"),
    "stats": ("kc.commands.data_check:stats", "count images, pixels and instances by class, task, step and setting"),
    "preview": ("kc.commands.data_show:preview", "a contact sheet of images with their labels, as PNG"),
    "split": (
        "kc.commands.data_write:split",
        "show the classes and images of each task; write lists as MiB and PLOP do",
    ),
    "shards": ("kc.commands.data_write:shards", "write it as tar shards with an index (WebDataset); resumes"),
}
