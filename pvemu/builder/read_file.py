"""Reading the files a user names as kernel and ramdisk."""

from __future__ import annotations

from pathlib import Path

from pvemu.errors import KernelError

__all__ = ["read_file"]


def read_file(path: str, what: str) -> bytes:
    """The bytes of a kernel or ramdisk; KernelError for whatever is not a readable file."""
    try:
        return Path(path).read_bytes()
    except IsADirectoryError:
        raise KernelError(f"{path}: is a directory; give the {what} file in it") from None
    except FileNotFoundError:
        raise KernelError(f"{path}: no such file; check the path of the {what}") from None
    except OSError as error:
        raise KernelError(f"{path}: cannot read the {what}: {error.strerror}") from None
