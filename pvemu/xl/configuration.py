"""A domain's configuration as ``xl list -l`` and ``xl create -n`` print it: libxl's names, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.xlcfg.domain import XlDomain

__all__ = ["as_json"]


def as_json(domain: XlDomain) -> dict[str, object]:
    """A domain's configuration, with the names that libxl's JSON has."""
    config = domain.config
    build: dict[str, object] = {
        "max_vcpus": config.nr_vcpus,
        "max_memkb": domain.maxmem_mib << 10,
        "target_memkb": config.memory_mib << 10,
        "kernel": config.kernel,
    }
    if config.cmdline:
        build["cmdline"] = config.cmdline
    if config.ramdisk is not None:
        build["ramdisk"] = config.ramdisk
    build["type.pv"] = {}
    create: dict[str, object] = {"type": "pv", "name": domain.name}
    if domain.uuid is not None:
        create["uuid"] = domain.uuid
    return {
        "c_info": create,
        "b_info": build,
        "disks": [
            {
                "pdev_path": disk.path,
                "vdev": disk.vdev,
                "format": "raw",
                "readwrite": 0 if disk.read_only else 1,
                "is_cdrom": int(disk.cdrom),
            }
            for disk in config.disks
        ],
        **{f"on_{reason}": action for reason, action in domain.actions.items() if reason != "soft_reset"},
    }
