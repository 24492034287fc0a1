"""What a cohort is made of: pairs, each with a name, and how all of them are registered."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..engine.options import RegistrationOptions
from ..terms.inputs import Inputs

_LONGEST = 120


@dataclass(frozen=True)
class Pair:
    """One registration of a cohort.

    Attributes
    ----------
    name : str
        Its folder is called so: unique in the cohort, letters, digits, dots, hyphens and underscores.
    inputs : Inputs
        Absolute paths.
    group : str
        What it belongs to, such as a subject; for people who sort.
    """

    name: str
    inputs: Inputs
    group: str = ""


@dataclass(frozen=True)
class Settings:
    """How every pair is registered, and what is written of it.

    Attributes
    ----------
    options : RegistrationOptions
        Without a number of threads, the workers share those that there are.
    extension : {".nii.gz", ".nrrd"}
        Format of the images.
    displacement, report : bool
        Whether the total displacement and the report are written, too.
    """

    options: RegistrationOptions = field(default_factory=RegistrationOptions)
    extension: str = ".nii.gz"
    displacement: bool = False
    report: bool = False


def folder_name(text: str) -> str:
    """A name as a folder can have it on every system; a long one is cut and told from others by its hash."""
    plain = re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip("._") or "pair"
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}-{_hash(text)}"


def with_unique_names(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs; those that share a name get a hash of their files behind it, which stays when others are added.

    Upper and lower case count as the same, as they do on some disks.
    """
    found = list(pairs)
    count = Counter(pair.name.lower() for pair in found)
    return [replace(p, name=f"{p.name}-{_hash(str(p.inputs))}") if count[p.name.lower()] > 1 else p for p in found]


def repeated_name(pairs: Sequence[Pair]) -> str:
    """A name that more than one pair has; empty if there is none."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.name.lower() in seen:
            return pair.name
        seen.add(pair.name.lower())
    return ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
