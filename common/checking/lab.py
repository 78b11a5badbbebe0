"""Import a lab as its file now stands on disk, and say kindly what went wrong inside it."""
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from common import labs_folder
from common.checking.interpreter import repair_interpreter
from common.checking.refuse import Refused


def load_lab(name: str) -> ModuleType:
    """The module `labs.<name>`, compiled anew from the saved file: no kernel restart, no stale bytecode."""
    import labs  # sets TRITON_INTERPRET before the lab imports triton

    file = labs_folder() / f"{name}.py"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: `make stubs` writes it again.")
    module = load_file(file, f"labs.{name}")
    setattr(labs, name, module)
    return module


def load_file(file: Path, name: str) -> ModuleType:
    """The module `name`, made from the text of `file` as it is now."""
    linecache.checkcache(str(file))  # Triton reads a kernel's source through this cache
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), module.__dict__)
    repair_interpreter()
    return module


def raised_by(call: Callable[[], object]) -> tuple[str, str]:
    """The type and the message of the error that `call` ends in, ("nothing", "") if in none. A stub's goes through."""
    try:
        call()
    except NotImplementedError:
        raise
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def explain(error: BaseException) -> str:
    """One or two lines on an exception from a lab: what, and at which line of which lab file."""
    if type(error).__name__ == "InterpreterError" and error.__cause__:  # Triton's wrapping hides the kernel's own line
        error = error.__cause__
    kind = type(error).__name__
    if isinstance(error, NotImplementedError | Refused):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{kind}: {error.msg} ({place(error.filename, error.lineno, error.text)})"
    message = f"{kind}: {str(error).strip() or 'no message'}"
    frames = traceback.extract_tb(error.__traceback__)
    in_lab = [frame for frame in frames if Path(frame.filename).parent == labs_folder()]
    if not in_lab:
        return message
    return f"{message} ({place(in_lab[-1].filename, in_lab[-1].lineno, in_lab[-1].line)})"


def place(filename: str | None, line_number: int | None, line: str | None) -> str:
    return f"labs/{Path(filename or '?').name}, line {line_number}: {(line or '').strip()}"


@contextmanager
def attempt(*exercise_ids: str) -> Iterator[None]:
    """Around a cell that uses the learner's code: a sentence in place of a traceback, so that Run All goes on."""
    try:
        yield
    except NotImplementedError as stub:
        print(f"{stub}\nAfterwards run this cell again.")
    except Exception as error:
        print(f"This cell needs {' and '.join(exercise_ids)}, and there something went wrong.\n{explain(error)}")
