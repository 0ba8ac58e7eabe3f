"""How much at once."""

from __future__ import annotations

# containerd's own limit, both ways (Go: defaults.DefaultMaxRecvMsgSize)
MAX_MESSAGE = 16 << 20

# One unread stream must not use up the window of the connection: the calls beside it would hang.
STREAM_WINDOW = 4 << 20
CONNECTION_WINDOW = 64 << 20

# What h2 is told of, it looks at for each new stream; more than this at once only makes all of them slower.
CONCURRENT_CALLS = 64
