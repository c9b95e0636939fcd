"""What each request does: one function per type, and the table of them.

Mirrors the ``do_*`` functions and ``wire_funcs`` of tools/xenstore/xenstored_{core,watch,transaction,domain}.c. A
handler takes the daemon, the connection and the payload, returns the reply's payload, and raises XsError for an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.public.io import xs_wire
from pvemu.devices.xenstore import permissions as xp
from pvemu.devices.xenstore.control import do_control
from pvemu.devices.xenstore.paths import canonicalize, domain_path, get_parent
from pvemu.devices.xenstore.transactions import Transaction
from pvemu.devices.xenstore.wire import ACK, XsError, atoi, count_strings, get_strings, onearg

if TYPE_CHECKING:
    from pvemu.devices.xenstore.connection import Connection
    from pvemu.devices.xenstore.daemon import Daemon

__all__ = ["WIRE_FUNCS", "Handler", "WireFunc"]

Handler = Callable[["Daemon", "Connection", bytes], bytes]

#: DOMID_SELF of xen.h, the one reserved domid XS_IS_DOMAIN_INTRODUCED knows.
_DOMID_SELF = 0x7FF0


def do_read(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path| -> value."""
    return daemon.store.get(conn, canonicalize(conn.home, onearg(payload)), xp.XS_PERM_READ).value


