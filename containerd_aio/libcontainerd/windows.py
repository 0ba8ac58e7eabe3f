"""The Windows errors that libcontainerd knew, as data: nothing here calls Windows."""

from __future__ import annotations

from enum import IntEnum


class Win32Error(IntEnum):
    """Win32 error codes that libcontainerd worked around; the first four are its public names.

    The previews of Windows Server 2016 failed to create a container with these now and then, and Docker tried up to
    `CREATE_ATTEMPTS` times. `ERROR_BAD_PATHNAME` was also taken for success when a container was shut down.
    """

    CO_E_CLASS_STRING = 0x800401F3
    """Invalid class string."""
    ERROR_NO_NETWORK = 1222
    """The network is not present or not started."""
    ERROR_BAD_PATHNAME = 161
    """The path is invalid."""
    ERROR_INVALID_OBJECT = 0x800710D8
    """The object identifier does not represent a valid object."""
    ERROR_FILE_NOT_FOUND = 2
    """The system cannot find the file."""
    ERROR_NOT_FOUND = 1168
    """Element not found."""


CO_E_CLASS_STRING = Win32Error.CO_E_CLASS_STRING
ERROR_NO_NETWORK = Win32Error.ERROR_NO_NETWORK
ERROR_BAD_PATHNAME = Win32Error.ERROR_BAD_PATHNAME
ERROR_INVALID_OBJECT = Win32Error.ERROR_INVALID_OBJECT

CREATE_ATTEMPTS = 5
"""How often Docker tried to create a Windows container that failed with a transient error."""
CREATE_RETRY_DELAY = 0.05
"""Seconds between these attempts."""


def is_transient_create_error(code: int | OSError) -> bool:
    """Return whether creating a Windows container is worth another attempt after this error.

    Args:
        code: A Win32 error code, unsigned or as a signed 32-bit HRESULT; or the `OSError` that carries one as
            ``winerror`` (on Windows) or ``errno``.
    """
    if isinstance(code, OSError):
        code = getattr(code, "winerror", None) or code.errno or 0
    return (code & 0xFFFFFFFF) in set(Win32Error)
