#!/usr/bin/env python3
"""What debugging costs: a run with breakpoints armed against the plain run, and a reverse step at GRUB's menu.

Ratios of runs in turn, in one process each, so that a busy machine touches all alike. Limits: 1.5 times, 2 seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import TYPE_CHECKING

from pvemu.config import DomainConfig
from pvemu.control.debuggee import Debuggee
from pvemu.control.keyboard import Keyboard
from pvemu.control.stop_points import StopPoint, parse_event
from pvemu.control.timeline import Timeline
from pvemu.disk.spec import parse_disk_specs
from pvemu.machine import Machine
from pvemu.mkimage import build
from pvemu.monitor.inspect import inspect
from pvemu.testing.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT, REVERSE_LIMIT = 1.5, 2.0
#: Code that runs rarely or never on the way: what a developer stops at.
SYMBOLS = (
    "grub_abort", "grub_exit", "grub_fatal", "grub_reboot", "grub_halt", "grub_xendisk_init", "grub_machine_fini",
    "grub_rescue_run", "grub_dl_load_file", "grub_dl_unload", "grub_file_open", "grub_xen_store_write_file",
)  # fmt: skip


def debuggee() -> Debuggee:
    """Host GRUB, chainload, a menu of 5 s, halt: the bench's `chain` job."""
    grub, disk = str(build("pvgrub")["grub-x86_64-xen.bin"]), str(build("demo")["demo.img"])
    config = DomainConfig(kernel=grub, memory_mib=256, disks=parse_disk_specs([f"xvda={disk}"]))
    machine = Machine.create(config)
    return Debuggee(machine, Session(machine), Keyboard(machine.clock, machine.console))


def seconds_of(points: Sequence[StopPoint] | None) -> float:
    """A whole run: by the machine itself (None), or with these armed."""
    guest = debuggee()
    if points is not None:
        named = [address for name in SYMBOLS for address in guest.symbols.address(name)]
        points = [*points, *(StopPoint(i, "code", hex(at), (at,)) for i, at in enumerate(named, 1))]
    began = time.perf_counter()
    if points is None:
        outcome = guest.machine.run()
        assert outcome.kind == "shutdown", outcome
    else:
        while guest.resume(points).kind != "end":
            pass
    taken = time.perf_counter() - began
    guest.machine.close()
    return taken


def reverse_step_seconds() -> list[float]:
    """Three reverse steps, one after the other, at the menu."""
    guest = debuggee()
    line = Timeline(guest, inspect)
    try:
        line.resume([parse_event(1, "stage 1")])
        line.resume([parse_event(2, "console GNU GRUB")])
        found = []
        for _ in range(3):
            began = time.perf_counter()
            line.reverse_step()
            found.append(time.perf_counter() - began)
        return found
    finally:
        line.close()
        guest.machine.close()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What debugging costs.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each kind, in turn (default 5)")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a limit does not hold")
    options = parser.parse_args()
    seconds_of(None)  # bytecode files, the page cache
    plain, armed = [], []
    for _ in range(options.runs):
        plain.append(seconds_of(None))
        armed.append(seconds_of([]))
    ratio = statistics.median(armed) / statistics.median(plain)
    reverse = reverse_step_seconds()
    print(f"plain run       {statistics.median(plain):7.3f} s (median of {options.runs})")
    print(f"breakpoints     {statistics.median(armed):7.3f} s")
    print(f"armed / plain = {ratio:.2f} (limit {LIMIT}): {'holds' if ratio <= LIMIT else 'DOES NOT HOLD'}")
    shown = ", ".join(f"{one:.2f} s" for one in reverse)
    holds = max(reverse) < REVERSE_LIMIT
    print(f"reverse step at GRUB's menu: {shown} (limit {REVERSE_LIMIT} s): {'holds' if holds else 'DOES NOT HOLD'}")
    return int(options.check and not (ratio <= LIMIT and holds))


if __name__ == "__main__":
    sys.exit(main())
