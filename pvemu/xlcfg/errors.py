"""What is wrong with a configuration file, in one line for people and in xl's own lines for what drives xl."""

from __future__ import annotations

from pvemu.errors import ConfigError

__all__ = ["XlConfigError"]

#: What xl exits with when it cannot use a file.
_EXIT_FAILURE = 1


class XlConfigError(ConfigError):
    """``message`` is one line (file:line, what, what to do); ``xl_lines`` are what xl 4.17 prints, ``xl_exit`` is its
    exit code.
    """

    def __init__(self, message: str, xl_lines: tuple[str, ...] = (), xl_exit: int = _EXIT_FAILURE) -> None:
        super().__init__(message)
        self.xl_lines = xl_lines or (message,)
        self.xl_exit = xl_exit
