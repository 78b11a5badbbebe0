"""Notebooks from their sources: each `notebooks/source/NN_topic.py`, run with the reference, its outputs kept.

What a fresh run may change is left out (random ids, timestamps, versions) or refused (addresses, paths, warnings), so
the same sources give the same notebooks on every machine. Cells tagged `live` measure this one: they are not compared.
"""
import os
import re
import tempfile
from pathlib import Path

import jupytext
import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from common import ROOT
from common.authoring import AuthoringError
from common.files import write_atomically
from common.lessons import SOURCES, choose, lesson_names

NOTEBOOKS = ROOT / "notebooks"
CELL_SECONDS = 600  # far above what a lesson may take: ends a cell that would never end

LIVE = "live"
NBVAL_LIVE = "nbval-ignore-output"  # nbval's word for it
ESCAPES_NBVAL = re.compile(r"nbval-|raises-exception|NBVAL_|PYTEST_VALIDATE_")

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PICTURES = ("image/png", "image/jpeg")  # drawn a little differently by every version of matplotlib
NOT_REPEATABLE = {
    "an address": re.compile(r"0x[0-9a-f]{6,}"),
    "an absolute path": re.compile(r"(?<![\w./:<])/(home|root|tmp|work|usr|var|opt|mnt|Users)\b"),
    "a raw float": re.compile(r"\d\.\d{7,}"),
}


def write_notebooks(lab: str = "", sources: Path = SOURCES, notebooks: Path = NOTEBOOKS) -> list[str]:
    """Make every notebook, or that of lesson `lab`. Returns a message for each.

    A notebook that differs from its present file in pictures or live outputs alone keeps that file's bytes.
    """
    messages = []
    for number, name in [choose(lab, sources)] if lab else lesson_names(sources).items():
        path = notebooks / f"{number}_{name}.ipynb"
        text = nbformat.writes(execute(sources / f"{path.stem}.py")) + "\n"
        if up_to_date(path, text):
            messages.append(f"{notebooks.name}/{path.name} is up to date (to redraw its pictures, delete it first).")
        else:
            write_atomically(path, text.encode())
            messages.append(f"{notebooks.name}/{path.name} written.")
    return messages


def up_to_date(path: Path, text: str) -> bool:
    try:
        present = nbformat.read(path, 4)
    except (FileNotFoundError, ValueError):  # missing, or damaged
        return False
    return compared(present) == compared(nbformat.reads(text, 4))


def compared(notebook: NotebookNode) -> NotebookNode:
    """A copy without what may differ between two runs: pictures, and the outputs of live cells."""
    copy = nbformat.from_dict(notebook)
    for cell in code_cells(copy):
        if LIVE in cell.metadata.get("tags", []):
            cell.outputs = []
        for output in cell.outputs:
            for kind in PICTURES:
                if kind in output.get("data", {}):
                    output.data[kind] = ""
    return copy


def execute(source: Path) -> NotebookNode:
    """Run one source from top to bottom with the reference solutions, and keep what nbval can compare.

    Raises AuthoringError, naming the cell, for one that fails, never ends, or gives what no other run would.
    """
    notebook = read_source(source)
    running = 0

    def started(cell_index: int, **_) -> None:
        nonlocal running
        running = cell_index

    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(code_cells(notebook)), desc=source.stem, unit="cell") as progress,
    ):
        client = NotebookClient(
            notebook,
            km=AsyncKernelManager(kernel_spec_manager=ThisInterpreter(), transport="ipc", ip=f"{folder}/.kernel"),
            timeout=CELL_SECONDS,
            force_raise_errors=True,
            record_timing=False,
            on_cell_start=started,
            on_cell_executed=lambda **_: progress.update(),
        )
        problem = None
        try:
            client.execute(cwd=folder, env=reference_environment(folder), cleanup_kc=True)
        except CellExecutionError as error:
            problem = f"raises {error.ename}: {error.evalue}"
        except CellTimeoutError:
            problem = f"ran for more than {CELL_SECONDS} s: shorten it."
        except DeadKernelError:
            problem = "killed its kernel: look for a crash or too much memory."
    if problem:
        raise AuthoringError(f"{describe(source, notebook.cells[running])} {problem}")

    notebook.metadata = nbformat.from_dict(METADATA)  # now, since running it noted the version of Python
    for count, cell in enumerate(code_cells(notebook), start=1):
        settle(cell, count, source)
    return notebook


class ThisInterpreter(KernelSpecManager):
    """Starts kernels of the Python that runs this, whatever a `python3` kernelspec of the user's may name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


def reference_environment(folder: str) -> dict[str, str]:
    """This process's environment, turned to the worked solutions on a CPU and shielded from the user's settings."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("MODEL", "SEED", "MPLBACKEND")}
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ours = {"LABS": "solutions", "TRITON_INTERPRET": "1", "PYTHONPATH": python_path, "IPYTHONDIR": f"{folder}/.ipython",
            "OMP_NUM_THREADS": "1"}  # sums are made in the same order on every machine, and at once on a busy one
    return inherited | ours


def read_source(source: Path) -> NotebookNode:
    """The notebook before it has run: of a cell's metadata only its tags are kept, and its id is its position."""
    notebook = jupytext.read(source, fmt="py:percent")
    for position, cell in enumerate(notebook.cells):
        cell.id = f"cell-{position:02d}"
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            if not cell.source.strip():
                raise AuthoringError(f"{describe(source, cell)} is empty: remove it.")
            if ESCAPES_NBVAL.search(" ".join([*tags, cell.source])):
                raise AuthoringError(f"{describe(source, cell)} would escape nbval: only the tag `{LIVE}` may do that.")
        cell.metadata = {"tags": tags + [NBVAL_LIVE] * (LIVE in tags)} if tags else {}
    return notebook


def settle(cell: NotebookNode, count: int, source: Path) -> None:
    """Make the outputs of a cell that has run repeatable, or say why they cannot be."""
    live = LIVE in cell.metadata.get("tags", [])
    kept = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            if not live:
                raise AuthoringError(
                    f"{describe(source, cell)} writes to stderr: {first_line(output.text)!r}. "
                    f"Silence the cause, or tag the cell `{LIVE}`."
                )
        elif output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text  # how many pieces one print arrives in is chance
        else:
            kept.append(output)
        if "execution_count" in output:
            output.execution_count = count
    cell.outputs, cell.execution_count = kept, count
    if live:
        return
    for text in texts(cell):
        for what, pattern in NOT_REPEATABLE.items():
            if match := pattern.search(text):
                raise AuthoringError(
                    f"{describe(source, cell)} prints {what}, which another run or machine would not repeat: "
                    f"{first_line(text[max(0, match.start() - 20) :])!r}. Print what stays the same."
                )


def texts(cell: NotebookNode) -> list[str]:
    """All that a code cell shows, pictures aside."""
    shown = []
    for output in cell.outputs:
        if output.output_type == "stream":
            shown.append(output.text)
        else:
            shown += [str(content) for kind, content in output.data.items() if kind not in PICTURES]
    return shown


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def describe(source: Path, cell: NotebookNode) -> str:
    return f"{source.name}, {cell.id} ({first_line(cell.source)!r})"


def first_line(text: str) -> str:
    return text.strip().split("\n")[0][:80]
