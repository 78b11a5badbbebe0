"""01.6: the whole model."""
import math
from dataclasses import dataclass
from functools import partial
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from common import STORY_LLAMA
from common.checking.compare import expect_equal, expect_near
from common.checking.draw import integer, randn
from common.checking.exercise import F32, Check, Exercise, Mismatch, Rng, Values
from common.device import DEVICE
from common.lessons.transformer.shared import FormulaCheck, draw_layer, small_config
from common.model.evaluate import fresh_stories
from common.model.llama import Config
from common.model.tokenizer import Tokenizer
from common.oracles.decoder import PARTS
from common.oracles.generation import CPU, first_departure, story_model


def llama_logits(token_ids: Tensor, weights: dict[str, Tensor], config: Config, parts: SimpleNamespace) -> Tensor:
    x = weights["embed_tokens.weight"][token_ids]
    for index in range(config.n_layers):
        prefix = f"layers.{index}."
        layer = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
        x = parts.decoder_layer(x, torch.arange(len(x)), layer, config, parts)
    head = weights["embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"]
    return F.linear(parts.rms_norm(x, weights["norm.weight"], config.norm_eps), head)


ModelCheck = partial(
    FormulaCheck, symbol="llama_logits", formula=llama_logits,
    prepare=lambda token_ids, weights, config: (token_ids, weights, Config(**config), PARTS),
    # Largest error 4.9e-6, with logits of about 1 to 3.
    judged=lambda inputs, outputs, want: expect_near("logits", outputs["out"], want, F32, atol=5e-5))


def draw_model(rng: Rng, n: int = 1, layers: int = 1, tied: bool = True) -> Values:
    config = small_config(24, 4, 2, 8, 40, layers, vocab_size=integer(rng, 30, 90))
    weights = {f"layers.{index}.{name}": weight for index in range(layers)
               for name, weight in draw_layer(rng, config).items()}
    weights["norm.weight"] = torch.from_numpy(rng.uniform(0.5, 2, 24))
    for name in ("embed_tokens.weight",) if tied else ("embed_tokens.weight", "lm_head.weight"):
        weights[name] = randn(rng, config["vocab_size"], 24) / math.sqrt(24)
    token_ids = torch.from_numpy(rng.integers(0, config["vocab_size"], n))
    return {"token_ids": token_ids, "weights": weights, "config": config | {"tie_embeddings": tied}}


@dataclass(frozen=True, kw_only=True)
class OwnPartsCheck(Check):
    """The story model, run by the lab's functions alone, tells a story token by token."""

    new_tokens: int

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        (story,) = fresh_stories(1, seed=integer(rng, 0, 2**31), shortest=60, longest=120)
        return {"prompt": Tokenizer(STORY_LLAMA).encode(story.text)[:40]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        token_ids, model = list(inputs["prompt"]), story_model(DEVICE)
        with torch.inference_mode():
            for _ in range(self.new_tokens):
                logits = lab.llama_logits(torch.tensor(token_ids, device=DEVICE), model.state_dict(), model.config, lab)
                token_ids.append(int(logits[-1].argmax()))
        return {"tokens": token_ids[len(inputs["prompt"]):]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        prompt, tokens = inputs["prompt"], outputs["tokens"]
        expect_equal("number of tokens", len(tokens), self.new_tokens)
        departure = first_departure(story_model(CPU), prompt, tokens)
        if departure:
            index, best = departure
            decode = Tokenizer(STORY_LLAMA).tokenizer.decode
            got, want, before = decode([tokens[index]]), decode([best]), decode(prompt[-8:] + tokens[:index])
            raise Mismatch(f"token {index + 1}, after {before!r}: got {got!r}, want {want!r}")


EXERCISE = Exercise("01.6", "The whole model", "llama_logits", minutes=10, difficulty=2,
                    refused=("common.model.llama.Llama", "common.model.checkpoint.load_model"), checks=(
    ModelCheck("scores the vocabulary after one token, with one layer", 1, arguments=draw_model,
        advice="embedding[token_ids], the layers, rms_norm with norm.weight, then the product with every embedding "
               "row."),
    ModelCheck("gives every one of N tokens its row, at positions 0 to N - 1", 1, draws=2,
        arguments=lambda rng: draw_model(rng, n=integer(rng, 5, 40)),
        advice="The result has shape (N, V), and positions are torch.arange(N)."),
    ModelCheck("runs every layer in order, each with its own weights", 1, draws=2,
        arguments=lambda rng: draw_model(rng, layers=integer(rng, 2, 4)),
        advice="for index in range(config.n_layers), with layer_weights(weights, index): 0 comes first."),
    ModelCheck("scores with lm_head.weight where there is one", 1, arguments=partial(draw_model, tied=False),
        advice="weights.get(\"lm_head.weight\") is None only in tied models; in others it is the output projection."),
    OwnPartsCheck("tells the story as the course's own decoder does, with every part yours", 3, new_tokens=12,
                  seconds=60,  # takes 0.2; torch's threads slow one another down on a busy machine
                  advice="Here the parts are your own functions of 01.1 to 01.5: look first for one of them whose "
                         "check fails."),
))
