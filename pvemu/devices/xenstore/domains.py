"""The domains xenstored knows, what each of them uses up, and the quotas on it.

Mirrors ``struct domain`` and the accounting of tools/xenstore/xenstored_domain.c. Left out, because they run on the
wall clock: the write rate limit (it only delays) and the 20 s after which unread watch events are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public.io.xs_wire import XENSTORE_REL_PATH_MAX
from pvemu.devices.xenstore import permissions as xp
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Domain", "Domains", "Quotas"]


class Quotas:
    """The limits for unprivileged domains, with xenstored 4.17's defaults; ``XS_CONTROL quota set`` changes them."""

    def __init__(self) -> None:
        self.nb_entry_per_domain = 1000
        self.nb_watch_per_domain = 128
        self.max_transaction = 10
        self.req_outstanding = 20
        self.trans_nodes = 1024
        self.memory_per_domain_hard = 2 * 1024 * 1024 + 512 * 1024
        self.max_entry_size = 2048
        self.max_path_len = XENSTORE_REL_PATH_MAX
        self.nb_perms_per_node = 5
        self.memory_per_domain_soft = 2 * 1024 * 1024


class Domain:
    """One domain: what it owns and uses of the store. Its connection refers to it, not the other way round."""

    __slots__ = (
        "domid",
        "generation",
        "introduced",
        "memory",
        "nbentry",
        "nboutstanding",
        "nbwatch",
        "shutdown",
    )

    def __init__(self, domid: int, generation: int) -> None:
        self.domid = domid
        self.generation = generation  #: the store's generation when xenstored first heard of the domain
        self.introduced = False
        self.shutdown = False
        self.nbentry = 0
        self.nbwatch = 0
        self.nboutstanding = 0
        self.memory = 0


class Domains:
    """All domains by id, and the permissions of the two special watch names."""

    def __init__(self, quotas: Quotas, existing: Iterable[int]) -> None:
        self.quotas = quotas
        self.existing = set(existing)  #: the domids the hypervisor has, introduced or not
        self.by_domid: dict[int, Domain] = {}
        self.special: dict[bytes, xp.Permissions] = {
            b"@introduceDomain": (xp.Permission(0, xp.XS_PERM_NONE),),
            b"@releaseDomain": (xp.Permission(0, xp.XS_PERM_NONE),),
        }

    def find_or_alloc(self, domid: int, generation: int) -> Domain | None:
        """The domain, remembered from now on if the hypervisor has it; None if it has not."""
        domain = self.by_domid.get(domid)
        if domain is None and domid in self.existing:
            domain = self.by_domid[domid] = Domain(domid, generation)
        return domain

    def connected(self, domid: int) -> Domain:
        """An introduced domain. Raises ENOENT for any other."""
        domain = self.by_domid.get(domid)
        if domain is None or not domain.introduced:
            raise XsError("ENOENT")
        return domain

    def alloc_permrefs(self, perms: xp.Permissions, generation: int) -> xp.Permissions:
        """``perms`` with the entries for domains that do not exist marked as ignored."""
        return tuple(
            entry
            if self.find_or_alloc(entry.id, generation) is not None
            else xp.Permission(entry.id, entry.perms | xp.XS_PERM_IGNORE)
            for entry in perms
        )

    def adjust_perms(self, perms: xp.Permissions, generation: int) -> xp.Permissions:
        """``perms`` of a node written at ``generation``, without effect for domains that came later or are gone."""
        by_domid = self.by_domid
        for entry_id, mask in perms[1:]:
            if not mask & xp.XS_PERM_IGNORE:
                domain = by_domid.get(entry_id)
                if domain is None or domain.generation > generation:
                    break
        else:
            return perms
        adjusted = [perms[0]]
        for entry in perms[1:]:
            domain = by_domid.get(entry.id)
            stale = domain is None or domain.generation > generation
            adjusted.append(xp.Permission(entry.id, entry.perms | xp.XS_PERM_IGNORE) if stale else entry)
        return tuple(adjusted)

    def entry_add(self, domid: int, number: int) -> None:
        """Count nodes a domain owns."""
        domain = self.by_domid.get(domid)
        if domain is not None:
            domain.nbentry += number

    def memory_add(self, domid: int, amount: int, *, check: bool = False) -> bool:
        """Count bytes a domain uses in the daemon; with ``check``, refuse (False) what passes the hard quota."""
        domain = self.by_domid.get(domid)
        if domain is None:
            return not check
        memory = domain.memory + amount
        if check and domid and memory >= self.quotas.memory_per_domain_hard:
            return False
        domain.memory = memory
        return True
