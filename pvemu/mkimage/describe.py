"""What an artifact is, in lines for a reader: `pvemu image show` prints them below its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.mkimage.layout import Disk, FileSystem, Mirror, PartitionTable, VolumeGroup
from pvemu.mkimage.recipe import Bzimage, Cpio, GrubImage, Plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.mkimage.layout import Content
    from pvemu.mkimage.recipe import Artifact

__all__ = ["describe"]

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def describe(artifact: Artifact) -> list[str]:
    """Lines, indented by what is in what; none for a plain file."""
    match artifact:
        case Disk(content=content, sector_size=sector_size):
            sectors = [f"sectors of {sector_size} bytes"] if sector_size != 512 else []
            return sectors + list(_content(content))
        case GrubImage(target=target, prefix=prefix, modules=modules, memdisk=memdisk):
            carried = [f"memdisk: {' '.join(entry.to for entry in memdisk)}"] if memdisk else []
            return [f"{target}, prefix {prefix}", f"{len(modules)} modules: {' '.join(modules)}", *carried]
        case Cpio(entries=entries):
            return [f"{len(entries)} entries"]
        case Bzimage(compression=compression):
            return [f"bzImage, {compression}"]
        case Plain():
            return []


def _content(content: Content | None) -> Iterator[str]:
    match content:
        case None:
            yield "zeros"
        case FileSystem(kind=kind, label=label, uuid=uuid, entries=entries):
            named = f" label {label!r}" if label else ""
            yield f"{kind}{named} UUID {uuid}"
            yield from (f"  {entry.to}" for entry in entries)
        case PartitionTable(kind=kind, identifier=identifier, partitions=parts):
            shown = {"mbr": f" {identifier:#010x}" if isinstance(identifier, int) else "", "gpt": f" {identifier}"}
            yield f"{kind}{shown.get(kind, '')}"
            for number, part in enumerate(parts, start=1):
                names = " ".join(filter(None, [part.name, part.guid, "bootable" if part.is_bootable else ""]))
                type_ = f"{part.type:#04x}" if isinstance(part.type, int) else part.type
                yield f"  {number}: {_size(part.size)} at {_size(part.start)}, type {type_} {names}".rstrip()
                yield from (f"    {line}" for line in _content(part.content))
        case Mirror():
            yield f"MD RAID1 {content.metadata} {content.name!r} {content.uuid}, {content.device} of {content.devices}"
            yield from (f"  {line}" for line in _content(content.content))
        case VolumeGroup(name=name, id=identifier, volumes=volumes):
            yield f"LVM {name} {identifier}"
            for volume in volumes:
                yield f"  {volume.name}: {_size(volume.size)} {volume.id}"
                yield from (f"    {line}" for line in _content(volume.content))


def _size(size: int) -> str:
    return next((f"{size // unit} {name}" for name, unit in _UNITS if size and size % unit == 0), f"{size} bytes")
