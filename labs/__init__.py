"""The learner's modules, one per lesson: the only files that a learner edits.

`LABS=solutions`, or any other folder, makes `labs` stand for that folder, so that the same notebooks, checks and
engine run on the reference, on a mutant or on a student's submission.
"""
import common.device  # noqa: F401  (sets TRITON_INTERPRET before a lab imports triton)
from common import labs_folder

__path__ = [str(labs_folder())]
