"""Networks for containers, made by real CNI plugins from a configuration list.

What libcni does for Go. The plugins do all of the networking; they need root, and to be on the daemon's host.
"""

from containerd_aio.cni.network import Network
from containerd_aio.cni.plugin import CNIError
from containerd_aio.cni.result import PortMapping, Result

__all__ = ["CNIError", "Network", "PortMapping", "Result"]
