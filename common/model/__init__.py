"""A Llama decoder on packed tokens, its checkpoint and tokenizer, and the world whose stories it tells."""
