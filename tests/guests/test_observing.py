"""Observing a machine (docs/architecture.md): each place to attach tells what happens, and is silent once detached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvemu.cpu.exits import Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.guests.conftest import MakeGuest

PF = 14


def test_exceptions_deliveries_and_emulation(micro: MakeGuest) -> None:
    guest = micro("traps.S")
    exits: list[Any] = []
    deliveries: list[Any] = []
    fills: list[tuple[int, int, tuple[int, int] | None]] = []
    guest.machine.exceptions.observe(exits.append)
    guest.machine.traps.observe(deliveries.append)
    guest.machine.engine.monitor_fills(lambda *fill: fills.append(fill))
    guest.run_to("poweroff")
    assert [d.vector for d in deliveries if d.kind in ("exception", "interrupt")] == [t.vector for t in guest.traps]
    assert [d.error_code for d in deliveries if d.vector == PF] == [t.error for t in guest.traps if t.vector == PF]
    assert len(exits) >= len(guest.traps)
    refused = {page for page, _access, found in fills if found is None}
    assert refused >= {e.address & ~0xFFF for e in exits if e.vector == PF and not e.is_software}
    assert (0x100000, Access.FETCH) in {(page, access) for page, access, found in fills if found is not None}


def test_privileged_instructions(micro: MakeGuest) -> None:
    guest = micro("privileged.S")
    emulated: list[tuple[int, int]] = []
    ports: list[Any] = []
    guest.machine.privileged.observe(lambda rip, instruction: emulated.append((rip, instruction.opcode)))
    guest.machine.privileged.observe_ports(ports.append)
    guest.run_to("poweroff")
    assert {0x0F20, 0x0F22, 0x0F32} <= {opcode for _rip, opcode in emulated}
    assert {access.is_allowed for access in ports} == {True, False}


def test_events_and_console(micro: MakeGuest) -> None:
    guest = micro("events.S")
    sent: list[int] = []
    raised: list[int] = []
    kinds: list[str] = []
    output: list[bytes] = []
    machine = guest.machine
    machine.event_channels.observe(sent.append, raised.append)
    machine.traps.observe(lambda delivery: kinds.append(delivery.kind))
    machine.observe_console(output.append)
    guest.run_to("stuck")
    assert machine.console_port in sent
    assert raised
    assert kinds.count("event") == guest.quad("upcall_count")
    assert b"".join(output) == guest.console


def test_nothing_is_told_after_detaching(micro: MakeGuest) -> None:
    guest = micro("events.S")
    machine = guest.machine
    told: list[object] = []
    undo: list[Callable[[], None]] = [
        machine.exceptions.observe(told.append),
        machine.traps.observe(told.append),
        machine.privileged.observe(lambda *args: told.append(args)),
        machine.privileged.observe_ports(told.append),
        machine.engine.monitor_fills(lambda *args: told.append(args)),
        machine.event_channels.observe(told.append, told.append),
        machine.stages.observe(told.append),
        machine.observe_console(told.append),
        machine.hypercalls.monitor(lambda *args: told.append(args), lambda *args: told.append(args)),
    ]
    for stop in undo:
        stop()
    guest.run_to("stuck")
    assert not told
