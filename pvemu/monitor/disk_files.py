"""Where on a disk a file is: for stop points on a file's sectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.disk.image import open_disk
from pvemu.errors import ConfigError
from pvemu.filesystems.disk_map import DiskMap

if TYPE_CHECKING:
    from pvemu.machine import Machine

__all__ = ["file_sectors"]


def file_sectors(machine: Machine, vdev: str, path: str) -> list[tuple[int, int]]:
    """(first sector, count) of the pieces of a file on a disk's image, in 512-byte sectors. ConfigError."""
    config = next((disk for disk in machine.config.disks if disk.vdev == vdev), None)
    if config is None:
        names = ", ".join(disk.vdev for disk in machine.config.disks) or "none"
        raise ConfigError(f"disk {vdev}: no such disk; there is {names}")
    disk = open_disk(config.path, writable=False, sector_size=config.sector_size)
    try:
        found = set()
        for mapped in DiskMap(disk).volumes:
            for node in mapped.nodes if mapped.file_system is not None else []:
                if node.path == path:
                    start = mapped.volume.start
                    found |= {
                        ((start + extent.offset) >> 9, -(-(extent.offset % 512 + extent.size) // 512))
                        for extent in node.extents
                        if extent.size
                    }
        return sorted(found)
    finally:
        disk.close()
