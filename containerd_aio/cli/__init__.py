"""The command ``containerd-aio``: ``main`` is the entry point, and each command has a module of its own.

Nothing here is imported by the library, and every command imports what it needs when it runs.
"""
