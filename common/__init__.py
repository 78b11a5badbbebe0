"""What notebooks, labs, solutions and the grader share: docs/architecture.md is its map."""
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STORY_LLAMA = ROOT / "data" / "story-llama"
GRADE = ROOT / "grade"  # what grading leaves behind


def labs_folder() -> Path:
    """The folder whose modules `labs` stands for: the learner's own, or what `LABS` names.

    `LABS=solutions` runs the same notebooks, checks and engine on the reference; an absolute path grades any other
    folder of lab files (a student's submission, a mutant, an alternative).
    """
    folder = ROOT / (os.environ.get("LABS") or "labs")
    if not folder.is_dir():
        raise FileNotFoundError(f"LABS names {folder}, which is no folder: give `labs`, `solutions` or a full path.")
    return folder


def model_folder() -> Path:
    """The checkpoint that the course speaks through: the bundled story model, or the folder that `MODEL` names."""
    return Path(os.environ.get("MODEL") or STORY_LLAMA).expanduser()
