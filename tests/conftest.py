"""The project's own tests run on the CPU with Triton's interpreter, on any machine, and the same way every time."""
import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # as many tests run at a time as there are cores; more threads wait for each other
os.environ.pop("MODEL", None)
os.environ.pop("LABS", None)

import re  # noqa: E402
import zlib  # noqa: E402
from collections import Counter  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile("always alike", derandomize=True)
hypothesis.settings.load_profile("always alike")


@pytest.fixture(autouse=True)
def no_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes in a test is not taken for the learner's."""
    monkeypatch.setattr("common.parts.PASSED", tmp_path_factory.mktemp("grade") / "passed.json")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of the test's own, the same in every run."""
    return zlib.crc32(request.node.nodeid.encode())


def pytest_terminal_summary(terminalreporter) -> None:
    """Seconds of work per lesson, over all cores: `make test` has to stay short with twenty-two of them."""
    seconds = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        lesson = re.search(r"[\[-](\d\d)[._]\w", getattr(report, "nodeid", ""))
        seconds[f"lesson {lesson[1]}" if lesson else "the rest"] += getattr(report, "duration", 0)
    terminalreporter.section("seconds of work")
    for name, spent in sorted(seconds.items()):
        terminalreporter.write_line(f"{name:>10} {spent:7.0f}")
