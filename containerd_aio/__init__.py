"""containerd-aio: the asyncio-native containerd client."""
