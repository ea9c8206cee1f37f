"""What is known of a folder of paintings, and keeping it from one start to the next."""

import re
from collections import Counter
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from artgan.errors import printable
from artgan.files import read_checked, write_checked

# What artgan keeps beside the paintings of a folder.
FOLDER = ".artgan"
RECORD = "files.json"
REPORT = "report.html"
# Raise when the same file would be described in another way than before.
VERSION = 1

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Facts:
    """What is known of one picture file.

    Attributes:
        file: name relative to the folder, with forward slashes.
        size: in bytes; -1 if it cannot be read, or is a folder that may not be searched.
        mtime_ns: time of its last change.
        sha256: of its content; empty if it cannot be read.
        reason: why it cannot be used; None if it can. What follows is then zero or None.
        format: as Pillow names it, such as JPEG.
        mode: as Pillow names it, such as RGB or CMYK.
        width: in pixels, upright.
        height: in pixels, upright.
        fingerprint: 64-bit perceptual hash.
        color: mean red, green, blue, 0 to 255.
        frame: left, top, right, bottom of what lies within a plain border; None without one.
    """

    file: str
    size: int
    mtime_ns: int
    sha256: str
    reason: str | None = None
    format: str | None = None
    mode: str | None = None
    width: int = 0
    height: int = 0
    fingerprint: int = 0
    color: tuple[int, int, int] = (0, 0, 0)
    frame: Box | None = None


@dataclass(frozen=True)
class Checkup:
    """What is known of a folder.

    Attributes:
        root: the folder.
        facts: of its picture files, in the order of their names.
        duplicates: groups of files that show the same; the first of each is the one to keep.
        others: how many files are no pictures, by their ending in lower case ("" for none).
    """

    root: Path
    facts: list[Facts]
    duplicates: list[list[str]]
    others: dict[str, int]

    @property
    def usable(self) -> list[Facts]:
        return [facts for facts in self.facts if facts.reason is None]

    @property
    def unusable(self) -> list[Facts]:
        return [facts for facts in self.facts if facts.reason is not None]

    @property
    def superfluous(self) -> set[str]:
        """The files that `dataset.deduplicate=true` leaves out."""
        return {file for group in self.duplicates for file in group[1:]}

    @property
    def reasons(self) -> dict[str, int]:
        """How many files cannot be used for what kind of reason, the most frequent first."""
        kinds = Counter(re.split("[:,]", facts.reason)[0] for facts in self.facts if facts.reason)
        return dict(kinds.most_common())

    def summary(self) -> str:
        """What is in the folder, in one line."""
        said = [f"{len(self.usable):,} of {len(self.facts):,} pictures can be used"]
        if self.unusable:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
            said.append(f"{len(self.unusable):,} cannot ({reasons})")
        if self.superfluous:
            said.append(f"{len(self.superfluous):,} show what another shows")
        framed = sum(facts.frame is not None for facts in self.facts)
        if framed:
            said.append(f"{framed:,} have a plain border")
        return f"{printable(str(self.root))}: {'; '.join(said)}."

    @property
    def facts_by_name(self) -> dict[str, Facts]:
        return {facts.file: facts for facts in self.facts}


def write_record(checkup: Checkup, folder: Path) -> None:
    """Writes what is known into `folder`."""
    content = {
        "version": VERSION,
        "facts": [astuple(facts) for facts in checkup.facts],
        "duplicates": checkup.duplicates,
        "others": checkup.others,
    }
    write_checked(folder / RECORD, content)


def read_record(folder: Path) -> Checkup:
    """What was known the last time; nothing where the record is missing or damaged."""
    try:
        content = read_checked(folder / RECORD)
        if content["version"] != VERSION:
            raise ValueError(content["version"])
        facts = [_facts(*entry) for entry in content["facts"]]
        return Checkup(folder, facts, content["duplicates"], content["others"])
    except (OSError, ValueError, KeyError, TypeError):
        return Checkup(folder, [], [], {})


def _facts(*entry: Any) -> Facts:
    *others, color, frame = entry
    return Facts(*others, tuple(color), frame and tuple(frame))  # type: ignore[call-arg]
