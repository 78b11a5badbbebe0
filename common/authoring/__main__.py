"""`python -m common.authoring stubs|notebooks|reset`, with the lesson's number in LAB where one is meant."""
import os
import sys

from common.authoring import AuthoringError


def main(arguments: list[str]) -> int:
    lab = os.environ.get("LAB", "").strip()
    try:
        match arguments:
            case ["stubs"]:
                from common.authoring.stubs import write_stubs

                told = write_stubs() or ["Every lab is up to date."]
            case ["reset"]:
                from common.authoring.stubs import reset

                told = [reset(lab)]
            case ["notebooks"]:
                from common.authoring.notebooks import write_notebooks  # takes seconds to import

                told = write_notebooks(lab)
            case _:
                raise AuthoringError("Say what to make: python -m common.authoring stubs, notebooks or reset.")
    except AuthoringError as error:
        return complain(str(error))
    except ModuleNotFoundError as error:
        return complain(f"{error.name} is not installed here: leave VENV unset, and make sets up what this needs.")
    except OSError as error:
        return complain(f"{error.filename or 'A file'}: {error.strerror or error}. Nothing of yours was changed.")
    except KeyboardInterrupt:
        return complain("Stopped. Every file is as it was before or finished.")
    print("\n".join(told))
    return 0


def complain(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
