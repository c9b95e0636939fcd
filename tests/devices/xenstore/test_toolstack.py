"""The tree of a paused domain is the one `xenstore-ls -f -p` recorded on Xen 4.17, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvemu.devices.xenstore import toolstack
from pvemu.devices.xenstore.dump import xenstore_ls
from pvemu.devices.xenstore.server import XenStore
from pvemu.devices.xenstore.toolstack import PvDomain, Vbd
from pvemu.devices.xenstore.wire import XsError

DATA = Path(__file__).parents[2] / "data" / "xenstore"

GRUB64 = "/x/grub-x86_64-xen.bin"
XVDA = Vbd(51712, "xvda")

RECORDED = [
    PvDomain(
        "grub64-menu",
        GRUB64,
        domid=2,
        disks=(XVDA,),
        store_ring_ref=776277,
        console_ring_ref=776278,
        uuid="5a1424d8-32bf-4a0e-878e-772487885673",
        start_time="1795334011.52",
    ),
    PvDomain(
        "grub32-menu",
        "/x/grub-i386-xen.bin",
        domid=1,
        disks=(XVDA,),
        protocol="x86_32-abi",
        store_ring_ref=783267,
        console_ring_ref=783268,
        uuid="b9b66348-098f-4b80-8bf2-06a430fa0167",
        start_time="1795334003.53",
    ),
    PvDomain(
        "grub64-timeout",
        GRUB64,
        domid=3,
        cmdline="oracle extra args",
        static_max=262144,
        target=262144,
        disks=(XVDA,),
        store_ring_ref=782485,
        console_ring_ref=782486,
        uuid="0c0ed601-92e2-41bf-a29f-46130f57e51c",
        start_time="1795334018.31",
    ),
    PvDomain(
        "grub64-nodisk",
        GRUB64,
        domid=8,
        static_max=65536,
        target=65536,
        store_ring_ref=776245,
        console_ring_ref=776246,
        uuid="d798ac64-12bc-4474-a0f8-e20662cee6c2",
        start_time="1795335237.40",
    ),
    PvDomain(
        "linux-direct",
        "/x/vmlinuz",
        domid=5,
        ramdisk="/x/tiny.cpio.gz",
        cmdline="console=hvc0 oracle=info earlyprintk=xen",
        static_max=262144,
        target=262144,
        disks=(Vbd(51712, "xvda", mode="r"),),
        store_ring_ref=518145,
        console_ring_ref=518146,
        uuid="353fa201-bc89-4b61-9a33-19d46f0e8e56",
        start_time="1795334060.68",
    ),
    PvDomain(
        "linux-2disks",
        "/x/vmlinuz",
        domid=4,
        ramdisk="/x/tiny.cpio.gz",
        cmdline="root=/dev/xvda1 ro console=hvc0 oracle=info",
        static_max=524288,
        target=262144,
        vcpus=2,
        disks=(
            Vbd(51713, "xvda1", "/dev/loop0", physical_device="7:0"),
            Vbd(51728, "xvdb", "/dev/loop1", "r", physical_device="7:1"),
            Vbd(5632, "hdc", "/dev/loop2", "r", is_cdrom=True, physical_device="7:2"),
            Vbd(2048, "sda", "/dev/loop3", physical_device="7:3"),
        ),
        store_ring_ref=518145,
        console_ring_ref=518146,
        uuid="d068749d-f53f-430a-8557-5b3398da545d",
        start_time="1795334028.75",
    ),
]


@pytest.mark.parametrize("domain", RECORDED, ids=lambda domain: domain.name)
def test_tree_is_the_recorded_one(domain: PvDomain) -> None:
    store = XenStore()
    toolstack.create_domain(store, domain)
    recorded = (DATA / f"{domain.name}-paused.txt").read_text()
    assert xenstore_ls(store.client()) == recorded


def test_domain_is_introduced_and_reads_its_own_nodes() -> None:
    store = XenStore()
    connection = toolstack.create_domain(store, RECORDED[0])
    assert connection.id == 2
    assert store.client().is_domain_introduced(2)
    guest = store.client(2)
    assert guest.read("name") == b"grub64-menu"
    assert guest.read("/local/domain/0/backend/vbd/2/51712/state") == b"2"
    guest.write("device/vbd/51712/state", "3")
    with pytest.raises(XsError, match="EACCES"):
        guest.write("name", "other")


def test_a_domain_that_does_not_exist_cannot_be_written() -> None:
    store = XenStore()
    client = store.client()
    toolstack.write_dom0(client)
    with pytest.raises(XsError, match="ENOENT"):
        toolstack.write_domain(client, RECORDED[0])


def test_the_same_domain_gives_the_same_tree() -> None:
    trees = []
    for _ in range(2):
        store = XenStore()
        toolstack.create_domain(store, PvDomain("guest", "kernel", disks=(XVDA,)))
        trees.append(xenstore_ls(store.client()))
    assert trees[0] == trees[1]
    assert '/local/domain/1/name = "guest"   (n0,r1)\n' in trees[0]
