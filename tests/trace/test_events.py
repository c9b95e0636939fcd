"""Events of a real boot: what they say, that every format can be read back, and that watching changes nothing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from hypercalls.public.io.xs_wire import XS_WATCH
from pvemu.config import DomainConfig
from pvemu.debug.symbols import SymbolFiles, Symbols
from pvemu.disk.spec import parse_disk_specs
from pvemu.machine import Machine
from pvemu.testing.session import Session
from pvemu.trace.diff import find_parting, read_trace, same_thing
from pvemu.trace.event import Event, text_of
from pvemu.trace.sinks import write_json_lines, write_text
from pvemu.trace.timeline import Timeline
from pvemu.trace.tracer import KINDS, Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNTIL = re.compile(b"oracle-marker-entry")


class Text:
    """A sink of text."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str, /) -> None:
        self.text += text


def boot(kernel: Path, disk: Path, kinds: tuple[str, ...], only: tuple[str, ...] = ()) -> tuple[list[Event], object]:
    """The events of a chainload to its menu, and all that a run may not change by being watched."""
    disks = parse_disk_specs([f"xvda={disk}"])
    machine = Machine.create(DomainConfig(kernel=str(kernel), memory_mib=128, disks=disks))
    events: list[Event] = []
    tracer = Tracer(machine, Symbols.of(machine, SymbolFiles()), kinds, events.append, only) if kinds else None
    session = Session(machine, until=UNTIL)
    verdict = session.run()
    if tracer is not None:
        tracer.close()
    machine.close()
    assert verdict.verdict == "success", verdict.reason
    stages = [(stage.entry, stage.start_ns) for stage in verdict.stages]
    return events, (bytes(session.console), verdict.guest_seconds, verdict.hypercalls, verdict.disks, stages)


@pytest.fixture(scope="module", params=["x86_64-xen", "i386-xen"])
def run(request: pytest.FixtureRequest, guest: Callable[[str, str], Path]) -> tuple[list[Event], object, object]:
    kernel, disk = guest("pvgrub", f"grub-{request.param}.bin"), guest("chain", "chain.img")
    events, watched = boot(kernel, disk, KINDS)
    _, plain = boot(kernel, disk, ())
    return events, watched, plain


Run = tuple[list[Event], object, object]


def of_kind(run: Run, kind: str) -> list[Event]:
    return [event for event in run[0] if event.kind == kind]


def test_a_run_is_the_same_watched_or_not(run: Run) -> None:
    assert run[1] == run[2]


def test_hypercalls_show_structures_and_results(run: Run) -> None:
    calls = of_kind(run, "hypercall")
    sends = [call for call in calls if call.fields.get("cmd") == "EVTCHNOP_send"]
    assert sends
    assert sends[0].fields["arg"] == {"port": 1}
    assert sends[0].result == 0
    assert str(sends[0].where).startswith("stage0:kernel:grub_xen_")
    (table, *_) = [call for call in calls if call.fields.get("cmd") == "GNTTABOP_setup_table"]
    assert "dom=DOMID_SELF" in table.as_text()
    bases = [call for call in calls if call.name == "mmuext_op"]
    commands = [op["cmd"] for call in bases for op in call.fields["uops"]]  # type: ignore[attr-defined]  # a list
    assert "MMUEXT_NEW_BASEPTR" in commands
    (opened, *_) = [call for call in calls if call.fields.get("cmd") == "EVTCHNOP_alloc_unbound"]
    port = opened.fields["arg"]["port"]  # type: ignore[index]  # a dict
    assert re.fullmatch(r"\d+=>\d+", str(port))
    assert all(re.match(r"\d+\.\d{9} ", call.as_text()) for call in calls)


def test_xenstore_requests_and_replies(run: Run) -> None:
    requests = of_kind(run, "xenstore")
    reads = {str(event.fields["path"]): event.result for event in requests if event.name == "DIRECTORY"}
    assert reads["'device/vbd'"] == "'51712'"


def test_blocks_name_their_files(run: Run) -> None:
    files = [str(event.fields.get("file")) for event in of_kind(run, "block")]
    assert any(re.fullmatch(r"xvda1:/boot/xen/pvboot-.*\.elf\+0x\w+", file) for file in files)
    assert any(re.match(r"xvda1:/boot/grub/", file) for file in files)
    assert all(event.result == "OKAY" and event.name == "read" for event in of_kind(run, "block"))


def test_event_channels_name_their_ends(run: Run) -> None:
    ends = {str(event.fields.get("to", event.fields.get("from"))) for event in of_kind(run, "event")}
    assert ends >= {"xenstore", "console", "xvda"}


def test_pages_and_stages_and_console(run: Run) -> None:
    pages = of_kind(run, "page")
    assert any(re.search(r"\(pfn 0x[0-9a-f]+\)", str(event.fields["new"])) for event in pages)
    assert {event.name for event in pages} >= {"L1"}
    assert [event.fields["number"] for event in of_kind(run, "stage")] == [0, 1]
    assert any("Welcome to GRUB!" in str(event.fields["text"]) for event in of_kind(run, "console"))


