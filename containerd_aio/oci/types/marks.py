"""How Go writes a field: the marks by which `containerd_aio.oci.encoding` reads the types of this package.

Go's ``json.Marshal`` drops a field tagged ``omitempty`` when it is zero (``""``, ``0``, ``false``, no elements), and so
do we for a field without a mark. Two kinds of field differ, and which is which is part of the OCI Go types:

* a pointer: an explicit zero is kept (a memory limit of 0, ``oomScoreAdj`` 0);
* a field without ``omitempty``: always written, with its zero when it is absent. These are ``Required`` below where
  the runtime specification requires them as well, `Always` otherwise.
"""

from typing import Annotated, Final, TypeVar

T = TypeVar("T")

POINTER: Final = "pointer"
ALWAYS: Final = "always"

#: A pointer in Go: kept when it is zero, dropped when it is absent.
Pointer = Annotated[T, POINTER]
#: Written even when it is absent.
Always = Annotated[T, ALWAYS]
