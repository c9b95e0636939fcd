"""A recipe's disk as types: what its keys may say, and what is wrong with them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

from pvemu.mkimage.entries import read_entries, read_patches
from pvemu.mkimage.filesystems import FILE_SYSTEMS
from pvemu.mkimage.layout import Disk, FileSystem, LogicalVolume, Mirror, Partition, PartitionTable, VolumeGroup
from pvemu.mkimage.partmap import PARTMAPS
from pvemu.mkimage.partmap.bsd import SLICE
from pvemu.mkimage.partmap.gpt import GPT_TYPES
from pvemu.mkimage.partmap.mbr import EXTENDED, MINIX
from pvemu.mkimage.volumes.lvm import PE_START, lvm_id
from pvemu.mkimage.volumes.md import METADATA, member_data

if TYPE_CHECKING:
    from pvemu.mkimage.layout import Content
    from pvemu.mkimage.schema import Table

__all__ = ["read_disk"]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FAT_SERIAL = re.compile(r"[0-9A-F]{4}-[0-9A-F]{4}")
_LVM_ID = re.compile(r"[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}")
_LVM_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*")
_ALIGNMENT = 1 << 20
_SLOT = "partition"


def read_disk(table: Table, artifact: str) -> Disk:
    """A disk; `artifact` is its name, from which identifiers are made that the recipe does not give."""
    sector_size = table.number("sector-size", 512, 512, 4096)
    if sector_size not in {512, 4096}:
        table.fail("sector-size", "512 or 4096")
    size = table.size("size") if "size" in table else 0
    if size % sector_size:
        table.fail("size", f"a multiple of {sector_size} bytes")
    reader = _Reader(artifact, sector_size)
    if not size and ("fs" in table or "raid" in table or "volume-group" in table):
        table.fail("size", "a size, since there is no partition that says how large the disk is")
    content = reader.content(table, size, default_table="mbr" if _SLOT in table or not size else "")
    if not size:
        assert isinstance(content, PartitionTable)  # the only content that has a size of its own
        size = reader.natural_size(content)
    patches = read_patches(table)
    if not all(0 <= patch.at <= size - len(patch.replace) for patch in patches):
        table.fail("patch", f"places (at) in a disk of {size} bytes")
    return Disk(size, sector_size, content, patches)


class _Reader:
    """Reads one disk. Sizes that are 0 are not known yet."""

    def __init__(self, artifact: str, sector_size: int) -> None:
        self._artifact = artifact
        self._sector = sector_size

    def natural_size(self, table: PartitionTable) -> int:
        """The smallest size for a disk with that table."""
        end, tail = table.partitions[-1].end, PARTMAPS[table.kind].tail(self._sector)
        return end + (-(-tail // _ALIGNMENT) * _ALIGNMENT)

    def content(self, holder: Table, size: int, default_table: str = "") -> Content | None:
        """What a disk, a partition or a volume of `size` bytes holds."""
        raid = holder.table("raid")
        if raid is not None:
            return self._mirror(raid, holder, size)
        return self._inside(holder, size, default_table)

    def _inside(self, holder: Table, size: int, default_table: str = "") -> Content | None:
        """What it holds, or what the array holds that it is a member of."""
        kind = holder.choice("table", ("", *PARTMAPS), default_table)
        file_system = holder.choice("fs", ("", *FILE_SYSTEMS), "")
        group = holder.table("volume-group")
        given = [key for key, is_given in (("table", kind), ("fs", file_system), ("volume-group", group)) if is_given]
        if len(given) > 1:
            holder.fail(given[1], f"nothing, since there is {given[0]}: exactly one says what is in it")
        if kind:
            return self._table(holder, kind, size)
        if file_system:
            return self._file_system(holder, file_system)
        if group is not None:
            return self._group(group, size)
        for key in ("uuid", "label", "file", "features", "options"):
            if key in holder:
                kinds = ", ".join(FILE_SYSTEMS)
                holder.fail("fs", f"one of {kinds}, since there is a label, UUID or file to put into it")
        if _SLOT in holder:
            holder.fail("table", f"one of {', '.join(PARTMAPS)}, since there are partitions in it")
        return None

    # -- file systems --------------------------------------------------------------------------------------------------
    def _file_system(self, holder: Table, kind: str) -> FileSystem:
        uuid, label = holder.text("uuid", ""), holder.text("label", "")
        if kind.startswith("fat"):
            if not _FAT_SERIAL.fullmatch(uuid):
                holder.fail("uuid", 'a FAT serial number such as "12AB-34CD" (a fixed one, so that builds agree)')
            if label != label.upper():
                holder.fail("label", "capital letters, which is all that FAT has")
        elif not _UUID.fullmatch(uuid):
            holder.fail("uuid", "a UUID in lower case (without a fixed one every build would differ)")
        most = FILE_SYSTEMS[kind].label_length
        if len(label.encode()) > most:
            holder.fail("label", f"at most {most} bytes")
        features = holder.texts("features")
        if features and kind not in {"ext2", "ext3", "ext4", "btrfs"}:
            holder.fail("features", "nothing: only ext2, ext3, ext4 and btrfs have such a list; use options")
        options, entries = holder.texts("options"), read_entries(holder, "file")
        return FileSystem(kind, label, uuid, features, options, entries, holder.where)

    # -- partitions ----------------------------------------------------------------------------------------------------
    def _table(self, holder: Table, kind: str, size: int) -> PartitionTable:
        partmap = PARTMAPS[kind]
        head, tail = partmap.head(self._sector), partmap.tail(self._sector)
        partitions: list[Partition] = []
        for part in holder.tables(_SLOT):
            before = partitions[-1].end if partitions else 0
            # a logical partition's record stands where the one before it ends
            low = max(head, before + (self._sector if kind == "extended" else 0))
            usual = before + _ALIGNMENT if kind == "extended" else max(before, _ALIGNMENT)
            partitions.append(self._partition(part, kind, low, usual, len(partitions) + 1))
            part.done()
        if not 0 < len(partitions) <= partmap.most:
            holder.fail(_SLOT, f"one to {partmap.most} partitions, which is what {_article(kind)} holds")
        end = partitions[-1].end + tail
        if size and end > size:
            holder.fail("size", f"at least {end} bytes, which is what its partitions take")
        identifier: int | str
        if kind == "gpt":
            identifier = self._guid(holder, "id", kind)
        else:
            identifier = holder.number("id", 0, 0, 0xFFFFFFFF) if kind == "mbr" else 0
        return PartitionTable(kind, identifier, tuple(partitions))

    def _partition(self, part: Table, kind: str, low: int, usual: int, number: int) -> Partition:
        sector = self._sector
        start, size = part.size("start", str(usual)), part.size("size")
        if start < low or start % sector:
            part.fail("start", f"a multiple of {sector}, at least {low} bytes (where the one before it ends)")
        if size == 0 or size % sector:
            part.fail("size", f"a multiple of {sector} bytes, and not 0")
        content = self.content(part, size)
        if kind == "mbr" and isinstance(content, PartitionTable) and content.kind == "mbr":
            content = replace(content, base=start)
        is_bootable = part.flag("bootable") if kind in {"mbr", "gpt"} else False
        name = guid = ""
        usual_type = _usual_type(content)
        type_: int | str
        if kind == "gpt":
            name, guid = part.text("name", ""), self._guid(part, "guid", f"{kind} {number}")
            if len(name.encode("utf-16-le")) > 72:
                part.fail("name", "at most 36 letters")
            type_ = part.text("type", usual_type[1])
            type_ = GPT_TYPES.get(type_, type_)
            if not _UUID.fullmatch(type_):
                part.fail("type", f"one of {', '.join(GPT_TYPES)}, or a GUID in lower case")
        elif kind == "bsd":
            type_ = part.number("type", 0, 0, 0xFF)
        else:
            type_ = part.number("type", usual_type[0], 1, 0xFF)
        return Partition(start, size, type_, is_bootable, name, guid, content, part.where)

    def _guid(self, table: Table, key: str, what: str) -> str:
        guid = table.text(key, str(uuid5(NAMESPACE_OID, f"{self._artifact} {what}")))
        if not _UUID.fullmatch(guid):
            table.fail(key, "a GUID in lower case")
        return guid

    # -- arrays and volume groups --------------------------------------------------------------------------------------
    def _mirror(self, raid: Table, holder: Table, size: int) -> Mirror:
        metadata = raid.choice("metadata", METADATA, "1.2")
        uuid, name = raid.text("uuid"), raid.text("name", "")
        if not _UUID.fullmatch(uuid):
            raid.fail("uuid", "a UUID in lower case, the same for all members")
        if len(name.encode()) > 32:
            raid.fail("name", "at most 32 bytes")
        devices = raid.number("devices", 2, 1, 32)
        device = raid.number("device", 0, 0, devices - 1)
        raid.done()
        length = member_data(metadata, size)[1]
        if length <= 0:
            raid.fail("metadata", "a larger partition or disk, since it takes more than is there")
        return Mirror(metadata, uuid, name, device, devices, self._inside(holder, length))

    def _group(self, table: Table, size: int) -> VolumeGroup:
        name = table.text("name")
        if not _LVM_NAME.fullmatch(name):
            table.fail("name", "letters, digits and _ + . -")
        extent = table.size("extent-size", "4MiB")
        if extent < 1024 or extent & extent - 1:
            table.fail("extent-size", "a power of two, at least 1KiB")
        identifier = self._lvm_id(table, name)
        volumes: list[LogicalVolume] = []
        for item in table.tables("volume"):
            volumes.append(self._volume(item, name, extent))
            item.done()
        needed = PE_START + sum(volume.size for volume in volumes)
        if needed > size:
            table.fail("volume", f"volumes of {size - PE_START} bytes in all, which is what there is room for")
        table.done()
        return VolumeGroup(name, identifier, lvm_id(self._artifact, name, "pv"), extent, tuple(volumes))

    def _volume(self, item: Table, group: str, extent: int) -> LogicalVolume:
        name, size = item.text("name"), item.size("size")
        if not _LVM_NAME.fullmatch(name):
            item.fail("name", "letters, digits and _ + . -")
        if not size or size % extent:
            item.fail("size", f"a multiple of the extents' {extent} bytes, and not 0")
        return LogicalVolume(name, self._lvm_id(item, group, name), size, self.content(item, size))

    def _lvm_id(self, table: Table, *names: str) -> str:
        identifier = table.text("id", lvm_id(self._artifact, *names))
        if not _LVM_ID.fullmatch(identifier):
            table.fail("id", "32 letters and digits in groups of 6-4-4-4-4-4-6")
        return identifier


def _usual_type(content: Content | None) -> tuple[int, str]:
    """The type of a partition that says none: an MBR's and a GPT's."""
    match content:
        case FileSystem(kind=kind) if kind.startswith("fat"):
            return 0x0C, GPT_TYPES["data"]
        case Mirror():
            return 0xFD, GPT_TYPES["raid"]
        case VolumeGroup():
            return 0x8E, GPT_TYPES["lvm"]
        case PartitionTable(kind="extended"):
            return EXTENDED, GPT_TYPES["linux"]
        case PartitionTable(kind="bsd"):
            return SLICE, GPT_TYPES["linux"]
        case PartitionTable(kind="mbr"):
            return MINIX, GPT_TYPES["linux"]
        case _:
            return 0x83, GPT_TYPES["linux"]


def _article(kind: str) -> str:
    return {"mbr": "an MBR", "gpt": "a GPT", "extended": "an extended partition", "bsd": "a BSD label"}[kind]