def test_text_has_a_line_for_each_event(run: Run) -> None:
    out = Text()
    sink = write_text(out)
    for event in run[0]:
        sink(event)
    lines = out.text.splitlines()
    assert len(lines) == len(run[0])
    assert any(re.search(r"event_channel_op\(cmd=EVTCHNOP_send, arg=\{port=\d+\}\) = 0$", line) for line in lines)


def test_json_lines_are_read_back_as_they_were(run: Run) -> None:
    out = Text()
    sink = write_json_lines(out)
    for event in run[0]:
        sink(event)
    assert read_trace(out.text.splitlines(), "a trace") == run[0]


def read_timeline(text: str) -> dict[str, list[dict[str, object]]]:
    """A reader of the trace-event format by its description: complete and instant events by their threads' names."""
    data = json.loads(text)
    assert set(data) <= {"traceEvents", "displayTimeUnit"}
    names: dict[int, str] = {}
    found: dict[str, list[dict[str, object]]] = {}
    for entry in data["traceEvents"]:
        assert {"ph", "pid", "tid", "name"} <= set(entry)
        if entry["ph"] == "M":
            if entry["name"] == "thread_name":
                names[entry["tid"]] = entry["args"]["name"]
            continue
        assert entry["ph"] in ("X", "i")
        assert entry["ts"] >= 0
        assert (entry["ph"] == "X") == ("dur" in entry)
        assert entry.get("s", "t") == "t"
        found.setdefault(names[entry["tid"]], []).append(entry)
    return found


def test_the_timeline_is_read_back(run: Run) -> None:
    out = Text()
    timeline = Timeline(out)
    for event in run[0]:
        timeline(event)
    timeline.close()
    tracks = read_timeline(out.text)
    assert len(tracks["hypercall"]) == len(of_kind(run, "hypercall"))
    assert len(tracks["block"]) == len(of_kind(run, "block"))
    first, second = tracks["stage"]
    assert first["name"] == "stage 0: GRUB"
    assert second["ts"] == pytest.approx(first["ts"] + first["dur"])  # type: ignore[operator]  # numbers
    assert any(str(entry["name"]).startswith("read xvda1:/boot/") for entry in tracks["block"])


def test_only_what_was_asked_for(guest: Callable[[str, str], Path]) -> None:
    kernel, disk = guest("pvgrub", "grub-x86_64-xen.bin"), guest("chain", "chain.img")
    events, _ = boot(kernel, disk, ("hypercall", "block"), ("GNTTABOP_s*", "*/pvboot*", "!GNTTABOP_set_version"))
    assert {str(event.fields.get("cmd", event.name)) for event in events} == {"GNTTABOP_setup_table", "read"}


def test_two_runs_of_one_guest_do_not_part_and_others_do(run: Run) -> None:
    events = [(same_thing(event), event.as_text()) for event in run[0]]
    assert not find_parting(events, list(events)).is_one
    shifted = [event._replace(time=event.time + 5, rip=event.rip + 16) for event in run[0]]
    assert not find_parting(events, [(same_thing(event), "") for event in shifted]).is_one
    other = [*events[:100], (("something", "else"), "something else"), *events[101:]]
    parting = find_parting(events, other, context=2, following=3)
    assert parting.same == 100
    assert parting.before == [text for _, text in events[98:100]]
    assert parting.left == [text for _, text in events[100:103]]
    assert parting.right == ["something else", *(text for _, text in events[101:103])]
    assert find_parting(events, events[:-1]).right == []


def test_values_as_text() -> None:
    assert text_of({"a": [1, "x"], "b": {"c": 2}}) == "{a=[1, x], b={c=2}}"


def test_a_watch_event_is_told_when_it_is_queued(guest: Callable[[str, str], Path]) -> None:
    kernel = guest("pvgrub", "grub-x86_64-xen.bin")
    machine = Machine.create(DomainConfig(kernel=str(kernel), memory_mib=64))
    events: list[Event] = []
    tracer = Tracer(machine, Symbols.of(machine, SymbolFiles()), ["xenstore"], events.append, ["*WATCH*", "data/*"])
    store = machine.xenstore
    conn = store.daemon.connection_of(1)
    store.dispatch(conn, XS_WATCH, 0, b"data\0my token\0")
    store.daemon.send_deferred(conn)
    dom0 = store.client()
    dom0.write("/local/domain/1/data/x", "1")
    tracer.close()
    dom0.write("/local/domain/1/data/y", "1")
    machine.close()
    assert [(event.name, event.fields, event.result) for event in events] == [
        ("WATCH", {"path": "'data'", "value": "'my token'"}, "'OK'"),
        ("WATCH_EVENT", {"path": "'data'", "token": "'my token'"}, None),
        ("WATCH_EVENT", {"path": "'data/x'", "token": "'my token'"}, None),
    ]
