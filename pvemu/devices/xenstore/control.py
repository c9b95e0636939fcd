"""XS_CONTROL: the commands of ``xenstore-control``.

Mirrors tools/xenstore/xenstored_control.c without live-update, logfile and memreport, which concern a process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.devices.xenstore.wire import ACK, XsError, atoi, get_strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.devices.xenstore.connection import Connection
    from pvemu.devices.xenstore.daemon import Daemon

__all__ = ["do_control"]

#: name, field of Quotas, description.
_HARD_QUOTAS = (
    ("nodes", "nb_entry_per_domain", "Nodes per domain"),
    ("watches", "nb_watch_per_domain", "Watches per domain"),
    ("transactions", "max_transaction", "Transactions per domain"),
    ("outstanding", "req_outstanding", "Outstanding requests per domain"),
    ("transaction-nodes", "trans_nodes", "Max. number of accessed nodes per transaction"),
    ("memory", "memory_per_domain_hard", "Total Xenstore memory per domain (error level)"),
    ("node-size", "max_entry_size", "Max. size of a node"),
    ("path-max", "max_path_len", "Max. length of a node path"),
    ("permissions", "nb_perms_per_node", "Max. number of permissions per node"),
)
_SOFT_QUOTAS = (("memory", "memory_per_domain_soft", "Total Xenstore memory per domain (warning level)"),)


def _ack_without_arguments(daemon: Daemon, arguments: list[bytes]) -> bytes:
    if arguments:
        raise XsError("EINVAL")
    return ACK


def _ack_log(daemon: Daemon, arguments: list[bytes]) -> bytes:
    if arguments not in ([b"on"], [b"off"]):
        raise XsError("EINVAL")
    return ACK


def _ack_print(daemon: Daemon, arguments: list[bytes]) -> bytes:
    if len(arguments) != 1:
        raise XsError("EINVAL")
    return ACK


def _show(daemon: Daemon, quotas: tuple[tuple[str, str, str], ...]) -> bytes:
    lines = [f"{name:<17}: {getattr(daemon.quotas, field):8} {text}\n" for name, field, text in quotas]
    return ("Quota settings:\n" + "".join(lines)).encode() + b"\0"


def _set(daemon: Daemon, arguments: list[bytes], quotas: tuple[tuple[str, str, str], ...]) -> bytes:
    if len(arguments) != 2:
        raise XsError("EINVAL")
    value = atoi(arguments[1])
    for name, field, _ in quotas:
        if arguments[0] == name.encode() and 1 <= value < 1 << 31:
            setattr(daemon.quotas, field, value)
            return ACK
    raise XsError("EINVAL")


def _quota(daemon: Daemon, arguments: list[bytes]) -> bytes:
    if not arguments:
        return _show(daemon, _HARD_QUOTAS)
    if arguments[0] == b"set":
        return _set(daemon, arguments[1:], _HARD_QUOTAS)
    if len(arguments) != 1:
        raise XsError("EINVAL")
    domain = daemon.domains.by_domid.get(atoi(arguments[0]))
    if domain is None:
        raise XsError("ENOENT")
    conn = daemon.introduced.get(domain.domid)
    used = {
        "nodes": domain.nbentry,
        "watches": domain.nbwatch,
        "transactions": len(conn.transactions) if conn is not None else 0,
        "outstanding": domain.nboutstanding,
        "memory": domain.memory,
    }
    lines = [f"{name:<16}: {number:8}\n" for name, number in used.items()]
    return f"Domain {domain.domid}:\n{''.join(lines)}".encode() + b"\0"


def _quota_soft(daemon: Daemon, arguments: list[bytes]) -> bytes:
    if not arguments:
        return _show(daemon, _SOFT_QUOTAS)
    if arguments[0] == b"set":
        return _set(daemon, arguments[1:], _SOFT_QUOTAS)
    raise XsError("EINVAL")


def _help(daemon: Daemon, arguments: list[bytes]) -> bytes:
    if arguments:
        raise XsError("EINVAL")
    return "".join(f"{name.decode()}\t{parameters}\n" for name, (_, parameters) in _COMMANDS.items()).encode() + b"\0"


_COMMANDS: dict[bytes, tuple[Callable[[Daemon, list[bytes]], bytes], str]] = {
    b"check": (_ack_without_arguments, ""),
    b"log": (_ack_log, "on|off"),
    b"print": (_ack_print, "<string>"),
    b"quota": (_quota, "[set <name> <val>|<domid>]"),
    b"quota-soft": (_quota_soft, "[set <name> <val>]"),
    b"help": (_help, ""),
}


def do_control(daemon: Daemon, conn: Connection, payload: bytes) -> bytes:
    """command|parameter|* -> text|. EINVAL for a command or parameter it does not have."""
    strings = get_strings(payload)
    if not strings or strings[0] not in _COMMANDS:
        raise XsError("EINVAL")
    command, _ = _COMMANDS[strings[0]]
    return command(daemon, strings[1:])
