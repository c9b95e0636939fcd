"""The one place where a hypercall is dispatched (xen/arch/x86/pv/hypercall.c).

Counting, tracing and the translation of refusals into ``-errno`` happen here and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hypercalls.abi import Abi
    from hypercalls.context import (
        DescriptorTables,
        DomainPort,
        EventChannelPort,
        GrantTablePort,
        GuestAccess,
        MmPort,
        PhysdevPort,
        SchedPort,
        VcpuPort,
        XenoprofPort,
    )
    from hypercalls.table import Row

    #: Called before with the row and the arguments, after with the result as well.
    _Watch = tuple[Callable[[Row, Sequence[int]], None], Callable[[Row, Sequence[int], int], None]]

__all__ = ["HypercallContext", "HypercallDispatcher"]

_EXTRA_VERSION = ".7"


class HypercallContext:
    """The view that handlers have: the ports of one domain (hypercalls.context.Context)."""

    def __init__(
        self, *, abi: Abi, guest: GuestAccess, domain: DomainPort, vcpu: VcpuPort, event_channels: EventChannelPort,
        grant_table: GrantTablePort, mm: MmPort, descriptor_tables: DescriptorTables, sched: SchedPort,
        physdev: PhysdevPort, xenoprof: XenoprofPort,
    ) -> None:  # fmt: skip
        self.abi = abi
        self.guest = guest
        self.domain = domain
        self.vcpu = vcpu
        self.event_channels = event_channels
        self.grant_table = grant_table
        self.mm = mm
        self.descriptor_tables = descriptor_tables
        self.sched = sched
        self.physdev = physdev
        self.xenoprof = xenoprof
        self.dispatch: Callable[[int, Sequence[int]], int] = lambda op, args: -e.ENOSYS

    def call(self, op: int, args: Sequence[int]) -> int:
        """Another hypercall with the same context (multicall)."""
        return self.dispatch(op, args)

    def extra_version(self) -> str:
        """XENVER_extraversion: this is a Xen 4.17.7."""
        return _EXTRA_VERSION


class HypercallDispatcher:
    """Runs hypercalls by number. ``counts`` holds how often each was called, by name."""

    def __init__(self, table: Mapping[int, Row], context: HypercallContext) -> None:
        self._table = table
        self._context = context
        context.dispatch = self.call
        self.counts: dict[str, int] = {}
        self.unknown: dict[str, int] = {}  #: those that no public header names, by number
        self.absent: dict[str, int] = {}  #: those that one names and this Xen does not have: answered -ENOSYS as well
        self.refusal = ""  #: why the call that was refused last was, in words
        self._invoke = self._plain_invoke
        self._watches: list[_Watch] = []

    def call(self, op: int, args: Sequence[int]) -> int:
        """Run hypercall ``op``: its result as the signed value that the guest sees in its register."""
        row = self._table.get(op)
        if row is None:
            name = f"hypercall {op}"
            self.counts[name] = self.counts.get(name, 0) + 1
            self.unknown[name] = self.unknown.get(name, 0) + 1
            return -e.ENOSYS
        self.counts[row.name] = self.counts.get(row.name, 0) + 1
        return self._invoke(row, args)

    def _plain_invoke(self, row: Row, args: Sequence[int]) -> int:
        try:
            result = row.handler(self._context, *args[: row.nargs])
        except XenError as refusal:
            self.refusal = refusal.reason
            return -refusal.errno
        if result == -e.ENOSYS:
            self._count_absent(row, args)
        return result

    def set_current(self, vcpu: VcpuPort) -> None:
        """Another vcpu makes hypercalls from now on."""
        self._context.vcpu = vcpu

    def _count_absent(self, row: Row, args: Sequence[int]) -> None:
        from hypercalls.signatures import operation_name  # most guests only ask for what is there

        name = operation_name(row.name, args)
        if name is not None:
            self.absent[name] = self.absent.get(name, 0) + 1
        else:
            number = f"{row.name}({args[0]:#x})"
            self.unknown[number] = self.unknown.get(number, 0) + 1

    def monitor(
        self, before: Callable[[Row, Sequence[int]], None], after: Callable[[Row, Sequence[int], int], None]
    ) -> Callable[[], None]:
        """Watch every hypercall; the returned callable takes the watch off. Costs nothing while none is on."""
        watch = (before, after)
        self._watches.append(watch)
        self._invoke = self._watched_invoke

        def undo() -> None:
            if watch in self._watches:
                self._watches.remove(watch)
            if not self._watches:
                self._invoke = self._plain_invoke

        return undo

    def _watched_invoke(self, row: Row, args: Sequence[int]) -> int:
        if len(self._watches) == 1:
            before, after = self._watches[0]
            before(row, args)
            result = self._plain_invoke(row, args)
            after(row, args, result)
            return result
        watches = list(self._watches)
        for before, _ in watches:
            before(row, args)
        result = self._plain_invoke(row, args)
        for _, after in reversed(watches):
            after(row, args, result)
        return result
