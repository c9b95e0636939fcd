"""The nodes that stand in the store when a PV domain made by ``xl create`` is still paused.

Mirrors what dom0's start-up, libxl (tools/libs/light: libxl_{create,dom,device,disk,console}.c),
the hotplug script and Linux' blkback have written by then under Xen 4.17: every node, its permissions and its place
among its siblings, which is the order of its making.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.devices.xenstore.client import Client
    from pvemu.devices.xenstore.connection import Connection
    from pvemu.devices.xenstore.server import XenStore

__all__ = ["PvDomain", "Vbd", "create_domain", "write_dom0", "write_domain"]

#: path, value, permissions.
_Node = tuple[str, str, tuple[str, ...]]

_DOM0 = ("n0",)


class Vbd(NamedTuple):
    """One disk as the backend and libxl describe it.

    ``vdev`` is the number of ``name`` (51712 is xvda), ``mode`` ``w`` or ``r``, ``physical_device`` the
    loop device's major:minor in hex.
    """

    vdev: int
    name: str
    params: str = "/dev/loop0"
    mode: str = "w"
    is_cdrom: bool = False
    physical_device: str = "7:0"


class PvDomain(NamedTuple):
    """A domain as the toolstack describes it; memory in KiB, ``*_ring_ref`` are machine frame numbers.

    The defaults of what differs from run to run on a real host are fixed, so that runs repeat.
    """

    name: str
    kernel: str
    domid: int = 1
    ramdisk: str | None = None
    cmdline: str | None = None
    static_max: int = 131072
    target: int = 131072
    vcpus: int = 1
    max_vcpus: int = 1
    disks: tuple[Vbd, ...] = ()
    protocol: str = "x86_64-abi"
    store_port: int = 1
    store_ring_ref: int = 0
    console_port: int = 2
    console_ring_ref: int = 0
    uuid: str = "00000000-0000-4000-8000-000000000001"
    tty: str = "/dev/pts/0"
    start_time: str = "0.00"

    @property
    def home(self) -> str:
        """Where the domain's relative paths start."""
        return f"/local/domain/{self.domid}"

    @property
    def vm(self) -> str:
        """Where the toolstack keeps the domain by its uuid."""
        return f"/vm/{self.uuid}"


def _below(path: str, perms: tuple[str, ...], values: dict[str, str]) -> Iterator[_Node]:
    """A node without a value, then those under it."""
    yield path, "", perms
    for name, value in values.items():
        yield f"{path}/{name}", value, perms


def _dom0_nodes() -> Iterator[_Node]:
    yield "/local", "", _DOM0
    yield "/local/domain", "", _DOM0
    yield "/local/domain/0", "", _DOM0
    yield from _below(
        "/local/domain/0/control", _DOM0, {"feature-poweroff": "1", "feature-reboot": "1", "feature-suspend": "1"}
    )
    yield "/local/domain/0/domid", "0", _DOM0
    yield "/local/domain/0/name", "Domain-0", _DOM0
    yield "/local/domain/0/backend", "", _DOM0
    yield "/local/pool", "", _DOM0
    yield from _below("/local/pool/0", _DOM0, {"name": "Pool-0"})
    yield "/vm", "", _DOM0
    yield "/libxl", "", _DOM0


def _vbd_backend(domain: PvDomain, disk: Vbd) -> dict[str, str]:
    """What libxl writes for a disk, for the backend and once more for itself."""
    return {
        "frontend": f"{domain.home}/device/vbd/{disk.vdev}",
        "params": disk.params,
        "script": "/etc/xen/scripts/block",
        "frontend-id": str(domain.domid),
        "online": "1",
        "removable": "1" if disk.is_cdrom else "0",
        "bootable": "1",
        "state": "1",
        "dev": disk.name,
        "type": "phy",
        "mode": disk.mode,
        "device-type": "cdrom" if disk.is_cdrom else "disk",
        "discard-enable": "1" if disk.mode == "w" else "0",
        "specification": "xen",
    }


def _blkback(disk: Vbd) -> dict[str, str]:
    """What blkback and the hotplug script have added when the domain is unpaused (XenbusStateInitWait)."""
    return {
        "state": "2",
        "feature-max-indirect-segments": "256",
        "multi-queue-max-queues": "1",
        "max-ring-page-order": "4",
        "physical-device": disk.physical_device,
        "physical-device-path": disk.params,
        "hotplug-status": "connected",
    }


def _vbd_path(domain: PvDomain, disk: Vbd) -> str:
    return f"/local/domain/0/backend/vbd/{domain.domid}/{disk.vdev}"


def _console_backend(domain: PvDomain) -> dict[str, str]:
    return {
        "frontend": f"{domain.home}/console",
        "frontend-id": str(domain.domid),
        "online": "1",
        "state": "1",
        "protocol": "vt100",
    }


def _backend_nodes(domain: PvDomain) -> Iterator[_Node]:
    shared = ("n0", f"r{domain.domid}")
    backend = "/local/domain/0/backend"
    if domain.disks:
        yield f"{backend}/vbd", "", _DOM0
        yield f"{backend}/vbd/{domain.domid}", "", _DOM0
    for disk in domain.disks:
        yield from _below(_vbd_path(domain, disk), shared, _vbd_backend(domain, disk) | _blkback(disk))
    yield f"{backend}/console", "", _DOM0
    yield f"{backend}/console/{domain.domid}", "", _DOM0
    yield from _below(f"{backend}/console/{domain.domid}/0", shared, _console_backend(domain))


