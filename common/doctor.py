"""What this machine can run of the course, what each part is for, and the fix for what is missing: `make doctor`.

Every row is found out by trying the thing, not by asking for its version alone. Nothing is installed or changed.
"""
import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common import ROOT, STORY_LLAMA, model_folder

# Packages that a machine may lack, and what it then goes without. All others of pyproject.toml are needed.
SPARABLE = {
    "jupyterlab": "make lab: notebooks in a browser",
    "nbval": "make grade: running the notebooks",
    "ipykernel": "notebooks, and checking their outputs",
    "nbformat": "make test: of the notebooks",
    "nbclient": "make notebooks: authors only",
    "jupytext": "make notebooks: authors only",
    "jsonschema": "make test: of the grader",
    "ruff": "make test: the style check",
}
LINUX_CONTAINER = 'docker run -it --rm -v "$PWD:/lab" -w /lab python:3.11 make VENV=.venv-linux grade'


@dataclass(frozen=True)
class Row:
    """One thing that the course can use. `found` is empty if it is missing, `fix` if there is nothing to mend."""

    name: str
    found: str
    purpose: str
    fix: str = ""
    required: bool = False


def summary() -> list[Row]:
    """Examine this machine: one row for each thing the course can use. Takes some seconds."""
    return [python_row(), torch_row(), triton_interpreter_row(), cuda_row(), nccl_row(), flash_attn_row(),
            flashinfer_row(), bubblewrap_row(), landlock_row(), model_row(), *sparable_rows(), packages_row()]


# --- Python and what computes ---

def python_row() -> Row:
    return Row("Python", platform.python_version(), "everything", required=True)


def torch_row() -> Row:
    found = installed("torch") if imports("torch") else ""
    return Row("PyTorch", found, "everything", "" if found else pip_install("torch"), required=True)


TRITON_TRIAL = """
import torch, triton, triton.language as tl

@triton.jit
def double(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, 2 * tl.load(x + i))

x, y = torch.arange(16.0), torch.zeros(16)
double[(1,)](x, y, N=16)
assert torch.equal(y, 2 * x), y
"""


def triton_interpreter_row() -> Row:
    """Runs a kernel of one tile, in a process of its own: Triton reads TRITON_INTERPRET once, on import."""
    name, purpose = "Triton on the CPU", "00.3, 05, 06 and later kernels"
    if platform.system() != "Linux":
        return Row(name, "", purpose, f"Triton has wheels for Linux alone; in a container: {LINUX_CONTAINER}")
    if not installed("triton"):
        return Row(name, "", purpose, pip_install("triton"), required=True)
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:  # Triton reads a kernel's source from its file
        file.write(TRITON_TRIAL)
        file.flush()
        failure = failure_of([sys.executable, file.name], TRITON_INTERPRET="1")
    if failure:
        return Row(name, "", purpose, f"a kernel failed ({failure}); {pip_install('--force-reinstall triton')}",
                   required=True)
    return Row(name, f"{installed('triton')}, ran a kernel", purpose, required=True)


def cuda_row() -> Row:
    name, purpose = "CUDA", "GPU timings, 8B models"
    if imports("torch"):
        import torch
        if torch.cuda.is_available():
            count = torch.cuda.device_count()
            major, minor = torch.cuda.get_device_capability()
            return Row(name, f"{count} x {torch.cuda.get_device_name()}, sm_{major}{minor}", purpose)
        if shutil.which("nvidia-smi"):
            built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
            return Row(name, "", purpose, f"this torch is built {built}: compare `nvidia-smi` and, if they disagree, "
                                          f"{pip_install('--force-reinstall torch')}")
    return Row(name, "", purpose)


def nccl_row() -> Row:
    found = ""
    if imports("torch"):
        import torch
        if torch.distributed.is_available() and torch.distributed.is_nccl_available():
            found = ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else "built in"
    return Row("NCCL", found, "tensor parallelism on several GPUs")


# --- Peers to compare with ---

def flash_attn_row() -> Row:
    found = installed("flash-attn") or ("FA3 interface" if importlib.util.find_spec("flash_attn_interface") else "")
    return peer_row("flash-attn", found, pip_install("--no-build-isolation flash-attn"))


def flashinfer_row() -> Row:
    return peer_row("flashinfer", installed("flashinfer-python"), pip_install("-e '.[gpu]'"))


def peer_row(name: str, found: str, fix: str) -> Row:
    """A library that benchmarks compare with, on a GPU only."""
    return Row(name, found, "a peer in GPU timings", fix if not found and shutil.which("nvidia-smi") else "")


# --- Isolation ---

def bubblewrap_row() -> Row:
    name, purpose = "bwrap", "sandboxing labs (not yet used)"
    if platform.system() != "Linux":
        return Row(name, "", purpose, f"Linux alone has it; in a container: {LINUX_CONTAINER}")
    if not shutil.which("bwrap"):
        return Row(name, "", purpose, "sudo apt install bubblewrap")
    failure = failure_of(["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"])
    if failure:
        return Row(name, "", purpose, f"{failure} (if Ubuntu or a container forbids it, Landlock is the way)")
    return Row(name, "makes a sandbox", purpose)


