"""Makes the virtual environment that the Makefile's targets run in: `python3 -I common/setup_venv.py FOLDER PIP_ARGS…`

It runs before anything is installed and on whatever Python is there: standard library only, in a syntax that Python 3.6
reads, so that a Python too old for the course can say so in a sentence. It ends by writing `FOLDER/.ready`, whose age
make compares with that of constraints.txt and pyproject.toml.

A folder that it made itself and did not finish is made anew by the next run (`FOLDER.unfinished` marks it). An
environment that was there before is never removed: packages are only added to it.
"""
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile

OLDEST = (3, 11)
NEEDED = 2.5e9  # bytes of a CPU set-up, measured on Linux; torch's CUDA build takes several times as much
DISK_FULL = r"No space left on device|Disk quota exceeded"
# pip finds no version at all when it reaches no index, and when no wheel suits a Python that is too new.
NOTHING_FETCHED = r"from versions: none|timed out|Connection (refused|reset|broken|aborted)|Network is unreachable"


def main(folder, pip_arguments):
    """Leaves a finished environment at `folder`, or exits with one sentence that says why not and what to do."""
    check_python(sys.version_info[:2], importlib.util.find_spec("ensurepip") is not None)
    with open("constraints.txt") as lock:
        wait_for_other_makes(lock)
        if not is_ready(folder):
            make_and_fill(folder, pip_arguments)


def check_python(version, has_ensurepip):
    """Exits if Python `version` (major, minor) is too old, or cannot make an environment with pip in it."""
    number = "{}.{}".format(*version)
    if version < OLDEST:
        sys.exit(f"{sys.executable} is Python {number}, and the course needs 3.11 or newer: install one, then name it, "
                 "as in `make PYTHON3=python3.12 grade`.")
    if not has_ensurepip:
        sys.exit(f"Python {number} cannot make virtual environments, since its venv package is missing: install it (on "
                 f"Debian and Ubuntu `sudo apt install python{number}-venv`) and run make again.")


def wait_for_other_makes(lock):
    """Two makes in two terminals must not fill one folder: the second waits here until the first is done."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another make is setting up here: waiting for it.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def is_ready(folder):
    """Whether `folder` was finished after the last change of what it is made from."""
    ready = os.path.join(folder, ".ready")
    newest = max(os.path.getmtime(name) for name in ("constraints.txt", "pyproject.toml"))
    return os.path.exists(ready) and os.path.getmtime(ready) >= newest


def make_and_fill(folder, pip_arguments):
    """Makes `folder` if it is missing or was left unfinished, and installs into it."""
    unfinished = folder.rstrip("/") + ".unfinished"
    if os.path.exists(unfinished) and os.path.isdir(folder):
        print(f"An earlier set-up of {folder} was cut short: starting it over.", flush=True)
        shutil.rmtree(folder)
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(folder):
        if free_bytes(os.path.dirname(os.path.abspath(folder))) < NEEDED:
            sys.exit(disk_is_full(folder))
        print(f"Setting up {folder}, once; README.md says how much it fetches and keeps.")
        print("1/2 An empty environment", flush=True)
        open(unfinished, "w").close()
        run([sys.executable, "-m", "venv", folder], folder)
    if not os.path.exists(python):
        sys.exit(f"{folder} is there but holds no Python environment: move it away, or name another folder, as in "
                 "`make VENV=/tmp/lab grade`.")
    print("2/2 The packages: pip install " + " ".join(pip_arguments), flush=True)
    run([python, "-m", "pip", "--disable-pip-version-check", "install"] + pip_arguments, folder)
    open(os.path.join(folder, ".ready"), "w").close()
    if os.path.exists(unfinished):
        os.remove(unfinished)


def run(command, folder):
    """Runs `command` and exits with a sentence if it fails. Only its stderr is read, so that pip's bars stay alive."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, universal_newlines=True)
    errors = []
    for line in process.stderr:
        sys.stderr.write(line)
        errors.append(line)
    if process.wait():
        sys.exit(explain("".join(errors), folder))


def free_bytes(folder):
    """Free space on the disk that holds `folder`, which exists."""
    return shutil.disk_usage(folder).free


def disk_is_full(folder):
    beside, temporary = os.path.dirname(os.path.abspath(folder)), tempfile.gettempdir()
    return (f"The disk is too full ({free_bytes(beside) / 1e9:.1f} GB free in {beside}, "
            f"{free_bytes(temporary) / 1e9:.1f} GB in {temporary}): the set-up needs {NEEDED / 1e9} GB, and several GB "
            "more with torch's CUDA build; free some space and run make again.")


def explain(errors, folder):
    """The sentence for a set-up that failed with this output: the likely cause and the next step."""
    if re.search(DISK_FULL, errors):
        return disk_is_full(folder)
    if re.search(NOTHING_FETCHED, errors):
        return ("pip could not fetch the packages: check the network, the proxy and PIP_INDEX_URL (or whether Python "
                "{}.{} is too new for torch), and run make again.".format(*sys.version_info))
    last = ([""] + errors.strip().splitlines())[-1]
    return f"The set-up of {folder} failed ({last}): mend that and run make again."


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except KeyboardInterrupt:
        sys.exit("\nThe set-up was interrupted: run make again, and it starts over with what pip has fetched.")
    except OSError as error:  # mostly a full disk, or a folder that may not be written to
        sys.exit(explain(str(error), sys.argv[1]))
