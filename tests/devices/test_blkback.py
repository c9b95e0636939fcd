from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.abi import ABI32, ABI64
from pvemu.devices.backend import CONNECT_NS, WATCH_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from tests.devices.conftest import Guest

NODENAME = "/local/domain/0/backend/vbd/2/51712"

# What the real blkback added to its directory between the start of the guest and Connected, in the order of the store.
RECORDED_PROBE = [
    ("feature-max-indirect-segments", "256"),
    ("multi-queue-max-queues", "1"),
    ("max-ring-page-order", "4"),
    ("state", "2"),
    ("physical-device", "7:0"),
    ("physical-device-path", "/dev/loop0"),
    ("hotplug-status", "connected"),
]
RECORDED_CONNECT = [
    ("feature-flush-cache", "1"),
    ("discard-granularity", "1024"),
    ("discard-alignment", "0"),
    ("discard-secure", "0"),
    ("feature-discard", "1"),
    ("feature-barrier", "1"),
    ("feature-persistent", "1"),
    ("sectors", "2048"),
    ("info", "0"),
    ("sector-size", "512"),
    ("physical-sector-size", "512"),
    ("state", "4"),
]


def test_probe_announces_the_device_and_waits(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.blkback.probe()
    guest.clock.run()
    assert guest.store.written(NODENAME) == RECORDED_PROBE
    assert guest.state == "2"
    assert guest.blkback.ring is None


def test_connect_publishes_the_recorded_nodes_in_order(make_guest: Callable[..., Guest], abi: Abi) -> None:
    guest = make_guest()
    guest.connect(abi)
    assert guest.store.written(NODENAME) == RECORDED_PROBE + RECORDED_CONNECT
    assert guest.state == "4"
    assert guest.blkback.ring is not None
    assert guest.blkback.ring.nr_ents == 32


def test_read_only_disk_says_so_and_offers_no_discard(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(read_only=True)
    guest.connect()
    written = guest.store.written(NODENAME)[len(RECORDED_PROBE) :]
    assert [name for name, _ in written] == [name for name, _ in RECORDED_CONNECT if "discard" not in name]
    assert dict(written)["info"] == "4"


def test_cdrom_is_read_only_and_a_cdrom(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(read_only=True, cdrom=True)
    guest.connect()
    assert dict(guest.store.written(NODENAME))["info"] == "5"


def test_4096_byte_sectors_are_counted_in_512(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(sector_size=4096)
    guest.connect()
    nodes = dict(guest.store.written(NODENAME))
    assert (nodes["sectors"], nodes["sector-size"], nodes["physical-sector-size"]) == ("2048", "4096", "4096")
    assert nodes["discard-granularity"] == "4096"


def test_the_reaction_takes_virtual_time(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.blkback.probe()
    guest.clock.run()
    guest.page(1000)
    guest.write("ring-ref", 1000)
    guest.write("event-channel", 3)
    start = guest.clock.now()
    guest.write("state", 3)
    assert guest.state == "2"
    guest.clock.run(WATCH_NS + CONNECT_NS - 1)
    assert guest.state == "2"
    guest.clock.run(1)
    assert guest.state == "4"
    assert guest.store.times[-1] == start + WATCH_NS + CONNECT_NS


def test_a_chainloaded_loader_connects_again(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect(ABI64)
    first = guest.events.channels[-1]
    guest.write("state", 6)
    guest.clock.run()
    assert guest.state == "6"
    assert guest.blkback.ring is None
    assert first.closed
    guest.write("ring-ref", "")
    guest.write("event-channel", "")
    guest.write("state", 1)
    guest.clock.run()
    assert guest.state == "2"
    guest.connect(ABI32)
    states = [value for name, value in guest.store.written(NODENAME) if name == "state"]
    assert states == ["2", "4", "6", "2", "4"]
    assert guest.store.written(NODENAME)[-12:] == RECORDED_CONNECT
    guest.page(8)
    assert guest.rw(0, 0, (8, 0, 7)) == [(7, 0, 0)]


def test_a_loader_that_starts_before_dom0_has_reacted_is_connected(make_guest: Callable[..., Guest]) -> None:
    """GRUB hands over at once: 1 and the next loader's 3 can come before dom0 has read either."""
    guest = make_guest()
    guest.connect()
    guest.write("state", 6)
    guest.clock.run()
    guest.write("state", 1)
    guest.page(1000)
    guest.write("ring-ref", 1000)
    guest.write("event-channel", 3)
    guest.write("state", 3)
    guest.clock.run()
    assert guest.state == "4"
    assert len(guest.events.channels) == 2


def test_what_a_polling_chainload_sees(make_guest: Callable[..., Guest]) -> None:
    """The requests of two GRUBs in a row, as xenstored traced them; repeated reads of the state are taken as one."""
    guest = make_guest()
    guest.blkback.probe()
    guest.clock.run()
    guest.page(1000)
    loader = [("ring-ref", "1000"), ("event-channel", "3"), ("protocol", "x86_64-abi"), ("state", "3"), ("until", "4")]
    handover = [("state", "6"), ("until", "6"), ("ring-ref", ""), ("event-channel", ""), ("state", "1")]
    seen: list[str] = []
    for name, value in loader + handover + loader + handover:
        guest.clock.run(5_000)
        if name != "until":
            guest.write(name, value)
            seen.append(f"{name}={value}")
            continue
        states: list[str] = []
        while not states or states[-1] != value:
            states.append(guest.state)
            guest.clock.run(5_000)
            assert len(states) < 100
        assert len(states) > 10
        seen += dict.fromkeys(states)
    assert seen == [
        "ring-ref=1000", "event-channel=3", "protocol=x86_64-abi", "state=3", "2", "4",
        "state=6", "4", "6", "ring-ref=", "event-channel=", "state=1",
        "ring-ref=1000", "event-channel=3", "protocol=x86_64-abi", "state=3", "2", "4",
        "state=6", "4", "6", "ring-ref=", "event-channel=", "state=1",
    ]  # fmt: skip


def test_a_ring_stays_mapped_when_the_guest_takes_its_grant_back(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    page = guest.page(8)
    guest.grants.readonly.add(1000)  # mapping it again would fail
    assert guest.rw(0, 6, (8, 0, 0)) == [(7, 0, 0)]
    assert bytes(page[:8]) == b"00000006"


def test_closing_is_answered_by_closing_and_keeps_the_ring(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.write("state", 5)
    guest.clock.run()
    assert guest.state == "5"
    assert guest.blkback.ring is not None
    guest.write("state", 6)
    guest.clock.run()
    assert guest.state == "6"
    assert guest.blkback.ring is None


def test_closed_while_not_online_ends_the_device(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.store.nodes[f"{NODENAME}/online"] = b"0"
    guest.write("state", 6)
    guest.clock.run()
    guest.write("state", 1)
    guest.clock.run()
    assert guest.state == "6"


def test_a_front_end_that_goes_away_ends_the_device(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.store.rm("/local/domain/2/device/vbd/51712")
    guest.clock.run()
    assert guest.state == "6"
    assert guest.blkback.ring is None


def test_connected_front_end_is_connected_once(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.write("state", 4)
    guest.clock.run()
    assert len(guest.events.channels) == 1


def test_two_writes_of_3_while_connecting_connect_once(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.blkback.probe()
    guest.clock.run()
    guest.page(1000)
    guest.write("ring-ref", 1000)
    guest.write("event-channel", 3)
    guest.write("state", 3)
    guest.clock.run(WATCH_NS // 2)
    guest.write("state", 3)
    guest.clock.run()
    assert len(guest.events.channels) == 1
    assert guest.state == "4"


@pytest.mark.parametrize("abi_of_ring", [ABI64, ABI32])
@pytest.mark.parametrize("order", [0, 1, 4])
def test_rings_of_several_pages(make_guest: Callable[..., Guest], abi_of_ring: Abi, order: int) -> None:
    guest = make_guest()
    guest.connect(abi_of_ring, order=order)
    assert guest.state == "4"
    assert guest.blkback.ring is not None
    assert guest.blkback.ring.nr_ents == 32 << order
    page = guest.page(8)
    for index in range(guest.nr_ents * 2 + 5):  # every slot, those across a page boundary too, and around
        assert guest.rw(0, index % 2000, (8, 0, 0), id=index << 40 | index) == [(index << 40 | index, 0, 0)]
        assert bytes(page[:8]) == b"%08d" % (index % 2000)


def test_one_queue_may_be_asked_for(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect(multi_queue_num_queues=1)
    assert guest.state == "4"


def test_without_a_protocol_the_ring_is_the_32_bit_one(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.abi = ABI32
    guest.blkback.probe()
    guest.page(1000)
    guest.page(8)
    guest.write("ring-ref", 1000)
    guest.write("event-channel", 3)
    del guest.store.nodes["/local/domain/2/device/vbd/51712/protocol"]
    guest.write("state", 3)
    guest.clock.run()
    assert guest.rw(0, 3, (8, 0, 0)) == [(7, 0, 0)]


@pytest.mark.parametrize(
    ("node", "value", "error"),
    [
        ("ring-ref", "", "22 reading /local/domain/2/device/vbd/51712/ring-ref"),
        ("ring-ref", "nine", "22 reading /local/domain/2/device/vbd/51712/ring-ref"),
        ("ring-ref", "999999", "2 mapping ring-ref port 3"),
        ("ring-ref", "99999999999999999999999999", "2 mapping ring-ref port 3"),
        ("event-channel", "", "22 reading /local/domain/2/device/vbd/51712/event-channel"),
        ("event-channel", "17", "22 mapping ring-ref port 17"),
        ("protocol", "sparc-abi", "38 unknown fe protocol sparc-abi"),
        ("protocol", "\udcff", "38 unknown fe protocol"),
        ("multi-queue-num-queues", "2", "38 guest requested 2 queues, exceeding the maximum of 1."),
        ("multi-queue-num-queues", "0", "38 guest requested 0 queues, exceeding the maximum of 1."),
        ("ring-page-order", "5", "22 requested ring page order 5 exceed max:4"),
        ("ring-page-order", "4294967295", "22 requested ring page order 4294967295 exceed max:4"),
        ("ring-page-order", "1", "22 reading /local/domain/2/device/vbd/51712/ring-ref0"),
        ("state", "9", "22 saw state 9 at frontend"),
        ("state", "-1", "22 saw state -1 at frontend"),
    ],
)
def test_a_bad_front_end_gets_closing_and_an_error_node(
    make_guest: Callable[..., Guest], node: str, value: str, error: str
) -> None:
    guest = make_guest()
    guest.blkback.probe()
    guest.clock.run()
    guest.page(1000)
    nodes = {"ring-ref": "1000", "event-channel": "3", "protocol": "x86_64-abi", "state": "3"} | {node: value}
    state = nodes.pop("state")
    for name, text in nodes.items():
        guest.store.write(f"/local/domain/2/device/vbd/51712/{name}", text.encode("utf-8", "surrogateescape"))
    guest.write("state", state)
    guest.clock.run()
    assert guest.state == "5"
    reported = guest.store.read("/local/domain/0/error/backend/vbd/2/51712/error").decode()
    assert reported.startswith(error)
    assert guest.klog == [f"vbd vbd-2-51712: {reported}"]
    assert guest.blkback.ring is None


def test_a_front_end_can_recover_from_a_failed_connection(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.blkback.probe()
    guest.write("state", 3)
    guest.clock.run()
    assert guest.state == "5"
    guest.write("state", 6)
    guest.clock.run()
    guest.write("state", 1)
    guest.clock.run()
    guest.connect()
    assert guest.state == "4"


def test_remove_lets_go_of_everything(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.write("state", 6)  # not acted on yet
    guest.blkback.remove()
    guest.blkback.remove()
    assert guest.events.channels[-1].closed
    guest.clock.run()
    guest.write("state", 1)
    guest.clock.run()
    assert guest.state == "6"


def test_requests_put_on_the_ring_before_connected_are_served(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    page = guest.page(8)
    guest.blkback.probe()
    guest.page(1000)
    guest.write("ring-ref", 1000)
    guest.write("event-channel", 3)
    guest.write("state", 3)
    guest.clock.run(WATCH_NS)
    guest.put_read(5, 8)
    guest.poke("req_prod", 1)
    guest.clock.run()
    assert guest.responses() == [(1, 0, 0)]
    assert bytes(page[:8]) == b"00000005"
