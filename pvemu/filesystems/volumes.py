"""What lies in a row on a disk and is no partition: linear LVM volumes, and the content of an MD mirror's member.

Volumes are named as GRUB names them, `lvm/GROUP-VOLUME` with hyphens doubled, and `md/NAME`. The layouts are those of
lvm2's lib/format_text/layout.h and lib/label/label.h, and `struct mdp_superblock_1` of linux/raid/md_p.h. A volume that
goes on elsewhere (in several pieces, on several disks, striped, thin) is left out.
"""

from __future__ import annotations

import re
from struct import unpack_from
from typing import TYPE_CHECKING, Final, NamedTuple

from pvemu.filesystems.volume import BROKEN, BrokenImageError, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.filesystems.volume import SectorSource

__all__ = ["ContainedVolume", "read_volumes"]

_SECTOR: Final = 512
_LABEL_SECTORS: Final = 4  #: where LVM looks for its label
_AREA_MAGIC: Final = b" LVM2 x[5A%r0N*>"
_AREA_HEADER: Final = 512
_MAX_TEXT: Final = 1 << 22
_MAX_DEPTH: Final = 16
_TOKEN: Final = re.compile(r'\s+|#[^\n]*|"((?:[^"\\]|\\.)*)"|(-?\d+)|([\w.+-]+)|([][{}=,])')
_MD_MAGIC: Final = 0xA92B4EFC
_MD_PLACES: Final = (4096, 0)  #: of the superblock, in versions 1.2 and 1.1; in 1.0 the content comes first
_MD_MIRROR: Final = 1

#: A section of LVM's metadata.
_Value = str | int | list[str | int]
_Section = dict[str, "_Value | _Section"]


class ContainedVolume(NamedTuple):
    """``start`` and ``size`` in bytes on the disk."""

    start: int
    size: int
    name: str


def read_volumes(disk: SectorSource, start: int, size: int) -> list[ContainedVolume]:
    """The volumes in a stretch of the disk; none where there is no LVM and no mirror."""
    volume = Volume(disk, start, size)
    for read in (_physical_volume, _mirror):
        try:
            found = list(read(volume))
        except BROKEN:
            continue
        if found:
            return found
    return []


# -- MD ----------------------------------------------------------------------------------------------------------------
def _mirror(volume: Volume) -> Iterator[ContainedVolume]:
    for place in _MD_PLACES:
        raw = volume.read(place, 256)
        magic, version = unpack_from("<II", raw)
        (level,) = unpack_from("<i", raw, 72)
        offset, size = (sectors * _SECTOR for sectors in unpack_from("<QQ", raw, 128))
        if (magic, version, level) == (_MD_MAGIC, 1, _MD_MIRROR) and offset + size <= volume.size:
            name = raw[32:64].split(b"\0", 1)[0].decode("utf-8", "replace")
            yield ContainedVolume(volume.start + offset, size, f"md/{name.rpartition(':')[2]}")  # without its host
            return


# -- LVM ---------------------------------------------------------------------------------------------------------------
def _physical_volume(volume: Volume) -> Iterator[ContainedVolume]:
    for sector in range(_LABEL_SECTORS):
        label = volume.read(sector * _SECTOR, _SECTOR)
        if label[:8] == b"LABELONE" and label[24:32] == b"LVM2 001":
            (at,) = unpack_from("<I", label, 20)
            identifier = label[at : at + 32].decode("latin-1")
            for name, group in _parse(_metadata(volume, label, at + 40)).items():
                if isinstance(group, dict):
                    yield from _logical_volumes(volume, name, group, identifier)
            return


def _metadata(volume: Volume, label: bytes, lists: int) -> str:
    """The text of the first metadata area: ``lists`` is where in the label those of places begin, of data first."""
    ends = 0
    while True:
        offset, size = unpack_from("<QQ", label, lists)
        lists += 16
        ends += not offset
        if ends == 2:
            raise BrokenImageError("no metadata here: it is on another disk of the group")
        if offset and ends == 1:
            break
    header = volume.read(offset, _AREA_HEADER)
    place, length = unpack_from("<QQ", header, 40)
    if header[4:20] != _AREA_MAGIC or length > _MAX_TEXT or not _AREA_HEADER <= place < size:
        raise BrokenImageError("no metadata area")
    first = volume.read(offset + place, min(length, size - place))
    rest = volume.read(offset + _AREA_HEADER, length - len(first))  # it is written in a ring
    return (first + rest).decode("utf-8", "replace")


def _logical_volumes(volume: Volume, group_name: str, group: _Section, identifier: str) -> Iterator[ContainedVolume]:
    extent = _number(group, "extent_size") * _SECTOR
    for own, place in _sections(group, "physical_volumes"):
        if str(place.get("id")).replace("-", "") != identifier:
            continue
        base = _number(place, "pe_start") * _SECTOR
        for name, logical in _sections(group, "logical_volumes"):
            run = _run(logical, own)
            if run is not None:
                start, count = run[0] * extent + base, run[1] * extent
                full = "-".join(part.replace("-", "--") for part in (group_name, name))
                if count and start + count <= volume.size:
                    yield ContainedVolume(volume.start + start, count, f"lvm/{full}")


def _run(logical: _Section, own: str) -> tuple[int, int] | None:
    """(first extent, count) of a volume that lies in a row on the physical volume called ``own``."""
    pieces = sorted(
        (_number(part, "start_extent"), _number(part, "extent_count"), part.get("stripes"), part.get("type"))
        for name, part in logical.items()
        if name.startswith("segment") and isinstance(part, dict)
    )
    first, total = None, 0
    for start, count, stripes, kind in pieces:
        if kind not in {"striped", "linear"} or not isinstance(stripes, list) or len(stripes) != 2:
            return None
        on, at = stripes
        first = at if first is None else first
        if on != own or not isinstance(first, int) or start != total or at != first + total:
            return None
        total += count
    return (first, total) if isinstance(first, int) else None


def _sections(section: _Section, name: str) -> Iterator[tuple[str, _Section]]:
    found = section.get(name)
    for key, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, dict):
            yield key, value


def _number(section: _Section, name: str) -> int:
    value = section.get(name)
    if not isinstance(value, int) or value < 0:
        raise BrokenImageError(f"metadata without {name}")
    return value


def _parse(text: str) -> _Section:
    """LVM's configuration language: sections in braces, numbers, strings, and lists of these."""
    top: _Section = {}
    stack = [top]
    name = ""
    values: list[str | int] | None = None
    for token in _tokens(text):
        match token:
            case ("mark", "{") if len(stack) < _MAX_DEPTH:
                inner: _Section = {}
                stack[-1][name] = inner
                stack.append(inner)
            case ("mark", "}") if len(stack) > 1:
                stack.pop()
            case ("mark", "["):
                values = []
            case ("mark", "]") if values is not None:
                stack[-1][name], values = values, None
            case ("mark", "=" | ","):
                pass
            case ("name", str(word)):
                name = word
            case ("string" | "number", word):
                if values is not None:
                    values.append(word)
                else:
                    stack[-1][name] = word
            case _:
                raise BrokenImageError("metadata that cannot be read")
    return top


def _tokens(text: str) -> Iterator[tuple[str, str | int]]:
    at = 0
    text = text.rstrip("\0")
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise BrokenImageError("metadata that cannot be read")
        at = match.end()
        string, number, word, mark = match.groups()
        if string is not None:
            yield "string", string
        elif number is not None:
            yield "number", int(number)
        elif word is not None:
            yield "name", word
        elif mark is not None:
            yield "mark", mark
