"""FAT12, FAT16 and FAT32 with long names, as Microsoft's fatgen103 lays them out."""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Final

from pvemu.filesystems.volume import BrokenImageError, Budget, Extent, Node, merge_extents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.filesystems.volume import Volume

__all__ = ["Fat"]

_READ_ONLY, _HIDDEN, _SYSTEM, _VOLUME_ID, _DIRECTORY = 1, 2, 4, 8, 16
_LONG_NAME: Final = _READ_ONLY | _HIDDEN | _SYSTEM | _VOLUME_ID
_LOWER_BASE, _LOWER_EXTENSION = 8, 16
_MAX_DIRECTORY: Final = 65536 * 32
_MEDIA: Final = {0xF0, *range(0xF8, 0x100)}


class Fat:
    """The file system on ``volume``."""

    name = "vfat"
    has_pending_journal = False

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        raw = volume.read(0, 512)
        sector, per_cluster, reserved, nr_fats, root_entries, total16, media, fat16 = unpack_from("<HBHBHHBH", raw, 11)
        total32, fat32, _, _, root_cluster = unpack_from("<IIHHI", raw, 32)
        if (
            sector not in (512, 1024, 2048, 4096) or not per_cluster or per_cluster & per_cluster - 1 or not reserved
            or not 1 <= nr_fats <= 4 or media not in _MEDIA or raw[510:512] != b"\x55\xaa"
        ):  # fmt: skip
            raise BrokenImageError("no FAT boot sector")
        fat_sectors = fat16 or fat32
        root_sectors = -(-root_entries * 32 // sector)
        first_data = reserved + nr_fats * fat_sectors + root_sectors
        self._nr_clusters = ((total16 or total32) - first_data) // per_cluster
        if not fat_sectors or self._nr_clusters <= 0:
            raise BrokenImageError("a FAT boot sector that cannot be")
        self._cluster = sector * per_cluster
        self._budget = Budget(2 * self._nr_clusters)
        self._data_at = first_data * sector
        self._bits = 12 if self._nr_clusters < 4085 else 16 if self._nr_clusters < 65525 else 32
        self._fat = volume.read(reserved * sector, min(fat_sectors * sector, volume.size - reserved * sector))
        size = root_entries * 32
        at = (first_data - root_sectors) * sector
        self._root = [Extent(0, at, size, size)] if fat16 else self._chain(root_cluster, _MAX_DIRECTORY)

    def nodes(self) -> Iterator[Node]:
        """Everything that a path leads to. Chains that lead in circles use the budget up, and the rest is left out."""
        self._budget = Budget(2 * self._nr_clusters)
        yield Node("/", "directory", sum(extent.size for extent in self._root), self._root)
        waiting = [("/", self._root)]
        seen: set[int] = set()
        while waiting:
            path, extents = waiting.pop()
            for name, attributes, cluster, size in self._entries(extents):
                is_directory = bool(attributes & _DIRECTORY)
                if size > self._volume.size:
                    continue
                chain = self._chain(cluster, _MAX_DIRECTORY if is_directory else size)
                if not is_directory:
                    yield Node(path + name, "file", size, chain)
                elif cluster not in seen:
                    seen.add(cluster)
                    yield Node(f"{path}{name}/", "directory", sum(extent.size for extent in chain), chain)
                    waiting.append((f"{path}{name}/", chain))

    def _chain(self, cluster: int, size: int) -> list[Extent]:
        """The clusters from ``cluster`` on, as far as ``size`` bytes go."""
        found: list[Extent] = []
        done = 0
        while 2 <= cluster < self._nr_clusters + 2 and done < size:
            self._budget.spend()
            length = min(self._cluster, size - done)
            offset = self._data_at + (cluster - 2) * self._cluster
            if offset + length > self._volume.size:
                break
            found.append(Extent(done, offset, length, length))
            done += length
            cluster = self._next(cluster)
        return merge_extents(found)

    def _next(self, cluster: int) -> int:
        at = cluster * self._bits >> 3
        width = 4 if self._bits == 32 else 2
        value = int.from_bytes(self._fat[at : at + width], "little")
        if self._bits == 12:
            return value >> 4 if cluster & 1 else value & 0xFFF
        return value & 0x0FFFFFFF

    def _entries(self, extents: list[Extent]) -> list[tuple[str, int, int, int]]:
        """Name, attributes, first cluster and size of each entry."""
        entries: list[tuple[str, int, int, int]] = []
        long_name: dict[int, bytes] = {}
        data = b"".join(self._volume.read(extent.offset, extent.size) for extent in extents)
        for at in range(0, len(data) - 31, 32):
            raw = data[at : at + 32]
            if not raw[0]:
                break
            if raw[0] == 0xE5:
                long_name = {}
            elif raw[11] & 0x3F == _LONG_NAME:
                long_name[raw[0] & 0x1F] = raw[1:11] + raw[14:26] + raw[28:32]
            else:
                name = _long(long_name) or _short(raw)
                long_name = {}
                high, low, size = *unpack_from("<H", raw, 20), *unpack_from("<HI", raw, 26)
                if not raw[11] & _VOLUME_ID and name not in (".", ".."):
                    entries.append((name, raw[11], low | (high << 16 if self._bits == 32 else 0), size))
        return entries


def _long(parts: dict[int, bytes]) -> str:
    units = b"".join(parts[number] for number in sorted(parts))
    return units.decode("utf-16-le", "replace").split("\0", 1)[0].replace("/", "_")


def _short(raw: bytes) -> str:
    base, extension = (part.decode("cp437").rstrip() for part in (raw[:8], raw[8:11]))
    if raw[0] == 5:
        base = b"\xe5".decode("cp437") + base[1:]
    base = base.lower() if raw[12] & _LOWER_BASE else base
    extension = extension.lower() if raw[12] & _LOWER_EXTENSION else extension
    return (f"{base}.{extension}" if extension else base).replace("/", "_")
