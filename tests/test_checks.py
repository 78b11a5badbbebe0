"""The words in which lessons are written: what crosses the wire, what is refused, what a learner reads."""
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from common.checking.compare import expect_close, expect_equal
from common.checking.exercise import Mismatch
from common.checking.guard import guarded_in_place, guarded_input, guarded_output, stray_writes
from common.checking.refuse import Refused, refusing
from common.checking.watch import Loads, Operations, watched
from common.checking.wire import NotPlain, pack, unpack
from common.lessons import lessons
from common.model.attention import CausalAttention
from common.model.llama import Config, Llama
from common.notebook import attempt, check, load_lab
from common.oracles.generation import CLEAR, CPU, draw_prompt, first_departure, oracle, story_model

plain = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                     lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@given(st.dictionaries(st.text(), plain))
def test_plain_values_cross_the_wire_unchanged(values: dict):
    assert unpack(pack(values)) == values


def test_tensors_cross_the_wire_with_dtype_and_layout_made_plain():
    tensors = [torch.randn(3, 4).T, torch.randn(5).bfloat16(), torch.arange(6).view(2, 3)[:, 1], torch.tensor(True),
               torch.empty(0, 2)]
    tensors += [tensors[0]]  # twice the same memory, which safetensors by itself refuses
    back = unpack(pack({"tensors": tensors}))["tensors"]
    for sent, came in zip(tensors, back, strict=True):
        assert came.is_contiguous() and came.dtype == sent.dtype and torch.equal(came, sent)


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.nn.Linear(1, 1), b"bytes"])
def test_nothing_else_crosses_the_wire(value):
    with pytest.raises(NotPlain, match="not a tensor, number, string or list"):
        pack({"value": value})


def test_endless_nesting_does_not_cross_the_wire():
    nest = []
    nest.append(nest)
    with pytest.raises(NotPlain, match="nested"):
        pack({"nest": nest})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_guard_margins_notice_every_stray_store(dtype: torch.dtype):
    for value in (0, 1, float("nan")):
        if value != value and not dtype.is_floating_point:
            continue
        for offset in (-1, 7):  # one before the first, one after the last
            out = guarded_output(torch.ones(7, dtype=dtype))
            assert stray_writes(out) == 0
            torch.as_strided(out, (1,), (1,), out.storage_offset() + offset).fill_(value)
            assert stray_writes(out) == 1


def test_gaps_between_rows_are_guarded():
    rows = torch.arange(12.0).view(3, 2, 2)
    assert guarded_input(rows).is_contiguous() and torch.equal(guarded_input(rows, gap=3), rows)
    x = guarded_input(rows, gap=3)
    assert x.stride() == (7, 2, 1) and x.as_strided((3,), (1,), x.storage_offset() + 4).isnan().all()
    for out in (guarded_output(rows, gap=3), guarded_in_place(rows, gap=3)):
        out.fill_(5)
        assert stray_writes(out) == 0
        out.as_strided((3,), (7,), out.storage_offset() + 6).fill_(float("nan"))  # the last gap of each row
        assert stray_writes(out) == 3


@triton.jit
def load_three(x_ptr, y_ptr, ALL: tl.constexpr):
    offsets = tl.arange(0, 4)
    tl.load(x_ptr + offsets, mask=(offsets < 3) | ALL)
    tl.load(x_ptr + 1)
    tl.load(y_ptr)


def test_every_load_is_noted():
    x, y = (guarded_input(torch.ones(2, 3), gap=1)[0] for _ in range(2))
    with Loads() as loads:
        load_three[(1,)](x, y, ALL=False)
    assert (loads.most_of(x), loads.most_of(y), loads.largest_block) == (2, 1, 4)
    assert loads.stray_of(x) == loads.stray_of(y) == 0 and len(loads.all_addresses()) == 5
    with Loads() as loads:
        load_three[(1,)](x, torch.ones(1), ALL=True)
    assert (loads.most_of(y), loads.stray_of(x)) == (0, 1)
    load_three[(1,)](x, y, ALL=True)
    assert len(loads.all_addresses()) == 6  # nothing is noted afterwards


def test_guarded_inputs_spoil_stray_loads():
    x = guarded_input(torch.ones(7))
    assert torch.equal(x, torch.ones(7))
    assert torch.as_strided(x, (9,), (1,), x.storage_offset() - 1).sum().isnan()


def test_differences_are_named_by_place():
    want = torch.zeros(3, 4)
    got = want.clone()
    got[1, 2] = 5
    with pytest.raises(Mismatch, match=r"1 of 12 values differ.*\[1, 2\] got 5, want 0"):
        expect_equal("out", got, want)
    with pytest.raises(Mismatch, match="largest error 5, allowed 0.1"):
        expect_close("out", got, want, atol=0.1)
    with pytest.raises(Mismatch, match=r"got float32 tensor of shape \(4, 3\), want .*\(3, 4\)"):
        expect_close("out", got.T, want, atol=0.1)
    with pytest.raises(Mismatch, match="got NoneType None"):
        expect_equal("out", None, want)
    got[0, 0] = math.nan
    with pytest.raises(Mismatch):
        expect_close("out", got, want, atol=100)
    expect_close("out", want.half() + 0.05, want.double(), atol=0.1)


def test_model_calls_and_tokens_are_counted():
    model = Llama(Config(vocab_size=11, dim=8, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=4, ffn_dim=8))
    with watched(model) as calls:
        for n in (5, 3):
            hidden = model(torch.zeros(n, dtype=torch.long), torch.arange(n), CausalAttention())
        model.logits(hidden[-2:])
    model(torch.zeros(1, dtype=torch.long), torch.arange(1), CausalAttention())
    model.logits(torch.zeros(3, 8))
    assert (calls.count, calls.tokens, calls.rows) == (2, 8, [2])
    assert calls.sent == [[0] * 5, [0] * 3] and calls.positions == [[0, 1, 2, 3, 4], [0, 1, 2]]


