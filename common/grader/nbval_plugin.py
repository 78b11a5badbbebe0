"""A pytest plugin beside nbval: notice a dead kernel at once, and write one JSON entry per cell to $GATE_REPORT."""
import json
import os
import re
import time
from pathlib import Path
from queue import Empty

import pytest
from nbval.kernel import RunningKernel

get_message = RunningKernel.get_message
cells: list[dict] = []


def get_message_or_notice_death(self: RunningKernel, stream: str, timeout: float | None = None) -> dict:
    """nbval waits out the whole cell limit when the kernel has died; ask once a second whether it still lives."""
    deadline = time.monotonic() + (timeout or 0)
    while True:
        try:
            return get_message(self, stream, timeout=1)
        except Empty:
            if not self.is_alive():
                raise RuntimeError("the kernel died") from None
            if timeout is not None and time.monotonic() > deadline:
                raise


RunningKernel.get_message = get_message_or_notice_death


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" and not report.failed:
        return
    # After a time-out nbval expects the remaining cells to fail; those that then pass did not run as they should.
    passed = report.passed and not hasattr(report, "wasxfail")
    message = "" if passed else shorten(str(getattr(call.excinfo, "value", "") or report.longrepr or "not run"))
    first_line = item.cell.source.strip().split("\n")[0][:60]
    cells.append({"cell": f"[{len(cells) + 1}] {first_line}", "passed": passed, "message": message})


def shorten(message: str) -> str:
    """The first lines of nbval's story without its terminal colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
    return " ".join(plain.split())[:300]


def pytest_sessionfinish(session: pytest.Session) -> None:
    Path(os.environ["GATE_REPORT"]).write_text(json.dumps(cells))
