"""What a learner opens is made from one source: labs from the worked solutions, notebooks from `notebooks/source/`."""
import re
from pathlib import Path

from common import ROOT

SOURCE = ROOT / "notebooks" / "source"
LESSON = re.compile(r"(\d\d)_([a-z]\w*)")


class AuthoringError(Exception):
    """A mistake that whoever runs the command can mend: one sentence that names the file and the next step."""


def lessons(source: Path = SOURCE) -> dict[str, str]:
    """Every lesson's name by its number, as the notebooks' sources give them: {"00": "start_here", ...}."""
    found = {}
    for path in sorted(source.glob("*.py")):
        match = LESSON.fullmatch(path.stem)
        if match is None or match[1] in found:
            raise AuthoringError(f"{path}: name it NN_topic.py, with a number NN that no other lesson has.")
        found[match[1]] = match[2]
    return found


def choose(lab: str, source: Path = SOURCE) -> str:
    """The name of the lesson numbered `lab`; "3" and "03" both do."""
    known = lessons(source)
    name = known.get(lab and lab.zfill(2))
    if name is None:
        wrong = f"LAB={lab} is no lesson" if lab else "Say which lesson, as in LAB=00"
        raise AuthoringError(f"{wrong}: {', '.join(f'{number} {name}' for number, name in known.items())}.")
    return name
