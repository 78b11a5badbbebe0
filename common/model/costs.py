"""What one call of a Llama on n tokens computes and moves."""
from common.model.llama import Config


def forward_flops(config: Config, n: int, causal: bool = False) -> int:
    """Multiplications and additions of all matrix products, with the logits of the last token alone.

    Attention in full, as it is usually counted; `causal` leaves out what the mask throws away, which no code needs.
    """
    pairs = n * (n + 1) // 2 if causal else n * n
    attention = 4 * pairs * config.head_dim * config.n_heads
    return config.n_layers * (2 * n * layer_weights(config) + attention) + 2 * config.dim * config.vocab_size


def call_flops(config: Config, new: int, held: int, causal: bool = False) -> int:
    """As `forward_flops`, for `new` tokens after `held` whose keys and values are in a cache."""
    attention = 4 * new * held * config.head_dim * config.n_heads
    return forward_flops(config, new, causal) + config.n_layers * attention


def call_bytes(config: Config, new: int, held: int, bytes_per_element: int) -> int:
    """What such a call must move: every weight, and the keys and values of all held + new tokens."""
    return weight_bytes(config, bytes_per_element) + cache_bytes(config, held + new, bytes_per_element)


def generation_limits(config: Config, lengths: list[int], new_tokens: int, flops_per_second: float,
                      bytes_per_second: float, bytes_per_element: int) -> tuple[float, float]:
    """The seconds below which neither prefill nor decode of a batch can get: each call's FLOPs, or its bytes.

    The prompts have these lengths, and a cache. A call reads the weights once for the whole batch, and the keys and
    values of every request.
    """
    def seconds(new: list[int], held: list[int]) -> float:
        requests = list(zip(new, held, strict=True))
        flops = sum(call_flops(config, *request, causal=True) for request in requests)
        moved = weight_bytes(config, bytes_per_element) + sum(
            cache_bytes(config, sum(request), bytes_per_element) for request in requests)
        return max(flops / flops_per_second, moved / bytes_per_second)

    prefill = seconds(lengths, [0] * len(lengths))
    decode = sum(seconds([1] * len(lengths), [length + step for length in lengths]) for step in range(new_tokens - 1))
    return prefill, decode


def cache_bytes(config: Config, tokens: int, bytes_per_element: int) -> int:
    """Keys and values of these tokens in all layers."""
    return 2 * config.n_layers * tokens * config.n_kv_heads * config.head_dim * bytes_per_element


def weight_bytes(config: Config, bytes_per_weight: int) -> int:
    """Every matrix is read once; of an embedding table only if it also gives the logits."""
    return (config.n_layers * layer_weights(config) + config.dim * config.vocab_size) * bytes_per_weight


def layer_weights(config: Config) -> int:
    """Elements of the seven matrices of a layer: q, k, v, o, gate, up and down."""
    return config.dim * (2 * (config.n_heads + config.n_kv_heads) * config.head_dim + 3 * config.ffn_dim)
