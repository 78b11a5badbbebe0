"""The project's own tests run on the CPU with Triton's interpreter, whatever machine they are on."""
import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # as many tests run at a time as there are cores; more threads wait for each other
os.environ.pop("MODEL", None)
os.environ.pop("LABS", None)

import secrets  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture
def random_seed() -> int:
    """A fresh seed per test; a failing test shows it."""
    return secrets.randbits(32)
