"""Text to token ids and back, for any folder with a `tokenizer.json`."""
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers.decoders import DecodeStream

from common.model.checkpoint import CheckpointError, read_json


class Tokenizer:
    """The folder's tokenizer with the ids that begin and end a text.

    `bos_id` is None for models without a begin token; `stop_ids` are all ids after which generation ends.
    """

    def __init__(self, folder: Path | str):
        file = Path(folder) / "tokenizer.json"
        if not file.exists():
            raise CheckpointError(f"{file} is missing: download the checkpoint's tokenizer.json as well.")
        try:
            self.tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the Rust library raises plain Exception
            raise CheckpointError(f"{file} cannot be read ({error}): download it again.") from None
        settings = read_settings(Path(folder))
        stop = settings.get("eos_token_id", [])
        self.bos_id: int | None = settings.get("bos_token_id")
        self.stop_ids: frozenset[int] = frozenset([stop] if isinstance(stop, int) else stop)
        self.add_bos: bool = settings.get("add_bos_token", False) and self.bos_id is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the begin token in front where the model wants one, and only once."""
        ids = self.tokenizer.encode(text).ids  # the file's own post-processor has added the begin token in most models
        if self.add_bos and ids[:1] != [self.bos_id]:
            ids = [self.bos_id, *ids]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids` piece by piece; a character whose bytes span several tokens comes out whole."""
        decoder = DecodeStream(skip_special_tokens=True)
        for id in ids:
            piece = decoder.step(self.tokenizer, id)
            if piece:
                yield piece


def read_settings(folder: Path) -> dict[str, int | list[int] | bool]:
    """`bos_token_id`, `eos_token_id` and `add_bos_token`; where two files disagree, generation_config.json wins."""
    settings = {}
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).exists():
            settings |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    return settings
