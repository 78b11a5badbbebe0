"""What grading leaves behind: `results.json` (Gradescope's schema), a table in the terminal, and an HTML page.

The table and the page are drawn from the JSON alone, so that they can never say anything else.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import jinja2
from rich.console import Console
from rich.table import Table

from common.checking.exercise import Exercise, Lesson
from common.checking.run import Outcome
from common.files import write_atomically
from common.grader.gate import GateResult

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Graded:
    """One exercise on one device ("cpu" or "cuda")."""

    lesson: Lesson
    exercise: Exercise
    device: str
    outcomes: list[Outcome]
    printed: str = ""  # by the learner's code
    file: str = ""  # the fingerprint of the lab that was graded (common/parts.py)

    @property
    def passed(self) -> bool:
        return all(outcome.status == "passed" for outcome in self.outcomes)


def to_results(graded: list[Graded], gates: list[GateResult], seconds: float) -> dict:
    """Everything known so far as a Gradescope results.json. GPU marks and gates are tests without a score."""
    tests = [test for entry in graded for test in to_tests(entry)]
    scored = [test for test in tests if "score" in test]
    return {
        "score": sum(test["score"] for test in scored),
        "execution_time": round(seconds),
        "output": "Points come from the checks on the CPU. GPU marks and the notebooks' gate are shown beside them.",
        "output_format": "text",
        "stdout_visibility": "visible",
        "visibility": "visible",
        "tests": tests + [to_gate_test(gate) for gate in gates],
        "extra_data": {
            "max_score": sum(test["max_score"] for test in scored),
            "exercises": to_exercises(graded),
            "gates": [vars(gate) for gate in gates],
        },
    }


def to_tests(graded: Graded) -> list[dict]:
    tests = []
    for outcome in graded.outcomes:
        passed = outcome.status == "passed"
        output = outcome.message
        if graded.printed and not passed:
            output += f"\nPrinted by your code: {graded.printed}"
        test = {
            "number": graded.exercise.id,
            "name": f"{graded.exercise.id} {graded.exercise.symbol} {outcome.check.name}",
            "status": "passed" if passed else "failed",
            "output": output, "output_format": "text", "visibility": "visible",
            "tags": [f"lesson {graded.lesson.number}", graded.device],
        }
        if graded.device == "cpu":
            test |= {"score": outcome.check.points if passed else 0, "max_score": outcome.check.points}
        tests.append(test)
    return tests


def to_gate_test(gate: GateResult) -> dict:
    return {"name": f"notebook {gate.notebook}", "status": "failed" if gate.problem else "passed",
            "output": describe_gate(gate), "output_format": "text", "visibility": "visible", "tags": ["notebook"]}


def describe_gate(gate: GateResult) -> str:
    if not gate.cells:
        return gate.problem
    counted = f"{gate.agreeing} of {gate.cells} cells agree with the reference"
    return f"{counted}; {gate.problem}" if gate.problem else counted


def to_exercises(graded: list[Graded]) -> list[dict]:
    """One row per exercise: its points per device, and the first thing that stands between the learner and the rest."""
    rows: dict[str, dict] = {}
    for entry in graded:
        row = rows.setdefault(entry.exercise.id, {
            "id": entry.exercise.id, "title": entry.exercise.title, "symbol": entry.exercise.symbol,
            "lab": entry.lesson.lab_file, "points": {}, "max_points": {}, "status": "passed", "problem": ""})
        passed = [outcome for outcome in entry.outcomes if outcome.status == "passed"]
        row["points"][entry.device] = sum(outcome.check.points for outcome in passed)
        row["max_points"][entry.device] = sum(outcome.check.points for outcome in entry.outcomes)
        for outcome in entry.outcomes:
            if outcome.status != "passed" and row["status"] == "passed":
                row["status"] = outcome.status
                row["problem"] = f"{outcome.check.name}: {outcome.message}"
    return list(rows.values())


def write_results(results: dict, folder: Path) -> None:
    write_atomically(folder / "results.json", json.dumps(results, indent=1) + "\n")


def write_page(results: dict, folder: Path) -> None:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True)
    page = environment.get_template("report.html.j2").render(
        results=results, next_step=next_step(results), describe_gate=lambda gate: describe_gate(GateResult(**gate)))
    write_atomically(folder / "report.html", page)


def next_step(results: dict) -> str:
    """The one sentence to act on."""
    for row in results["extra_data"]["exercises"]:
        if row["status"] == "stub":
            return f"Next: write `{row['symbol']}` in {row['lab']} ({row['id']}); `make lab` opens its notebook."
        if row["status"] == "failed":
            return f"Next: mend `{row['symbol']}` in {row['lab']} ({row['id']}); what it failed on is said below."
    failed = [gate for gate in results["extra_data"]["gates"] if gate["problem"]]
    if failed:
        return f"All points earned. One notebook does not yet agree with the reference: {failed[0]['notebook']}."
    return "All points earned."


def print_results(results: dict, console: Console) -> None:
    rows = results["extra_data"]["exercises"]
    devices = [device for device in ("cpu", "cuda") if any(device in row["points"] for row in rows)]
    table = Table(title="Transformers Lab", title_style="bold", expand=False)
    table.add_column("exercise", no_wrap=True)
    table.add_column("title")
    for device in devices:
        table.add_column("GPU" if device == "cuda" else "points", justify="right", no_wrap=True)
    table.add_column("state")
    state = {"passed": "[green]done[/]", "stub": "[dim]still a stub[/]", "failed": "[red]not yet right[/]"}
    for row in rows:
        points = [f"{row['points'].get(device, '-')} / {row['max_points'].get(device, '-')}" for device in devices]
        table.add_row(row["id"], row["title"], *points, state[row["status"]])
    console.print(table)
    for gate in results["extra_data"]["gates"]:
        verdict = describe_gate(GateResult(**gate))
        console.print(f"notebook {gate['notebook']}: {verdict}", markup=False, highlight=False)
    best = results["extra_data"]["max_score"]
    percent = 100 * results["score"] / best if best else 0
    console.print(f"\n[bold]{results['score']} of {best} points ({percent:.0f} %).[/] {next_step(results)}",
                  highlight=False)
    for row in rows:
        if row["status"] == "failed":
            console.print(f"\n[bold]{row['id']} {row['symbol']}[/]", highlight=False)
            console.print(row["problem"], markup=False, highlight=False)
