"""Write a file whole or not at all."""
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path`, or create it with its folder; a full disk or Ctrl-C leaves what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
