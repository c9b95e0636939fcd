"""The store's front door: clients, and what the hypervisor and the toolstack tell xenstored of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.devices.xenstore.client import Client
from pvemu.devices.xenstore.dispatch import Dispatcher

if TYPE_CHECKING:
    from pvemu.devices.xenstore.connection import Connection

__all__ = ["XenStore"]


class XenStore(Dispatcher):
    """A xenstored: requests, and who may make them."""

    def add_domain(self, domid: int) -> None:
        """The hypervisor has a new domain: permissions may name it, and it may be introduced."""
        self.daemon.domains.existing.add(domid)

    def client(self, domid: int = 0) -> Client:
        """An in-process client: one of dom0's tools, or (for tests) one with the rights of a guest."""
        return Client(self, self.daemon.new_connection(domid))

    def introduce(self, domid: int, gfn: int = 0, port: int = 1) -> Connection:
        """Introduce a domain as the toolstack does, by XS_INTRODUCE, and return the connection for its ring."""
        toolstack = self.client()
        toolstack.introduce(domid, gfn, port)
        toolstack.close()
        return self.daemon.connection_of(domid)

    def domain_shutdown(self, domid: int) -> None:
        """The hypervisor's VIRQ_DOM_EXC: a domain shut down or crashed. Watches of ``@releaseDomain`` fire once."""
        self.daemon.domain_shutdown(domid)
        self.settle()