def landlock_row() -> Row:
    """Asks the kernel for its Landlock version: landlock_create_ruleset (444) with the flag VERSION (1)."""
    name, purpose = "Landlock", "the same, without bwrap"
    if platform.system() != "Linux":
        return Row(name, "", purpose, f"Linux alone has it; in a container: {LINUX_CONTAINER}")
    abi = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return Row(name, "", purpose, "a kernel from 5.13 on that lists it: cat /sys/kernel/security/lsm")
    return Row(name, f"ABI {abi}", purpose)


# --- The model and the packages ---

def model_row() -> Row:
    folder, name, purpose = model_folder(), "Model", "what the labs speak through"
    found = str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else str(folder)
    try:
        from common.model.checkpoint import CheckpointError, read_config, tensor_files
    except ImportError as error:
        return Row(name, "", purpose, f"{error.name or 'a package'} is missing: mend that first", required=True)
    try:
        read_config(folder)
    except CheckpointError as error:
        reason = str(error)
    else:
        lacking = [file.name for file in (*tensor_files(folder), folder / "tokenizer.json") if not file.exists()]
        if not lacking:
            return Row(name, found, purpose, required=True)
        reason = f"{found} lacks {' and '.join(lacking)}"
    fix = "git checkout -- data/story-llama" if folder == STORY_LLAMA else "unset MODEL"
    return Row(name, "", purpose, f"{reason.rstrip('.')}. To have the bundled one: {fix}", required=True)


def sparable_rows() -> list[Row]:
    return [Row(name, installed(name), purpose, "" if installed(name) else pip_install(name))
            for name, purpose in SPARABLE.items()]


def packages_row() -> Row:
    """The other dependencies of pyproject.toml, against the versions of constraints.txt."""
    missing, different, pins = [], [], pinned_versions()
    names = [name for name in dependencies() if name not in SPARABLE]
    for name in names:
        here = installed(name).partition("+")[0]  # 2.13.0+cpu is the pinned 2.13.0
        if not here:
            missing.append(name)
        elif here != pins[name]:
            different.append(f"{name} {here} (pinned {pins[name]})")
    purpose = "versions tried together"
    if missing:
        return Row("Packages", "", purpose, f"missing: {', '.join(missing)}; {pip_install('-e .')}", required=True)
    if different:
        return Row("Packages", f"all {len(names)}, {len(different)} of other versions", purpose,
                   f"only if something fails: {', '.join(different)}; {pip_install('-e .')}", required=True)
    return Row("Packages", f"all {len(names)} as pinned", purpose, required=True)


def dependencies() -> list[str]:
    """The names in pyproject.toml that this platform needs."""
    import tomllib

    from packaging.requirements import Requirement
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = (Requirement(line) for line in listed)
    return [one.name for one in needed if one.marker is None or one.marker.evaluate()]


def pinned_versions() -> dict[str, str]:
    """Name -> version, from constraints.txt."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (Requirement(line) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


# --- Helpers ---

def installed(package: str) -> str:
    """The installed version of `package`, or "" if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def imports(module: str) -> bool:
    """Whether `module` can be imported: installed is not always enough, as with a missing system library."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError):
        return False
    return True


def pip_install(what: str) -> str:
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(ROOT) else sys.executable
    return f"{python} -m pip install -c constraints.txt {what}"


def failure_of(command: list[str], **environment: str) -> str:
    """Run `command`: "" if it succeeded, else the last line it wrote."""
    try:
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "no answer in 60 s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


# --- The report ---

def show(rows: list[Row]) -> None:
    """Print the rows as a table, then each fix on a line of its own: a command in a narrow column cannot be copied."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    console = Console()
    table = Table("", "here", "what for", box=box.SIMPLE_HEAD, title="What this machine can run", title_justify="left")
    table.columns[1].overflow = "fold"  # a long path goes on in the next line
    for row in rows:
        table.add_row(row.name, row.found or ("[bold red]MISSING" if row.required else "[yellow]no"), row.purpose)
    console.print(table)
    for row in rows:
        if row.fix:
            console.print(f"[bold]{row.name}[/]: {escape(row.fix)}", soft_wrap=True)
    missing = [row.name for row in rows if row.required and not row.found]
    if missing:
        console.print(f"\nThe course cannot do without: {', '.join(missing)}. The fixes stand above.")
    else:
        console.print("\nAll that the course needs is here: the CPU decides every mark, a GPU adds timings. "
                      "Next: make grade")


def main() -> int:
    """Print the report; 1 if something that the course cannot do without is missing."""
    if sys.version_info < (3, 11):  # noqa: UP036  with VENV= an older one comes this far
        print(f"The course needs Python 3.11 or newer, and this is {platform.python_version()}: install one, then name "
              "it, as in `make PYTHON3=python3.12 doctor`.")
        return 1
    if not (imports("rich") and imports("packaging")):
        print(f"The course's packages are not installed in this Python: {pip_install('-e .')}")
        return 1
    rows = summary()
    show(rows)
    return 1 if any(row.required and not row.found for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
