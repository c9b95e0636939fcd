"""Real boot loaders on the whole machine: one fixture that boots and keeps what is worth looking at."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from pvemu.config import DEFAULT_EPOCH, DomainConfig
from pvemu.devices.xenstore.trace import trace_requests
from pvemu.disk.spec import parse_disk_specs
from pvemu.machine import Machine
from pvemu.testing.session import Session
from tests.boot.recorded import GUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pvemu.testing.verdict import Verdict


class Booted(NamedTuple):
    """A finished run: verdict, the console's bytes, and the guest's xenstore requests with their replies."""

    verdict: Verdict
    console: bytes
    store_trace: list[str]


class Boot(Protocol):
    """What the `boot` fixture is. ``stop_at`` ends the run at the first instruction of a stage with that ``guest_os``;
    ``prepare`` gets the machine before it starts.
    """

    def __call__(
        self, kernel: Path, *disks: str, memory: int = 256, cmdline: str = "", ramdisk: Path | None = None,
        send: str | Sequence[str] = (), until: str | None = None,
        timeout: float = 300, epoch: int = DEFAULT_EPOCH, stop_at: str | None = None,
        prepare: Callable[[Machine], object] = ...,
    ) -> Booted: ...  # fmt: skip


@pytest.fixture(scope="session")
def boot() -> Boot:
    """Boots a kernel with disks (as `--disk` takes them) to the end of its run."""

    def run(
        kernel: Path, *disks: str, memory: int = 256, cmdline: str = "", ramdisk: Path | None = None,
        send: str | Sequence[str] = (), until: str | None = None,
        timeout: float = 300, epoch: int = DEFAULT_EPOCH, stop_at: str | None = None,
        prepare: Callable[[Machine], object] = lambda machine: None,
    ) -> Booted:  # fmt: skip
        to_send = [send] if isinstance(send, str) else send
        config = DomainConfig(
            kernel=str(kernel), cmdline=cmdline, memory_mib=memory, disks=parse_disk_specs(disks), epoch=epoch,
            ramdisk=str(ramdisk) if ramdisk is not None else None,
        )  # fmt: skip
        machine = Machine.create(config)
        try:
            trace: list[str] = []
            trace_requests(machine.xenstore, config.domid, trace.append)
            session = Session(
                machine, timeout=timeout, send=[text.encode() for text in to_send if text],
                until=re.compile(until.encode()) if until is not None else None,
            )  # fmt: skip
            if stop_at is not None:
                machine.stages.observe(
                    lambda stage: machine.stop("hand-off") if stage.guest_os == stop_at else None
                )
            prepare(machine)
            verdict = session.run()
            return Booted(verdict, bytes(session.console), trace)
        finally:
            machine.close()

    return run


@pytest.fixture(scope="session")
def grub(guest: Callable[[str, str], Path]) -> Path:
    """The host's boot loader: Debian's grub-x86_64-xen.bin."""
    return guest("pvgrub", "grub-x86_64-xen.bin")


@pytest.fixture(scope="session")
def chain_boot(boot: Boot, guest: Callable[[str, str], Path]) -> Callable[[str], Booted]:
    """A recorded chainload (images/chain, 256 MiB), by its name; booted once for all tests that look at it."""
    kept: dict[str, Booted] = {}

    def run(name: str) -> Booted:
        if name not in kept:
            kernel = guest(*GUESTS[name].kernel)
            kept[name] = boot(kernel, f"xvda={guest('chain', 'chain.img')},rw", epoch=GUESTS[name].epoch)
        return kept[name]

    return run
