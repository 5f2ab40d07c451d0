"""Names of samples and sources as an anonymous memory keeps them.

HMAC-SHA-256 under a random salt that the memory's manifest holds, 128 bits of it. What it protects: no file name,
person or place can be read from the files of the memory, nor matched with another memory's. What it does not: whoever
has the manifest, and so the salt, can test a guess; keys, classes, tasks and the order of rows stay what they are, and
a key may tell much of its image. It is a pseudonym, not the absence of personal data.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from kc.memory.view import Names, as_names


def new_salt() -> str:
    """256 random bits, as hexadecimal digits."""
    return secrets.token_hex(32)


def hashed(names: Iterable[str], salt: str) -> list[str]:
    """Each name as 32 hexadecimal digits; as it is where there is no salt."""
    if not salt:
        return list(names)
    names, key = list(names), bytes.fromhex(salt)
    # File names may hold bytes that are no UTF-8; Python carries them as lone surrogates.
    digests = {
        name: hmac.new(key, name.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:32] for name in set(names)
    }
    return [digests[name] for name in names]


def wanted(names: Names | None, salt: str) -> frozenset[str] | None:
    """The names that a caller asks for, as they are stored."""
    return None if names is None else frozenset(hashed(as_names(names), salt))
