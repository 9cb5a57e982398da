"""The highest rung of one device. Usage: python 01_opt_single_gpu.py"""
from ladder import ALONE, device_of, ladder, missing, train, training_command
from previous_chapters import run_command


def main(gpt_config, settings):
    """Train; return (train_losses, val_losses, tokens_seen, model)."""
    without = missing(device_of(settings, ALONE), settings)
    for name, reason in without.items():
        if name != "ddp":
            print(f"without {name}: {reason}")
    return train(ladder({**without, "ddp": ""})[-1], gpt_config, settings)


if __name__ == "__main__":
    run_command(lambda: training_command(main, "Train a GPT fast on one device."))