def send_directory(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path| -> child|*; E2BIG when they do not fit a payload."""
    return daemon.store.get(conn, canonicalize(conn.home, onearg(payload)), xp.XS_PERM_READ).children


def send_directory_part(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path|offset| -> generation|child|*, as many as fit; an empty name ends the list."""
    if count_strings(payload) != 2:
        raise XsError("EINVAL")
    path, offset_text = get_strings(payload)
    node = daemon.store.get(conn, canonicalize(conn.home, path), xp.XS_PERM_READ)
    offset = atoi(offset_text)
    generation = b"%d\0" % node.generation
    children = node.children[offset:]
    if not children:
        return generation + b"\0"
    room = xs_wire.XENSTORE_PAYLOAD_MAX - len(generation) - 1
    if len(children) <= room:
        return generation + children + b"\0"
    # The last name that ends within the room; "room" itself is kept for the mark of the list's end.
    return generation + children[: children.rfind(b"\0", 0, room) + 1]


def do_write(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path|value: makes the node and its parents where missing."""
    name, nul, value = payload.partition(b"\0")
    if not nul:
        raise XsError("EINVAL")
    path = canonicalize(conn.home, name)
    store = daemon.store
    try:
        node = store.get(conn, path, xp.XS_PERM_WRITE)
    except XsError as error:
        if error.name != "ENOENT":
            raise
        node = store.create(conn, path, value)
    else:
        node = store.set_value(conn, path, node, value)
    daemon.watches.fire(conn, path, node, exact=False)
    return ACK


def do_mkdir(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path|: fine, and no event, if it exists."""
    path = canonicalize(conn.home, onearg(payload))
    try:
        daemon.store.get(conn, path, xp.XS_PERM_WRITE)
    except XsError as error:
        if error.name != "ENOENT":
            raise
        node = daemon.store.create(conn, path, b"")
        daemon.watches.fire(conn, path, node, exact=False)
    return ACK


def do_rm(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path|: with all below it; fine if only its parent exists; EINVAL for the root."""
    path = canonicalize(conn.home, onearg(payload))
    try:
        daemon.store.get(conn, path, xp.XS_PERM_WRITE)
    except XsError as error:
        if error.name != "ENOENT":
            raise
        daemon.store.read(conn, get_parent(path))
        return ACK
    if path == b"/":
        raise XsError("EINVAL")
    daemon.store.remove_tree(conn, path, daemon.watches.fire)
    return ACK


def do_get_perms(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path| -> permission|+."""
    node = daemon.store.get(conn, canonicalize(conn.home, onearg(payload)), xp.XS_PERM_READ)
    return "".join(f"{entry}\0" for entry in xp.format_permissions(node.perms)).encode()


def do_set_perms(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path|permission|+: for the owner, who may not give the node away; ENOENT for an owner that does not exist."""
    name, *strings = get_strings(payload) or [b""]
    if not strings:
        raise XsError("EINVAL")
    if conn.is_unprivileged and len(strings) > daemon.quotas.nb_perms_per_node:
        raise XsError("ENOSPC")
    store = daemon.store
    perms = daemon.domains.alloc_permrefs(xp.parse_permissions(strings), store.generation)
    if perms[0].perms & xp.XS_PERM_IGNORE:
        raise XsError("ENOENT")
    if name[:1] == b"@":
        return _set_perms_special(daemon, conn, name, perms)
    path = canonicalize(conn.home, name)
    node = store.get(conn, path, xp.XS_PERM_WRITE | xp.XS_PERM_OWNER)
    if conn.is_unprivileged and perms[0].id != node.perms[0].id:
        raise XsError("EPERM")
    written = store.set_perms(conn, path, node, perms)
    daemon.watches.fire(conn, path, written, exact=False, old_perms=node.perms)
    return ACK


def _set_perms_special(daemon: Daemon, conn: Connection, name: bytes, perms: xp.Permissions) -> bytes:
    special = daemon.domains.special
    if name not in special:
        raise XsError("EINVAL")
    wanted = xp.XS_PERM_WRITE | xp.XS_PERM_OWNER
    if daemon.store.permitted(conn, special[name]) & wanted != wanted:
        raise XsError("EACCES")
    special[name] = perms
    return ACK


def do_watch(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path|token|."""
    strings = get_strings(payload)
    if len(strings) != 2:
        raise XsError("EINVAL")
    daemon.watches.add(conn, *strings)
    return ACK


def do_unwatch(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """path|token|."""
    strings = get_strings(payload)
    if len(strings) != 2:
        raise XsError("EINVAL")
    daemon.watches.remove(conn, *strings)
    return ACK


def do_reset_watches(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """| : drops the transactions, too."""
    daemon.watches.remove_all(conn)
    daemon.forget_transactions(conn)
    return ACK


def do_transaction_start(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """| -> id|; EBUSY within a transaction, ENOSPC for too many."""
    if conn.transaction is not None:
        raise XsError("EBUSY")
    if conn.is_unprivileged and len(conn.transactions) > daemon.quotas.max_transaction:
        raise XsError("ENOSPC")
    daemon.store.generation += 1
    while True:
        trans_id = conn.next_transaction_id
        conn.next_transaction_id = (trans_id + 1) & 0xFFFFFFFF
        if trans_id and trans_id not in conn.transactions:
            break
    conn.transactions[trans_id] = Transaction(trans_id, daemon.store.generation)
    return b"%d\0" % trans_id


def do_transaction_end(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """T| or F|: commit or abandon. EAGAIN asks to try again from the start."""
    argument = onearg(payload)
    if argument not in (b"T", b"F"):
        raise XsError("EINVAL")
    transaction = conn.transaction
    if transaction is None:
        raise XsError("ENOENT")
    conn.transaction = None
    try:
        if argument == b"T":
            daemon.store.transaction_commit(conn, transaction, daemon.watches.fire)
    finally:
        daemon.store.transaction_forget(conn, transaction)
    return ACK


def do_introduce(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """domid|gfn|event channel|; the gfn is ignored, the page is the granted one."""
    strings = get_strings(payload)
    if len(strings) < 3 or not atoi(strings[2]):
        raise XsError("EINVAL")
    daemon.introduce(atoi(strings[0]))
    return ACK


def _onearg_domid(daemon: Daemon, payload: bytes) -> int:
    domid = atoi(onearg(payload))
    if not domid:
        raise XsError("EINVAL")
    daemon.domains.connected(domid)
    return domid


def do_release(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """domid|."""
    daemon.release(_onearg_domid(daemon, payload))
    return ACK


def do_resume(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """domid|: its next shutdown is news again."""
    daemon.domains.connected(_onearg_domid(daemon, payload)).shutdown = False
    return ACK


def do_set_target(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """domid|target|: the domain gets the permissions of the other one."""
    strings = get_strings(payload)
    if len(strings) < 2:
        raise XsError("EINVAL")
    domain, target = (daemon.connection_of(atoi(string)) for string in strings[:2])
    domain.target = target
    return ACK


def do_get_domain_path(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """domid| -> path|, whether the domain exists or not."""
    return domain_path(atoi(onearg(payload))) + b"\0"


def do_is_domain_introduced(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """domid| -> T| or F|."""
    domid = atoi(onearg(payload))
    domain = daemon.domains.by_domid.get(domid)
    return b"T\0" if domid == _DOMID_SELF or (domain is not None and domain.introduced) else b"F\0"


class WireFunc(NamedTuple):
    """A row of the table: ``is_priv`` is for dom0 only, ``is_notid`` ignores the header's transaction id."""

    handler: Handler
    is_priv: bool = False
    is_notid: bool = False


#: Every type xenstored answers; any other (XS_WATCH_EVENT and XS_ERROR among them) is ENOSYS.
WIRE_FUNCS: dict[int, WireFunc] = {
    xs_wire.XS_CONTROL: WireFunc(do_control, is_priv=True),
    xs_wire.XS_DIRECTORY: WireFunc(send_directory),
    xs_wire.XS_READ: WireFunc(do_read),
    xs_wire.XS_GET_PERMS: WireFunc(do_get_perms),
    xs_wire.XS_WATCH: WireFunc(do_watch, is_notid=True),
    xs_wire.XS_UNWATCH: WireFunc(do_unwatch, is_notid=True),
    xs_wire.XS_TRANSACTION_START: WireFunc(do_transaction_start),
    xs_wire.XS_TRANSACTION_END: WireFunc(do_transaction_end),
    xs_wire.XS_INTRODUCE: WireFunc(do_introduce, is_priv=True),
    xs_wire.XS_RELEASE: WireFunc(do_release, is_priv=True),
    xs_wire.XS_GET_DOMAIN_PATH: WireFunc(do_get_domain_path),
    xs_wire.XS_WRITE: WireFunc(do_write),
    xs_wire.XS_MKDIR: WireFunc(do_mkdir),
    xs_wire.XS_RM: WireFunc(do_rm),
    xs_wire.XS_SET_PERMS: WireFunc(do_set_perms),
    xs_wire.XS_IS_DOMAIN_INTRODUCED: WireFunc(do_is_domain_introduced, is_priv=True),
    xs_wire.XS_RESUME: WireFunc(do_resume, is_priv=True),
    xs_wire.XS_SET_TARGET: WireFunc(do_set_target, is_priv=True),
    xs_wire.XS_RESET_WATCHES: WireFunc(do_reset_watches),
    xs_wire.XS_DIRECTORY_PART: WireFunc(send_directory_part),
}
