"""The highest rung of several devices: DDP, one process a GPU (or on a CPU, by gloo).

Usage: torchrun --standalone --nproc-per-node 4 02_opt_multi_gpu_ddp.py
On several hosts: torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d
                           --rdzv-endpoint HOST:29500 02_opt_multi_gpu_ddp.py
"""
from ladder import (
    World,
    device_of,
    ladder,
    missing,
    process_group,
    train,
    training_command,
)
from previous_chapters import run_command


def main(gpt_config, settings, rank, world_size):
    """Train; return (train_losses, val_losses, tokens_seen, model)."""
    world = World.from_torchrun()
    assert (world.rank, world.size) == (rank, world_size)
    device = device_of(settings, world)
    without = missing(device, settings)
    without.pop("ddp", None)              # torchrun has decided how many processes
    with process_group(world, device):
        return train(ladder(without, world_size)[-1], gpt_config, settings, world)


def command():
    """Read the command line and torchrun's environment, and train."""
    world = World.from_torchrun()
    training_command(
        lambda gpt_config, settings: main(gpt_config, settings, world.rank, world.size),
        "Train a GPT fast on several devices, started by torchrun.", world)


if __name__ == "__main__":
    run_command(command)
