r"""The tree as text, the way ``xenstore-ls -f -p`` prints it: ``/vm = ""   (n0)``.

Mirrors ``do_ls`` of tools/xenstore/xenstore_client.c and ``sanitise_value`` of xs_lib.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.devices.xenstore.client import Nodes

__all__ = ["sanitise_value", "xenstore_ls"]

_ESCAPES = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r", 0x5C: "\\\\"}


def sanitise_value(value: bytes) -> str:
    r"""A value on one line: ``\t \n \r \\``, octal below 8, ``\xNN`` for other unprintable bytes."""
    return "".join(
        _ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte <= 0x7E else f"\\{byte:03o}" if byte < 8 else f"\\x{byte:02x}")
        for byte in value
    )


def _lines(client: Nodes, path: str, *, perms: bool) -> Iterator[str]:
    prefix = "" if path == "/" else path
    stack = [f"{prefix}/{name}" for name in reversed(client.directory(path))]
    while stack:
        node = stack.pop()
        try:
            line = f'{node} = "{sanitise_value(client.read(node))}"'
            if perms:
                line += f"   ({','.join(client.get_perms(node))})"
            children = client.directory(node)
        except XsError:
            # A guest may list names of nodes it may not read.
            yield f"{node}:"
            continue
        yield line
        stack.extend(f"{node}/{name}" for name in reversed(children))


def xenstore_ls(client: Nodes, path: str = "/", *, perms: bool = True) -> str:
    """Every node below ``path``, a line each, parents first; ``perms`` adds the permissions (``-p``)."""
    return "".join(f"{line}\n" for line in _lines(client, path, perms=perms))
