"""`python -m common.authoring stubs|notebooks|reset|lesson`. LAB names a lesson, NUMBER and NAME a new one."""
import os
import sys

from common.authoring import AuthoringError
from common.lessons import UnknownLesson


def main(arguments: list[str]) -> int:
    lab = os.environ.get("LAB", "").strip()
    try:
        match arguments:
            case ["stubs"]:
                from common.authoring.stubs import write_stubs

                messages = write_stubs() or ["Every lab is up to date."]
            case ["reset"]:
                from common.authoring.stubs import reset

                messages = [reset(lab)]
            case ["notebooks"]:
                from common.authoring.notebooks import write_notebooks  # takes seconds to import

                messages = write_notebooks(lab)
            case ["lesson"]:
                from common.authoring.skeleton import write_skeleton
                from common.authoring.stubs import write_stubs

                number, name = os.environ.get("NUMBER", ""), os.environ.get("NAME", "")
                messages = [f"{file} written." for file in write_skeleton(number, name)] + write_stubs()
                messages.append(f"Next: LABS=solutions make grade LAB={number}, make notebooks LAB={number}, then make "
                                "the exercise your own (docs/add_a_lesson.md).")
            case _:
                raise AuthoringError("Say what to make: python -m common.authoring stubs, notebooks, reset or lesson.")
    except (AuthoringError, UnknownLesson) as error:
        return complain(str(error))
    except ModuleNotFoundError as error:
        return complain(f"{error.name} is not installed here: leave VENV unset, and make sets up what this needs.")
    except OSError as error:
        return complain(f"{error.filename or 'A file'}: {error.strerror or error}. Nothing of yours was changed.")
    except KeyboardInterrupt:
        return complain("Stopped. Every file is as it was before or finished.")
    print("\n".join(messages))
    return 0


def complain(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
