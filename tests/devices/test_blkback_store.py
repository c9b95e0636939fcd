"""The block back end on the real store, beside the nodes that the toolstack makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvemu.devices.blkback import Blkback
from pvemu.devices.xenstore.server import XenStore
from pvemu.devices.xenstore.toolstack import PvDomain, Vbd, create_domain
from pvemu.disk.image import open_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.devices.conftest import FakeClock, Guest

# Children of a connected vbd's directory in the order that `xenstore-ls` recorded under Xen 4.17.
RECORDED = {
    "frontend": "/local/domain/2/device/vbd/51712", "params": "/dev/loop0", "script": "/etc/xen/scripts/block",
    "frontend-id": "2", "online": "1", "removable": "0", "bootable": "1", "state": "4", "dev": "xvda", "type": "phy",
    "mode": "w", "device-type": "disk", "discard-enable": "1", "specification": "xen",
    "feature-max-indirect-segments": "256", "multi-queue-max-queues": "1", "max-ring-page-order": "4",
    "physical-device": "7:0", "physical-device-path": "/dev/loop0", "hotplug-status": "connected",
    "feature-flush-cache": "1", "discard-granularity": "1024", "discard-alignment": "0", "discard-secure": "0",
    "feature-discard": "1", "feature-barrier": "1", "feature-persistent": "1", "sectors": "2048", "info": "0",
    "sector-size": "512", "physical-sector-size": "512",
}  # fmt: skip
NODENAME = "/local/domain/0/backend/vbd/2/51712"


@pytest.mark.parametrize(
    ("read_only", "cdrom", "changes"),
    [
        (False, False, {}),
        (True, False, {"mode": "r", "discard-enable": "0", "info": "4"}),
        (True, True, {"mode": "r", "discard-enable": "0", "info": "5", "removable": "1", "device-type": "cdrom"}),
    ],
)
def test_a_connected_disk_looks_as_recorded(
    make_guest: Callable[..., Guest], image: Path, read_only: bool, cdrom: bool, changes: dict[str, str]
) -> None:
    guest = make_guest()  # lends its clock, grants and channels
    clock: FakeClock = guest.clock
    store = XenStore()
    disk = Vbd(51712, "xvda", mode="r" if read_only else "w", is_cdrom=cdrom)
    create_domain(store, PvDomain("guest", "kernel", domid=2, disks=(disk,)))
    dom0, frontend = store.client(), store.client(2)
    blkback = Blkback(
        vdev="xvda",
        disk=open_disk(str(image), writable=False),
        nodename=NODENAME,
        otherend="/local/domain/2/device/vbd/51712",
        store=dom0,
        grants=guest.grants,
        events=guest.events,
        clock=clock,
        charge=guest.charged.append,
        log=guest.klog.append,
        read_only=read_only,
        cdrom=cdrom,
    )
    blkback.probe()
    clock.run()
    assert frontend.read(f"{NODENAME}/state") == b"2"
    guest.page(1000)
    for _ in range(2):  # the second time as a chainloaded loader
        frontend.write("device/vbd/51712/ring-ref", "1000")
        frontend.write("device/vbd/51712/event-channel", "3")
        frontend.write("device/vbd/51712/state", "3")
        assert frontend.read(f"{NODENAME}/state") == b"2"
        clock.run()
        nodes = {name: frontend.read(f"{NODENAME}/{name}").decode() for name in dom0.directory(NODENAME)}
        expected = RECORDED | changes
        if read_only:
            for name in ("discard-granularity", "discard-alignment", "discard-secure", "feature-discard"):
                del expected[name]
        assert list(nodes.items()) == list(expected.items())
        assert {dom0.get_perms(f"{NODENAME}/{name}") for name in nodes} == {("n0", "r2")}
        frontend.write("device/vbd/51712/state", "6")
        clock.run()
        assert frontend.read(f"{NODENAME}/state") == b"6"
        frontend.write("device/vbd/51712/state", "1")
        clock.run()
        assert frontend.read(f"{NODENAME}/state") == b"2"
    frontend.write("device/vbd/51712/state", "")
    clock.run()
    assert frontend.read(f"{NODENAME}/state") == b"6"
    assert guest.klog.count("backend/vbd/2/51712: prepare for reconnect") == 2
    blkback.remove()
