"""Minutes of abuse for pretraining_simple.py; run with `pytest -m soak -n 0`."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from pretraining_corpus import write_corpus

pytestmark = [pytest.mark.soak, pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")]
SCRIPT = ROOT / "ch05/03_bonus_pretraining_on_gutenberg/pretraining_simple.py"
CONFIG = {"vocab_size": 50257, "context_length": 16, "emb_dim": 8, "n_heads": 2,
          "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True}
STEPS = 120
OPTIONS = ["--data-dir", "tokens", "--steps", str(STEPS), "--batch-size", "8",
           "--warmup-steps", "10", "--eval-freq", "20", "--eval-iter", "2",
           "--print-sample-iter", "60", "--save-ckpt-freq", "5",
           "--device", "cpu", "--dtype", "float32"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with tokens/ and two configurations."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "tokens")
    for name, drop_rate in (("plain.json", 0.0), ("dropout.json", 0.2)):
        config = {**CONFIG, "drop_rate": drop_rate}
        Path(name).write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def begin(*words, processes=0, restarts=0, **options):
    """Start the script, under torchrun for processes > 0; return the process."""
    run = [sys.executable]
    if processes:
        run += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                str(processes), "--max-restarts", str(restarts)]
    return subprocess.Popen([*run, str(SCRIPT), *words], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, encoding="utf-8",
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


def finish(process):
    """Wait for process; it must have succeeded. Return what it printed."""
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def lines_of(folder):
    """Return what log.jsonl says, without speeds; a line that broke off is left out."""
    found = []
    path = Path(folder) / "log.jsonl"
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        line.pop("tokens_per_second", None)
        found.append(line)
    return found


def last_step(folder):
    """Return the last step that the log knows."""
    return max((line["step"] for line in lines_of(folder)), default=0)


def final_state(folder):
    """Return the last checkpoint."""
    path = Path(folder) / f"checkpoint-{STEPS:07d}.pth"
    return torch.load(path, weights_only=True)


def wait_for_step(folder, step, process):
    """Wait until the run in folder has logged step."""
    until = time.monotonic() + 300
    while last_step(folder) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_killed_ten_times_a_run_ends_as_one_never_killed(folder, optimizer):
    words = [*OPTIONS, "--optimizer", optimizer, "--config", "dropout.json"]
    finish(begin(*words, "--out", "whole"))
    rng = random.Random(len(optimizer))
    process = begin(*words, "--out", "killed")
    wait_for_step("killed", 5, process)          # the first checkpoint comes soon after
    while not list(Path("killed").glob("checkpoint-*.pth")):
        time.sleep(0.01)
    kills = 0
    while kills < 10:
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
        kills += 1
        before = last_step("killed")
        process = begin("--data-dir", "tokens", "--resume", "killed", "--device", "cpu",
                        "--eval-freq", "20", "--eval-iter", "2",
                        "--print-sample-iter", "60", "--save-ckpt-freq", "5")
        # some kills while it is loading, some after steps of its own
        if kills < 10 and rng.random() < 0.8 and before < STEPS - 10:
            wait_for_step("killed", before + rng.randint(1, 9), process)
    finish(process)
    assert lines_of("killed") == lines_of("whole")
    whole, killed = final_state("whole"), final_state("killed")
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, killed["model"][name]), name
    for name, values in whole["optimizer"]["state"].items():
        for key, value in values.items():
            assert torch.equal(value, killed["optimizer"]["state"][name][key]), name
    assert (Path("whole/model/model.safetensors").read_bytes()
            == Path("killed/model/model.safetensors").read_bytes())
    assert len(list(Path("killed").glob("checkpoint-*"))) == 2


def assert_same_losses(a, b):
    """Compare the losses that two runs logged, to 1e-5."""
    lines = list(zip(lines_of(a), lines_of(b), strict=True))
    assert sum(line["kind"] == "train" for line, _ in lines) == STEPS
    for one, two in lines:
        assert (one["kind"], one["step"]) == (two["kind"], two["step"])
        if one["kind"] == "train":
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-5), one["step"]
        elif "losses" in one:
            assert one["losses"] == pytest.approx(two["losses"], abs=1e-5), one["step"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_of_one(folder, parallel):
    words = [*OPTIONS, "--config", "plain.json"]
    finish(begin(*words, "--out", "one"))
    finish(begin(*words, "--out", "two", "--parallel", parallel, processes=2))
    finish(begin(*words, "--out", "two_micro", "--parallel", parallel,
                 "--micro-batch-size", "2", processes=2))
    assert_same_losses("one", "two")
    assert_same_losses("one", "two_micro")


def test_a_run_of_two_goes_on_as_one_and_as_two_of_another_kind(folder):
    words = [*OPTIONS, "--config", "plain.json"]
    finish(begin(*words, "--out", "one"))
    process = begin(*words, "--out", "moved", "--parallel", "fsdp", processes=2)
    wait_for_step("moved", 31, process)
    process.send_signal(signal.SIGINT)                   # Ctrl-C: it saves and stops
    assert "go on with --resume moved" in process.communicate(timeout=300)[0]
    rest = ["--data-dir", "tokens", "--resume", "moved", *OPTIONS[8:]]
    process = begin(*rest)
    wait_for_step("moved", 62, process)
    process.kill()
    process.communicate()
    finish(begin(*rest, "--parallel", "ddp", processes=2))
    assert_same_losses("one", "moved")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_worker_that_dies_restarts_from_the_last_checkpoint(folder, parallel):
    words = [*OPTIONS, "--config", "plain.json", "--parallel", parallel]
    finish(begin(*words, "--out", "one", processes=2))
    process = begin(*words, "--out", "dying", processes=2, restarts=2)
    for step in (23, 61):
        wait_for_step("dying", step, process)
        victims = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True,
            encoding="utf-8").stdout.split()
        os.kill(int(victims[-1]), signal.SIGKILL)
        while last_step("dying") >= step and process.poll() is None:
            time.sleep(0.02)                  # until the log was cut back by the restart
            if last_step("dying") > step + 5:
                break
    finish(process)
    assert_same_losses("one", "dying")


def test_a_disk_that_is_full_loses_no_checkpoint(folder):
    import resource

    def only_small_files():       # a checkpoint has 4.8 MB; writing more than 1 MB fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    words = [*OPTIONS, "--config", "plain.json"]
    finish(begin(*words, "--out", "one"))
    process = begin(*words, "--out", "full")
    wait_for_step("full", 16, process)
    process.kill()
    process.communicate()
    kept = sorted(path.name for path in Path("full").glob("checkpoint-*"))
    rest = ["--data-dir", "tokens", "--resume", "full", *OPTIONS[8:]]
    process = begin(*rest, preexec_fn=only_small_files)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 2 and "could not be written" in output
    assert "Traceback" not in output
    assert sorted(path.name for path in Path("full").glob("checkpoint-*")) == kept
    finish(begin(*rest))
    assert_same_losses("one", "full")
