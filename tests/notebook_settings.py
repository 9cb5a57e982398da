"""Small settings for notebooks that take minutes: notebook -> {parameter: literal}."""

SMALL_GPT = {
    "vocab_size": 50257, "context_length": 64, "emb_dim": 32, "n_heads": 4,
    "n_layers": 2, "drop_rate": 0.1, "qkv_bias": False,
}

SMALL = {
    "ch05/01_main-chapter-code/ch05.ipynb": {
        "GPT_CONFIG_124M": SMALL_GPT, "num_epochs": 1,
    },
    "ch05/01_main-chapter-code/exercise-solutions.ipynb": {
        "GPT_CONFIG_124M": SMALL_GPT, "num_epochs": 1,
    },
    "ch05/04_learning_rate_schedulers/learning-rate-schedulers.ipynb": {
        "longer_steps": 170, "short": 100, "seeds": (123, 124),
    },
}
