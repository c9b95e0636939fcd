"""The front door: monitors, traces, dumps, and what payloads and paths may look like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypercalls.public.io import xs_wire as xs
from pvemu.devices.xenstore import paths, wire
from pvemu.devices.xenstore.dump import sanitise_value, xenstore_ls
from pvemu.devices.xenstore.server import XenStore
from pvemu.devices.xenstore.toolstack import PvDomain, Vbd, create_domain
from pvemu.devices.xenstore.trace import format_io, trace_requests, without_clock

if TYPE_CHECKING:
    from pvemu.devices.xenstore.client import Client
    from pvemu.devices.xenstore.dispatch import Reply

DATA = Path(__file__).parents[2] / "data" / "xenstore"


def recorded_chainload() -> list[str]:
    lines = (DATA / "xenstored-trace-first-grub.txt").read_text().splitlines()
    return [without_clock(line) for line in lines]


def test_a_monitor_sees_every_request_and_goes_without_a_trace(store: XenStore, dom0: Client, guest: Client) -> None:
    seen: list[object] = []

    def after(domid: int, msg_type: int, tx_id: int, payload: bytes, reply: Reply) -> None:
        seen.append((domid, msg_type, tx_id, payload, reply))

    plain = store.dispatch
    undo = store.monitor(lambda *request: seen.append(request), after)
    guest.read("name")
    assert seen == [(1, xs.XS_READ, 0, b"name\0"), (1, xs.XS_READ, 0, b"name\0", (xs.XS_READ, b"guest"))]
    second: list[int] = []
    undo_second = store.monitor(after=lambda domid, *rest: second.append(domid))
    dom0.exists("/none")
    undo()
    undo()
    seen.clear()
    dom0.exists("/none")
    assert second == [0, 0]
    undo_second()
    assert seen == []
    assert store.dispatch == plain


def test_a_trace_has_the_lines_of_xenstored(store: XenStore, dom0: Client, guest: Client) -> None:
    lines: list[str] = []
    undo = trace_requests(store, 1, lines.append)
    guest.mkdir("device/vbd")
    guest.mkdir("device/vbd/51712")
    lines.clear()
    guest.directory("device/vbd")
    guest.write("device/vbd/51712/ring-ref", "2")
    guest.read("device/vbd/51712/ring-ref")
    guest.exists("data/none")
    dom0.read("/local/domain/1/name")
    undo()
    guest.read("name")
    assert lines == [
        "IN DIRECTORY (device/vbd )",
        "OUT DIRECTORY (51712 )",
        "IN WRITE (device/vbd/51712/ring-ref 2)",
        "OUT WRITE (OK )",
        "IN READ (device/vbd/51712/ring-ref )",
        "OUT READ (2)",
        "IN READ (data/none )",
        "OUT ERROR (ENOENT )",
    ]
    assert format_io("IN", 99, b"") == "IN **UNKNOWN** ()"


def test_the_recorded_chainload_has_that_form() -> None:
    lines = recorded_chainload()
    assert lines[:2] == ["IN DIRECTORY (device/vbd )", "OUT DIRECTORY (51712 )"]
    assert "IN WRITE (device/vbd/51712/event-channel 3)" in lines
    assert {line.split(" ")[0] for line in lines} == {"IN", "OUT"}


def test_the_recorded_chainload_gets_the_recorded_answers() -> None:
    """GRUB's requests, sent again: with the backend's values of the time, every reply is the recorded one."""
    store = XenStore()
    connection = create_domain(store, PvDomain("grub", "kernel", disks=(Vbd(51712, "xvda"),)))
    dom0 = store.client()
    replayed: list[str] = []
    trace_requests(store, 1, replayed.append)
    lines = recorded_chainload()
    types = {name.removeprefix("XS_"): msg_type for msg_type, name in xs.XS_NAMES.items()}
    for request, reply in zip(lines[::2], lines[1::2], strict=True):
        words = re.fullmatch(r"IN (\w+) \((\S+) (.*)\)", request)
        assert words is not None
        name, path, value = words.groups()
        if path.rpartition("/")[2] in ("state", "sectors", "sector-size") and name == "READ":
            dom0.write(path, reply[len("OUT READ (") : -1])
        store.dispatch(connection, types[name], 0, f"{path}\0{value}".encode())
    assert replayed == lines


def test_dump(dom0: Client, guest: Client) -> None:
    guest.write("data/x", b'a"\\\t\n\r\x01\x7f\xff')
    text = xenstore_ls(dom0, "/local")
    assert text.splitlines() == [
        '/local/domain = ""   (n0)',
        '/local/domain/1 = ""   (n0,r1)',
        '/local/domain/1/data = ""   (n1)',
        '/local/domain/1/data/x = "a"\\\\\\t\\n\\r\\001\\x7f\\xff"   (n1)',
        '/local/domain/1/device = ""   (n1)',
        '/local/domain/1/name = "guest"   (n0,r1)',
    ]
    assert xenstore_ls(dom0, "/tool", perms=False) == '/tool/xenstored = ""\n'
    assert sanitise_value(b"plain text") == "plain text"


def test_dump_of_what_a_guest_may_not_read(dom0: Client, guest: Client) -> None:
    dom0.write("/local/domain/1/hidden", "")
    dom0.set_perms("/local/domain/1/hidden", ["n0"])
    assert "/local/domain/1/hidden:\n" in xenstore_ls(guest, "/local/domain/1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"12", 12),
        (b" \t+12x", 12),
        (b"-1", 0xFFFFFFFF),
        (b"", 0),
        (b"x", 0),
        (b"0x10", 0),
        (b"0012", 12),
        (b"4294967297", 1),
        (b"9" * 5000, 0xFFFFFFFF),
        (b"-" + b"9" * 5000, 0),
    ],
)
def test_atoi(text: bytes, value: int) -> None:
    assert wire.atoi(text) == value


def test_payload_strings() -> None:
    assert wire.get_strings(b"a\0\0b\0rest") == [b"a", b"", b"b"]
    assert wire.get_strings(b"") == []
    assert wire.count_strings(b"a\0\0b\0rest") == 3
    assert wire.HEADER.size == 16
    assert wire.error_payload("EAGAIN") == b"EAGAIN\0"
    assert wire.error_payload("EBADF") == b"EINVAL\0"


@pytest.mark.parametrize(
    ("path", "is_valid"),
    [
        (b"/", True),
        (b"/a", True),
        (b"/a-B_9@/x", True),
        (b"a", False),
        (b"", False),
        (b"/a/", False),
        (b"//", False),
        (b"/a//b", False),
        (b"/a.b", False),
        (b"/a\n", False),
        (b"/a:b", False),
    ],
)
def test_nodenames(path: bytes, is_valid: bool) -> None:
    assert paths.is_valid_nodename(path, 2048) is is_valid


def test_paths() -> None:
    assert paths.canonicalize(b"/local/domain/1", b"a/b") == b"/local/domain/1/a/b"
    assert paths.canonicalize(b"/local/domain/1", b"@x") == b"@x"
    assert paths.get_parent(b"/a/b") == b"/a"
    assert paths.get_parent(b"/a") == b"/"
    assert paths.get_parent(b"/") == b"/"
    assert paths.basename(b"/a/b") == b"b"
