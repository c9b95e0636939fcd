"""What can be seen of a guest under test, without making it run: console, screen, menu, store, files, hypercalls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.debug.crash_report import recent_hypercalls
from pvemu.debug.screen import render, render_svg
from pvemu.devices.xenstore.dump import xenstore_ls
from pvemu.filesystems.disk_map import DiskMap, device_name
from pvemu.hypervisor.domain import SHUTDOWN_NAMES
from pvemu.testing.asciicast import asciicast
from pvemu.testing.console_text import ConsoleText
from pvemu.testing.menu import Menu, read_menu
from pvemu.testing.repro import repro_command
from pvemu.testing.snapshot import RemoteGuest, wherever_it_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvemu.config import DomainConfig
    from pvemu.debug.stages import Stage
    from pvemu.filesystems.disk_map import MappedVolume
    from pvemu.machine import Machine

__all__ = ["BENIGN_ERRORS", "GuestView"]

#: What GRUB prints of a file that ``search -f`` found on no disk: host images probe for several, one after the other.
BENIGN_ERRORS = (r"error: no such device: /\S+\.",)
_ERROR = re.compile(r"error: [^\n]*")
_NS_PER_S = 1_000_000_000
_LINES = 24


class GuestView:
    """A guest for somebody who only looks."""

    def __init__(self, config: DomainConfig, machine: Machine) -> None:
        self.config = config
        self.machine = machine
        self.console = bytearray()  #: every byte that the guest has written
        self.timeline: list[tuple[float, bytes]] = []  #: the same by pieces, with the guest second of each
        self.sent: list[str] = []  #: what was typed so far
        self._text = ConsoleText()
        self.remote: RemoteGuest | None = None  #: where the guest is since it was restored

    @property
    @wherever_it_runs
    def text(self) -> str:
        """All that the console showed, without colours and cursor movements."""
        return self._text.text

    @property
    @wherever_it_runs
    def screen(self) -> list[str]:
        """The 24 lines of an 80x24 terminal as they stand, without trailing blanks."""
        lines = render(bytes(self.console))
        return lines + [""] * (_LINES - len(lines))

    @wherever_it_runs
    def screen_svg(self) -> str:
        """The screen as a picture, with its colours."""
        return render_svg(bytes(self.console))

    @wherever_it_runs
    def asciicast(self) -> str:
        """A recording of the console (asciicast v2) in guest time, with a marker for each stage."""
        return asciicast(self.timeline, self.stages, f"pvemu boot {Path(self.config.kernel).name}")

    @property
    @wherever_it_runs
    def menu(self) -> Menu | None:
        """The menu on the screen; None when there is none."""
        return read_menu(self.screen)

    @property
    @wherever_it_runs
    def stages(self) -> list[Stage]:
        """The kernels that ran, the first of them what the domain was built from."""
        return self.machine.stages.stages

    @property
    @wherever_it_runs
    def shutdown(self) -> str | None:
        """Why it shut down: ``poweroff``, ``reboot``, ``crash``, ...; None while it has not."""
        reason = self.machine.domain.shutdown_reason
        return SHUTDOWN_NAMES.get(reason, str(reason)) if reason is not None else None

    @property
    @wherever_it_runs
    def xenstore(self) -> str:
        """The whole store as ``xenstore-ls -f -p`` prints it."""
        return xenstore_ls(self.machine.xenstore.client())

    @property
    @wherever_it_runs
    def hypercalls(self) -> list[str]:
        """The last hypercalls, oldest first, a line each: guest seconds, return address, call, result."""
        machine = self.machine
        return recent_hypercalls(machine.recent, machine.clock.start, machine.hypercall_nargs)

    @property
    @wherever_it_runs
    def seconds(self) -> float:
        """Guest time since the start."""
        return (self.machine.clock.now() - self.machine.clock.start) / _NS_PER_S

    @wherever_it_runs
    def errors(self, benign: Sequence[str] = BENIGN_ERRORS) -> list[str]:
        """The ``error:`` lines that the console showed, without those that one of ``benign`` matches in full."""
        lines = [line.rstrip() for line in _ERROR.findall(self._text.text)]
        return [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in benign)]

    @wherever_it_runs
    def repro(self) -> str:
        """A shell command that starts the same guest and types the same."""
        return repro_command(self.config, self.sent, self.seconds)

    @wherever_it_runs
    def read_file(self, place: str) -> bytes | None:
        """What a file on a disk holds as the disk stands now: ``xvda1:/boot/grubenv``, ``lvm/vg-root:/boot/grubenv``.
        None where there is none.
        """
        device, _, path = place.partition(":")
        volume = self._volume(device)
        return volume.read_file(path) if volume is not None else None

    @wherever_it_runs
    def has_pending_journal(self, place: str) -> bool:
        """Whether the file system of ``place`` has a journal that was not written back, which nothing is seen of."""
        volume = self._volume(place.partition(":")[0])
        return volume is not None and volume.file_system is not None and volume.file_system.has_pending_journal

    def _volume(self, device: str) -> MappedVolume | None:
        """``xvda1``, ``lvm/vg-root``: as that disk stands now."""
        for vdev, disk in self.machine.disks.items():
            if device.startswith((vdev, "lvm/", "md/")):
                for volume in DiskMap(disk).volumes:
                    if device_name(vdev, volume.partition) == device:
                        return volume
        return None