def test_operations_and_their_largest_result_are_counted():
    x = torch.ones(3, 4)
    with Operations() as operations, torch.inference_mode():
        (x.T @ x + 1).sum()
    assert (operations.count, operations.largest) == (4, 16)  # a view, a product, an addition, a sum
    x + 1
    assert operations.count == 4


# The oracle --------------------


def test_the_first_departure_from_the_oracle_is_found():
    prompt = draw_prompt(np.random.default_rng(5), 20)
    tokens, lead = oracle(story_model(CPU), prompt, 6)
    assert lead > CLEAR, "another prompt, please"
    assert first_departure(story_model(CPU), prompt, tokens) is None
    assert first_departure(story_model(CPU), prompt, []) is None
    for place in range(6):
        wrong = [*tokens[:place], (tokens[place] + 1) % 100, *tokens[place + 1:]]
        assert first_departure(story_model(CPU), prompt, wrong) == (place, tokens[place])


# A learner's file --------------------


@pytest.fixture
def lab_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABS", str(tmp_path))
    return tmp_path / "start_here.py"


def test_a_saved_edit_counts_at_once(lab_file: Path):
    for number in (1, 2):  # same length, same second: neither bytecode nor import caches may serve the old one
        lab_file.write_text(f"answer = {number}\n")
        os.utime(lab_file, (0, 0))
        assert load_lab("start_here").answer == number


def test_library_answers_are_refused_to_labs_alone(lab_file: Path):
    lab_file.write_text("import torch\nfrom torch.nn.functional import silu\n\n\n"
                        "def mine(x):\n    return silu(x)\n\n\ndef other(x):\n    return torch.nn.functional.gelu(x)\n")
    with refusing(["torch.nn.functional.silu", "torch.Tensor.softmax"], "05.2"):
        lab = load_lab("start_here")
        with pytest.raises(Refused, match="torch.nn.functional.silu is the answer to 05.2"):
            lab.mine(torch.ones(1))
        lab.other(torch.ones(1))
        torch.nn.functional.silu(torch.ones(1))
        torch.ones(1).softmax(0)
    load_lab("start_here").mine(torch.ones(1))


ATTEMPTS = {
    "syntax error": ("def greedy_token(:\n", "SyntaxError: invalid syntax (labs/start_here.py, line 1"),
    "no such function": ("x = 1\n", "labs/start_here.py has no `greedy_token`"),
    "raises": ("def greedy_token(logits):\n    return logits[99]\n",
               "IndexError: index 99 is out of bounds for dimension 0 with size 1 (labs/start_here.py, line 2: return"),
    "wrong type": ("def greedy_token(logits):\n    return {1}\n",
                   "`greedy_token` did not return what its docstring promises: token is set"),
    "nothing": ("def greedy_token(logits):\n    pass\n", "token id: got NoneType None, want int"),
    "answer borrowed": ("from common.model.generate import greedy as greedy_token2\n\n\n"
                        "def greedy_token(logits):\n    return greedy_token2(logits)\n",
                        "common.model.generate.greedy is the answer to 00.1"),
    "first row": ("def greedy_token(logits):\n    return int(logits[0].argmax())\n", "only logits[-1] speaks"),
}


@pytest.mark.parametrize("mistake", ATTEMPTS)
def test_the_self_check_says_what_is_wrong_and_never_raises(mistake: str, lab_file: Path, capsys):
    source, sentence = ATTEMPTS[mistake]
    lab_file.write_text(source)
    check("00.1")
    assert sentence in capsys.readouterr().out


def test_an_error_within_a_kernel_names_its_line(lab_file: Path, capsys):
    lab_file.write_text("import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef kernel():\n"
                        "    tl.arange(0, 3)\n\n\ndef greedy_token(logits):\n    kernel[(1,)]()\n")
    check("00.1")
    assert "(labs/start_here.py, line 7: tl.arange(0, 3))" in capsys.readouterr().out


def test_a_failure_can_be_repeated(lab_file: Path, capsys):
    lab_file.write_text("def greedy_token(logits):\n    return int(logits[0].argmax())\n")
    check("00.1")
    first = capsys.readouterr().out
    check("00.1", seed=int(first.split("seed ")[1].split(".")[0]))
    assert capsys.readouterr().out == first


def test_an_unknown_exercise_is_named(capsys):
    check("99.9")
    assert "There is no exercise '99.9'; there are 00.1" in capsys.readouterr().out


def test_attempt_keeps_run_all_going(lab_file: Path, capsys):
    lab_file.write_text("def greedy_token(logits):\n    raise KeyError('lost')\n")
    with attempt("00.1"):
        load_lab("start_here").greedy_token(None)
    with attempt("00.1", "00.2"):
        raise NotImplementedError("00.2 is still a stub.")
    printed = capsys.readouterr().out
    assert "KeyError: 'lost' (labs/start_here.py, line 2" in printed
    assert "00.2 is still a stub.\nAfterwards run this cell again." in printed


def test_every_check_is_fully_described():
    for lesson in lessons():
        assert lesson.minutes > 0 and lesson.exercises
        for exercise in lesson.exercises:
            assert 1 <= exercise.difficulty <= 5 and exercise.minutes > 0
            names = [check.name for check in exercise.checks]
            assert len(set(names)) == len(names)
            for each in exercise.checks:
                assert each.points > 0 and each.advice.endswith((".", "?")) and (each.cpu or each.cuda)
