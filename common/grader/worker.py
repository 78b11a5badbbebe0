"""Run a learner's code in a process of its own, under limits, and take only plain bytes from it.

The grader's process draws the inputs, judges the outputs and owns the clock; it never imports a lab. A worker drives
one exercise. Workers for the CPU are forked from multiprocessing's fork server, a clean process that has imported
torch, triton and the checks but no lab, so that one costs a fraction of a second; workers for a GPU are started afresh,
since CUDA does not survive a fork.
"""
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from common import labs_folder
from common.checking.exercise import Check, Exercise, Lesson
from common.checking.run import LabError, perform
from common.checking.wire import MAX_BYTES, pack, unpack
from common.lessons import find_lesson, lessons

lessons()  # imported once, by the fork server, and not again by every worker

STARTUP_SECONDS = 120
MEMORY = 6 * 1024**3  # bytes of address space beyond what the imports already take (CPU only; CUDA maps far more)
PROCESSES = 256
FILE_BYTES = 256 * 1024**2
OUTPUTS, ERROR = b"=", b"!"  # the first byte of a reply


class Worker:
    """One exercise's process. `drive` it once per check, then `close` it; after a crash every `drive` says so."""

    def __init__(self, lesson: Lesson, exercise: Exercise, device: str):
        self.death = ""  # why the process is no more
        with tempfile.NamedTemporaryFile(prefix="lab-output-", delete=False) as log:
            self.log = Path(log.name)
        self.connection, self.process = start_process(device, lesson.number, exercise.id, str(self.log))
        self.receive(STARTUP_SECONDS)

    def drive(self, exercise: Exercise, check: Check, request: bytes) -> bytes:
        """The worker's side of one check (a `Driver`, see run.py). LabError says what the learner's code did wrong."""
        if not self.death:
            self.connection.send_bytes(check.name.encode())
            self.connection.send_bytes(request)
        reply = b"" if self.death else self.receive(check.seconds)
        if self.death:
            raise LabError(self.death)
        if reply[:1] == OUTPUTS:
            return reply[1:]
        error = unpack(reply[1:])
        raise LabError(error["message"], stub=error["stub"])

    def receive(self, seconds: float) -> bytes:
        """The worker's next message. If none comes, the worker is ended, and `death` says why."""
        try:
            if self.connection.poll(seconds):
                return self.connection.recv_bytes(MAX_BYTES)
            self.death = f"No answer within {seconds:g} s: is there an endless loop? The process was ended."
        except (EOFError, ConnectionError):
            self.process.join(5)
            self.death = describe_exit(self.process.exitcode)
        except OSError:
            self.death = f"The answer was larger than {MAX_BYTES >> 20} MiB."
        self.kill()
        return b""

    def printed(self, characters: int = 600) -> str:
        """The end of what the learner's code printed."""
        return self.log.read_bytes()[-characters:].decode(errors="replace").strip()

    def kill(self) -> None:
        """End the process and, with its process group, every process that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()
        self.process.join()

    def close(self) -> None:
        self.kill()
        self.connection.close()
        self.log.unlink()


def describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"The process died of {signal.Signals(-code).name} in the middle of this exercise."
    return f"The process ended itself (exit code {code}): remove the call that exits."


def start_process(device: str, *worker: str) -> tuple[Connection, multiprocessing.Process]:
    """Start `serve` for a worker. This and `confine` are the seam for a real sandbox (bwrap, Landlock)."""
    os.environ["TRITON_INTERPRET"] = "1" if device == "cpu" else "0"  # read when the new process imports triton
    context = multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")
    if device == "cpu":
        context.set_forkserver_preload(["torch", "triton", "common.grader.worker"])
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, device, str(labs_folder()), *worker), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def confine(device: str) -> None:
    """Limits that hold for the rest of this process and for its children."""
    os.setsid()  # a process group of its own, which the grader can end whole
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
    if device == "cpu" and sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(connection: Connection, device: str, labs: str, lesson_number: str, exercise_id: str, log: str) -> None:
    """The worker: for each check named by the grader, drive the lab and send back its outputs."""
    with open(log, "ab", buffering=0) as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    os.environ["LABS"] = labs
    torch.set_num_threads(1)  # two threads on busy cores wait for each other: seen 30 times slower than one
    lesson = find_lesson(lesson_number)
    exercise = next(exercise for exercise in lesson.exercises if exercise.id == exercise_id)
    checks = {check.name: check for check in exercise.checks}
    confine(device)
    connection.send_bytes(b"ready")
    while True:
        try:
            check = checks[connection.recv_bytes().decode()]
            request = connection.recv_bytes()
        except EOFError:
            return
        try:
            reply = OUTPUTS + perform(lesson.name, exercise, check, request)
        except LabError as error:
            reply = ERROR + pack({"message": str(error), "stub": error.stub})
        sys.stdout.flush()
        connection.send_bytes(reply)
