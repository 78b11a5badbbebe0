"""`python -m common.grader`: grade the labs. LAB=03 takes one lesson, LABS another folder of labs, SEED repeats."""
import os
import sys
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.progress import Progress

from common import GRADE, ROOT, labs_folder
from common.checking.exercise import Lesson
from common.checking.run import new_seed, run_exercise
from common.grader.gate import GateResult, run_gate
from common.grader.report import Graded, print_results, to_results, write_page, write_results
from common.grader.worker import Worker
from common.lessons import find_lesson, lessons
from common.parts import fingerprint, record


def main() -> None:
    console = Console()
    try:
        chosen = [find_lesson(os.environ["LAB"])] if os.environ.get("LAB") else list(lessons())
        seed = int(os.environ["SEED"]) if os.environ.get("SEED") else new_seed()
        labs_folder()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{error} (LAB is a lesson's number such as 00, LABS a folder, SEED a whole number.)")
    start = time.monotonic()
    graded: list[Graded] = []
    gates: list[GateResult] = []

    def save() -> dict:
        results = to_results(graded, gates, time.monotonic() - start)
        write_results(results, GRADE)
        return results

    with Progress(console=console, transient=True) as progress:
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        exercises = sum(len(lesson.exercises) for lesson in chosen)
        task = progress.add_task("grading", total=exercises * len(devices) + len(chosen))
        for device in devices:
            for lesson in chosen:
                for entry in grade(lesson, device, seed):
                    graded.append(entry)
                    save()  # what is graded stays, whatever comes
                    if device == "cpu":
                        record(entry.file, entry.exercise.id, entry.passed)
                    progress.update(task, advance=1, description=f"{entry.exercise.id} on {device}")
        for lesson in chosen:
            progress.update(task, description=f"notebook {lesson.number}")
            gates.append(run_gate(lesson, GRADE / "staging"))
            progress.advance(task)
    results = save()
    write_page(results, GRADE)
    print_results(results, console)
    console.print(f"\nThe whole report: {(GRADE / 'report.html').relative_to(ROOT)}", highlight=False)


def grade(lesson: Lesson, device: str, seed: int) -> Iterator[Graded]:
    """Grade a lesson's exercises on one device, each in a worker of its own."""
    for exercise in lesson.exercises:
        if not any(getattr(check, device) for check in exercise.checks):
            continue  # nothing here has meaning on this device
        file = fingerprint(lesson.name)  # before it is loaded: an edit meanwhile is another file
        worker = Worker(lesson, exercise, device)
        try:
            outcomes = list(run_exercise(exercise, device, seed, worker.drive))
            yield Graded(lesson, exercise, device, outcomes, worker.printed(), file)
        finally:
            worker.close()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. What was graded so far is in grade/results.json.")
