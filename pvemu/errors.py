"""The exception tree: whose fault it is decides the exit code."""

from __future__ import annotations

__all__ = ["ConfigError", "DiskError", "InputError", "KernelError", "PvemuError"]


class PvemuError(Exception):
    """Anything pvemu reports on purpose. Its text is one line: what, where, what to do."""


class InputError(PvemuError):
    """The user's input cannot be used (exit code 2)."""


class ConfigError(InputError):
    """An option or configuration value is out of range."""


class KernelError(InputError):
    """A kernel or ramdisk that the domain builder refuses."""


class DiskError(InputError):
    """A disk image that cannot be attached."""
