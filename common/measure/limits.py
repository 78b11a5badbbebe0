"""What one call of a Llama on n tokens computes and moves."""
from common.model.llama import Config


def forward_flops(config: Config, n: int, causal: bool = False) -> int:
    """Multiplications and additions of all matrix products, with the logits of the last token alone.

    Attention in full, as it is usually counted; `causal` leaves out what the mask throws away, which no code needs.
    """
    pairs = n * (n + 1) // 2 if causal else n * n
    attention = 4 * pairs * config.head_dim * config.n_heads
    return config.n_layers * (2 * n * layer_weights(config) + attention) + 2 * config.dim * config.vocab_size


def weight_bytes(config: Config, bytes_per_weight: int) -> int:
    """Every matrix is read once; of an embedding table only if it also gives the logits."""
    return (config.n_layers * layer_weights(config) + config.dim * config.vocab_size) * bytes_per_weight


def layer_weights(config: Config) -> int:
    """Elements of the seven matrices of a layer: q, k, v, o, gate, up and down."""
    return config.dim * (2 * (config.n_heads + config.n_kv_heads) * config.head_dim + 3 * config.ffn_dim)
