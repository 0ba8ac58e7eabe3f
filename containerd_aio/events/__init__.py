"""The event core: what containerd tells, never missed and never doubted.

``model`` and ``event`` are what an event is, ``decode`` makes them from bytes, ``filters`` selects them.
"""
