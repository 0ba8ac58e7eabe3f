"""``containerd-aio demo``: containers with different fates on a private containerd, which is killed in the middle.

``command`` is the command, ``requirements`` what it needs, ``story`` the order of events, ``fates`` what becomes of each
container, ``truth`` what really happened as told by others than the library, ``display`` what is printed.
"""
