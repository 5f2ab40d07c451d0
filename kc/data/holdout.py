"""A validation set for benchmarks that have none: a seeded share of the training images of every class."""

from __future__ import annotations

import numpy as np

from kc.types import BoolArray, Int64Array


def held_out(class_table: BoolArray, share: float, seed: int) -> Int64Array:
    """Sorted row indices, int64, of the images to hold out of `class_table` (n, C) bool.

    Of a class with n_c images round(share * n_c) are held out, at least one where it has two. Where images hold
    several classes, the rarest class chooses first and images that are held out for it count for the others too, so a
    frequent class may give more than its share. Every class keeps a training image, whatever is asked for.
    `share` lies in (0, 1).
    """
    order = np.random.default_rng(seed).permutation(len(class_table))
    n_images = class_table.sum(axis=0)
    left = n_images.copy()
    held = np.zeros(len(class_table), dtype=np.bool_)
    for column in np.argsort(n_images, kind="stable"):
        wanted = max(1, int(share * n_images[column] + 0.5))
        for row in order[class_table[order, column]]:
            if n_images[column] - left[column] >= wanted:
                break
            if not held[row] and (left[class_table[row]] > 1).all():
                held[row] = True
                left -= class_table[row]
    return np.flatnonzero(held).astype(np.int64)
