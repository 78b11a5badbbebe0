"""What a learner opens is made from one source: labs from the worked solutions, notebooks from `notebooks/source/`."""


class AuthoringError(Exception):
    """A mistake that whoever runs the command can fix: one sentence that names the file and the next step."""
