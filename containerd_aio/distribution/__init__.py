"""Images in and out: archives, references, platforms, unpacking."""
