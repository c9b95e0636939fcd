"""The PV console's ring: two byte streams in one page (public/io/console.h)."""

from __future__ import annotations

from typing import Annotated

from hypercalls.declare import Bytes, cstruct, u32


@cstruct
class xencons_interface:
    """``in_`` is input to the guest. Indices run freely: mask them with the array's length."""

    in_: Annotated[bytes, Bytes(1024)] = b""
    out: Annotated[bytes, Bytes(2048)] = b""
    in_cons: u32 = 0
    in_prod: u32 = 0
    out_cons: u32 = 0
    out_prod: u32 = 0
