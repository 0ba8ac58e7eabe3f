"""What `containerd_aio.daemon` is made of: configuration, logs, the process, and clearing up after it."""