def _frontend_nodes(domain: PvDomain) -> Iterator[_Node]:
    shared = ("n0", f"r{domain.domid}")
    theirs = (f"n{domain.domid}", "r0")
    home = domain.home
    yield f"{home}/device", "", shared
    yield f"{home}/device/suspend", "", shared
    yield f"{home}/device/suspend/event-channel", "", (f"n{domain.domid}",)
    if domain.disks:
        yield f"{home}/device/vbd", "", shared
    for disk in domain.disks:
        values = {
            "backend": _vbd_path(domain, disk),
            "backend-id": "0",
            "state": "1",
            "virtual-device": str(disk.vdev),
            "device-type": "cdrom" if disk.is_cdrom else "disk",
            "trusted": "1",
            "protocol": domain.protocol,
        }
        yield from _below(f"{home}/device/vbd/{disk.vdev}", theirs, values)


def _home_nodes(domain: PvDomain) -> Iterator[_Node]:
    shared = ("n0", f"r{domain.domid}")
    own = (f"n{domain.domid}",)
    home = domain.home
    yield from _below(home, shared, {"vm": domain.vm, "name": domain.name})
    yield f"{home}/cpu", "", shared
    for cpu in range(max(domain.vcpus, domain.max_vcpus)):
        yield from _below(f"{home}/cpu/{cpu}", shared, {"availability": "online" if cpu < domain.vcpus else "offline"})
    memory = {"static-max": str(domain.static_max), "target": str(domain.target), "videoram": "0"}
    yield from _below(f"{home}/memory", shared, memory)
    yield from _frontend_nodes(domain)
    yield f"{home}/control", "", shared
    for name in ("shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq"):
        yield f"{home}/control/{name}", "", own
    for name in ("multiprocessor-suspend", "xs_reset_watches"):
        yield f"{home}/control/platform-feature-{name}", "1", shared
    for name in ("data", "drivers", "feature", "attr", "error"):
        yield f"{home}/{name}", "", own
    yield f"{home}/domid", str(domain.domid), shared
    store = {"port": str(domain.store_port), "ring-ref": str(domain.store_ring_ref)}
    yield from _below(f"{home}/store", shared, store)
    console = {
        "backend": f"/local/domain/0/backend/console/{domain.domid}/0",
        "backend-id": "0",
        "limit": "1048576",
        "type": "xenconsoled",
        "output": "pty",
        "tty": domain.tty,
        "port": str(domain.console_port),
        "ring-ref": str(domain.console_ring_ref),
    }
    for path, value, perms in _below(f"{home}/console", shared, console):
        yield path, value, (f"n{domain.domid}", "r0") if path.endswith("/backend-id") else perms


def _vm_nodes(domain: PvDomain) -> Iterator[_Node]:
    shared = ("n0", f"r{domain.domid}")
    image = {"ostype": "linux", "kernel": domain.kernel}
    if domain.ramdisk is not None:
        image["ramdisk"] = domain.ramdisk
    if domain.cmdline:
        image["cmdline"] = domain.cmdline
    yield from _below(domain.vm, shared, {"name": domain.name, "uuid": domain.uuid})
    yield from _below(f"{domain.vm}/image", shared, image)
    yield f"{domain.vm}/start_time", domain.start_time, shared


def _libxl_nodes(domain: PvDomain) -> Iterator[_Node]:
    path = f"/libxl/{domain.domid}"
    yield path, "", _DOM0
    yield f"{path}/device", "", _DOM0
    if domain.disks:
        yield f"{path}/device/vbd", "", _DOM0
    for disk in domain.disks:
        values = _vbd_backend(domain, disk)
        ends = {"frontend": values.pop("frontend"), "backend": _vbd_path(domain, disk)}
        yield from _below(f"{path}/device/vbd/{disk.vdev}", _DOM0, ends | values)
    console = _console_backend(domain)
    ends = {"frontend": console.pop("frontend"), "backend": f"/local/domain/0/backend/console/{domain.domid}/0"}
    yield f"{path}/device/console", "", _DOM0
    yield from _below(f"{path}/device/console/0", _DOM0, ends | console)
    yield f"{path}/type", "pv", _DOM0
    yield f"{path}/dm-version", "qemu_xen", _DOM0


def _write(client: Client, nodes: Iterator[_Node]) -> None:
    for path, value, perms in nodes:
        client.write(path, value)
        client.set_perms(path, perms)


def write_dom0(client: Client) -> None:
    """What dom0's start-up leaves in an empty store."""
    _write(client, _dom0_nodes())


def write_domain(client: Client, domain: PvDomain) -> None:
    """What stands there for a domain that is ready to be unpaused. Raises XsError ENOENT if it does not exist."""
    for nodes in (_backend_nodes, _home_nodes, _vm_nodes, _libxl_nodes):
        _write(client, nodes(domain))


def create_domain(store: XenStore, domain: PvDomain) -> Connection:
    """All of it for an empty store, and the domain introduced; returns the connection for its ring."""
    store.add_domain(domain.domid)
    client = store.client()
    write_dom0(client)
    write_domain(client, domain)
    client.close()
    return store.introduce(domain.domid, domain.store_ring_ref, domain.store_port)
