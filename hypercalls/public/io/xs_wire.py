"""The xenstore wire format and the page that carries it (public/io/xs_wire.h)."""

from __future__ import annotations

from typing import Annotated

from hypercalls.declare import Bytes, cstruct, u32

XS_CONTROL = 0
XS_DIRECTORY = 1
XS_READ = 2
XS_GET_PERMS = 3
XS_WATCH = 4
XS_UNWATCH = 5
XS_TRANSACTION_START = 6
XS_TRANSACTION_END = 7
XS_INTRODUCE = 8
XS_RELEASE = 9
XS_GET_DOMAIN_PATH = 10
XS_WRITE = 11
XS_MKDIR = 12
XS_RM = 13
XS_SET_PERMS = 14
XS_WATCH_EVENT = 15
XS_ERROR = 16
XS_IS_DOMAIN_INTRODUCED = 17
XS_RESUME = 18
XS_SET_TARGET = 19
XS_RESET_WATCHES = 21
XS_DIRECTORY_PART = 22
XS_TYPE_COUNT = 23
XS_INVALID = 0xFFFF

#: message type -> name
XS_NAMES = {
    XS_CONTROL: "XS_CONTROL",
    XS_DIRECTORY: "XS_DIRECTORY",
    XS_READ: "XS_READ",
    XS_GET_PERMS: "XS_GET_PERMS",
    XS_WATCH: "XS_WATCH",
    XS_UNWATCH: "XS_UNWATCH",
    XS_TRANSACTION_START: "XS_TRANSACTION_START",
    XS_TRANSACTION_END: "XS_TRANSACTION_END",
    XS_INTRODUCE: "XS_INTRODUCE",
    XS_RELEASE: "XS_RELEASE",
    XS_GET_DOMAIN_PATH: "XS_GET_DOMAIN_PATH",
    XS_WRITE: "XS_WRITE",
    XS_MKDIR: "XS_MKDIR",
    XS_RM: "XS_RM",
    XS_SET_PERMS: "XS_SET_PERMS",
    XS_WATCH_EVENT: "XS_WATCH_EVENT",
    XS_ERROR: "XS_ERROR",
    XS_IS_DOMAIN_INTRODUCED: "XS_IS_DOMAIN_INTRODUCED",
    XS_RESUME: "XS_RESUME",
    XS_SET_TARGET: "XS_SET_TARGET",
    XS_RESET_WATCHES: "XS_RESET_WATCHES",
    XS_DIRECTORY_PART: "XS_DIRECTORY_PART",
}

XS_WRITE_NONE = "NONE"
XS_WRITE_CREATE = "CREATE"
XS_WRITE_CREATE_EXCL = "CREATE|EXCL"

#: error names a reply may carry, in the header's order (anything else becomes the first)
XSD_ERRORS = (
    "EINVAL",
    "EACCES",
    "EEXIST",
    "EISDIR",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "EIO",
    "ENOTEMPTY",
    "ENOSYS",
    "EROFS",
    "EBUSY",
    "EAGAIN",
    "EISCONN",
    "E2BIG",
    "EPERM",
)


@cstruct
class xsd_sockmsg:
    """Header of a message; ``len`` bytes follow."""

    type: u32 = 0
    req_id: u32 = 0
    tx_id: u32 = 0
    len: u32 = 0


XS_WATCH_PATH = 0
XS_WATCH_TOKEN = 1

XENSTORE_RING_SIZE = 1024


def MASK_XENSTORE_IDX(idx: int) -> int:
    """Where in a ring a free-running index points."""
    return idx & (XENSTORE_RING_SIZE - 1)


@cstruct
class xenstore_domain_interface:
    req: Annotated[bytes, Bytes(XENSTORE_RING_SIZE)] = b""
    rsp: Annotated[bytes, Bytes(XENSTORE_RING_SIZE)] = b""
    req_cons: u32 = 0
    req_prod: u32 = 0
    rsp_cons: u32 = 0
    rsp_prod: u32 = 0
    server_features: u32 = 0
    connection: u32 = 0
    error: u32 = 0


XENSTORE_PAYLOAD_MAX = 4096
XENSTORE_ABS_PATH_MAX = 3072
XENSTORE_REL_PATH_MAX = 2048
XENSTORE_SERVER_FEATURE_RECONNECTION = 1
XENSTORE_SERVER_FEATURE_ERROR = 2
XENSTORE_CONNECTED = 0
XENSTORE_RECONNECT = 1
XENSTORE_ERROR_NONE = 0
XENSTORE_ERROR_COMM = 1
XENSTORE_ERROR_RINGIDX = 2
XENSTORE_ERROR_PROTO = 3
