"""The lowest rung: the book's model and loop, with a clock. Usage: python 00_orig.py"""
from ladder import Rung, train, training_command
from previous_chapters import run_command


def main(gpt_config, settings):
    """Train; return (train_losses, val_losses, tokens_seen, model)."""
    return train(Rung(), gpt_config, settings)


if __name__ == "__main__":
    run_command(lambda: training_command(main, "Train a GPT with the book's loop."))
