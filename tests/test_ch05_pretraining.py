"""pretraining_simple.py: the loss in chunks, the order of the data, exact resuming."""
import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, load_file
from pretraining_corpus import write_corpus

FOLDER = "ch05/03_bonus_pretraining_on_gutenberg"
SCRIPT = ROOT / FOLDER / "pretraining_simple.py"
CONFIG = {"vocab_size": 50257, "context_length": 16, "emb_dim": 8, "n_heads": 2,
          "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True}


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    return load_file(f"{FOLDER}/pretraining_simple.py")


@pytest.fixture(scope="module")
def shards_module():
    """token_shards.py as a module."""
    return load_file(f"{FOLDER}/token_shards.py")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with a small prepared corpus."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tokens")


@pytest.fixture
def start(script, corpus, tmp_path, monkeypatch):
    """A function that makes a Run on the small corpus, with changed settings."""
    monkeypatch.setattr(script, "PROMPTS", ("Once upon",))

    def start(config=None, **changes):
        settings = dataclasses.replace(script.Settings(
            data_dir=str(corpus), steps=20, batch_size=4, warmup_steps=3, eval_freq=5,
            eval_iter=2, print_sample_iter=1000, save_ckpt_freq=1000, device="cpu",
            dtype="float32"), **changes)
        if not (settings.resume or settings.output_dir):
            settings.output_dir = str(tmp_path / "run")
        return script.Run(config or CONFIG, settings, script.World(torch.device("cpu")))

    return start


def weights(run):
    """Return a copy of the run's weights."""
    return {name: p.detach().clone() for name, p in run.bare.named_parameters()}


def same_weights(a, b):
    """Whether two dicts of weights are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses_of(folder):
    """Return what log.jsonl says, without speeds."""
    lines = [json.loads(line) for line in
             (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


# ---- the loss ------------------------------------------------------------------------
@pytest.mark.parametrize("chunk", [1, 8, 37, 1000])
def test_chunked_loss_and_its_gradients_equal_cross_entropy(chunk):
    loss_of = load_file(f"{FOLDER}/chunked_loss.py").chunked_cross_entropy
    torch.manual_seed(0)
    hidden = torch.randn(37, 24, requires_grad=True)
    weight = torch.randn(101, 24, requires_grad=True)
    targets = torch.randint(0, 101, (37,))
    expected = F.cross_entropy(hidden @ weight.T, targets)
    found = loss_of(hidden, weight, targets, chunk)
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(3 * found, (hidden, weight)),
                    torch.autograd.grad(3 * expected, (hidden, weight))):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(loss_of(hidden, weight, targets, chunk), expected)


def test_chunked_loss_in_bfloat16_is_near_and_training_sees_the_evaluated_loss():
    loss_of = load_file(f"{FOLDER}/chunked_loss.py").chunked_cross_entropy
    torch.manual_seed(0)
    hidden = torch.randn(500, 32, requires_grad=True)
    weight = torch.nn.Parameter(0.3 * torch.randn(1000, 32))
    targets = torch.randint(0, 1000, (500,))
    exact = F.cross_entropy(hidden @ weight.T, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        training = loss_of(hidden, weight, targets, 128)
        with torch.no_grad():
            evaluated = loss_of(hidden, weight, targets, 128)
    assert abs(training - exact) < 0.01 and abs(evaluated - exact) < 0.01
    exact_grad, = torch.autograd.grad(exact, weight)
    grad, = torch.autograd.grad(training, weight)
    assert grad.dtype == torch.float32          # accumulated, not rounded, over chunks
    assert (grad - exact_grad).norm() < 0.01 * exact_grad.norm()


def test_a_hopeless_token_does_not_make_the_loss_infinite():
    loss_of = load_file(f"{FOLDER}/chunked_loss.py").chunked_cross_entropy
    hidden = torch.full((2, 4), 50.0, requires_grad=True)
    weight = torch.nn.Parameter(torch.tensor([[1.0] * 4, [-1.0] * 4]))
    loss = loss_of(hidden, weight, torch.tensor([1, 1]))
    loss.backward()
    assert 80 < loss < 90 and torch.isfinite(weight.grad).all()


# ---- the data ------------------------------------------------------------------------
def test_every_window_comes_once_an_epoch_and_each_epoch_is_shuffled_anew(shards_module):
    # ids that are their own position: shard a holds 0 to 4999, shard b 10000 to 12599
    shards = [shards_module.Shard("a", np.arange(5000, dtype="<u2"), ""),
              shards_module.Shard("b", np.arange(10000, 12600, dtype="<u2"), "")]
    order = shards_module.WindowOrder(shards, 16, seed=1)
    epochs = [[order.window(epoch * len(order) + i) for i in range(len(order))]
              for epoch in range(2)]
    assert len(order) >= (5000 + 2600) // 16 - 4              # next to nothing is left out
    for windows in epochs:
        assert all((np.diff(w) == 1).all() and len(w) == 17 for w in windows)
        inputs = np.concatenate([w[:-1] for w in windows])
        assert len(set(inputs.tolist())) == len(inputs)       # no token is input twice
        assert max(w[-1] for w in windows) < 12600
    starts = [[int(w[0]) for w in windows] for windows in epochs]
    assert starts[0] != starts[1]                             # another order
    assert sorted(starts[0]) != sorted(starts[1])             # and cut elsewhere


def test_the_order_is_a_function_of_the_position_alone(shards_module, corpus):
    def fresh(seed=1):
        return shards_module.WindowOrder(
            shards_module.read_shards(corpus, "train"), 16, seed)

    once = fresh()
    for i in range(600):
        once.window(i)
    np.testing.assert_array_equal(once.batch(600, 5), fresh().batch(600, 5))
    np.testing.assert_array_equal(once.batch(3, 2), fresh().batch(3, 2))   # and back
    assert (fresh(1).batch(0, 4) != fresh(2).batch(0, 4)).any()


def test_a_repeated_source_comes_as_often_as_asked(shards_module):
    shards = [shards_module.Shard("a", np.arange(5000, dtype="<u2"), ""),
              shards_module.Shard("b", np.arange(10000, 12600, dtype="<u2"), "")]
    a, b = (shard.num_windows(16) for shard in shards)
    order = shards_module.WindowOrder(shards, 16, seed=1, repeats={"a": 0.5, "b": 2})
    assert order.counts.tolist() == [round(0.5 * a), 2 * b]
    halves = []
    for epoch in range(2):
        starts = [int(order.window(epoch * len(order) + i)[0]) for i in range(len(order))]
        of_b = Counter(start for start in starts if start >= 10000)
        assert len(of_b) == b and set(of_b.values()) == {2}
        halves.append({(start - order.phases[0]) // 16 for start in starts
                       if start < 10000})
    # half of a in one epoch, the other half in the next
    assert len(halves[0] | halves[1]) == min(a, 2 * len(halves[0]))


def test_a_damaged_corpus_is_named(shards_module, corpus, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    shard = copy / "train-tales-0000.bin"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    shards_module.read_shards(copy, "train")                     # size is right
    with pytest.raises(shards_module.ShardError, match="train-tales-0000.bin is damaged"):
        shards_module.read_shards(copy, "train", verify=True)
    shard.write_bytes(data[:-2])
    with pytest.raises(shards_module.ShardError, match="9,998 bytes"):
        shards_module.read_shards(copy, "train")
    shard.unlink()
    with pytest.raises(shards_module.ShardError, match="cannot be read"):
        shards_module.read_shards(copy, "train")
    with pytest.raises(shards_module.ShardError, match="no index.json"):
        shards_module.read_shards(tmp_path / "nowhere", "train")


# ---- training ------------------------------------------------------------------------
def test_the_learning_rate_follows_the_table(script):
    settings = script.Settings(steps=110, warmup_steps=10, lr=1.0, min_lr=0.1)
    table = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 35: 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2,
             60: 0.55, 110: 0.1}
    for step, rate in table.items():
        assert script.learning_rate(step, settings) == pytest.approx(rate), step
    without = script.Settings(steps=10, warmup_steps=0, lr=1.0, min_lr=0.1)
    assert script.learning_rate(0, without) == 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_group_gets_the_rate_of_the_step(script, start, optimizer):
    run = start(optimizer=optimizer)
    run.train_step()
    run.train_step()
    share = 2 / 3                       # the second of three steps of warm-up
    rates = {type(o).__name__: [g["lr"] for g in o.param_groups] for o in run.optimizers}
    assert rates["AdamW"] == pytest.approx([3e-3 * share] * 2)
    if optimizer == "muon":
        assert rates["Muon"] == pytest.approx([2e-2 * share])


def test_each_weight_has_one_optimizer_and_vectors_do_not_decay(script, start):
    run = start(optimizer="muon")
    counts = Counter(id(p) for o in run.optimizers for g in o.param_groups
                     for p in g["params"])
    assert set(counts.values()) == {1}
    assert counts.keys() == {id(p) for p in run.bare.parameters()}
    for o in run.optimizers:
        for group in o.param_groups:
            assert all((p.dim() >= 2) == (group["weight_decay"] > 0)
                       for p in group["params"])


def test_a_run_learns(script, start):
    run = start(lr=5e-2, steps=40)
    script.train(run)
    lines = losses_of(run.out)
    train = [line["loss"] for line in lines if line["kind"] == "train"]
    valid = [line["losses"] for line in lines if line["kind"] == "valid"]
    assert len(train) == 40 and [*valid[0]] == ["tales_valid", "letters_valid"]
    assert train[0] > 10.7 and train[-1] < train[0] - 1
    assert valid[-1]["letters_valid"] < valid[0]["letters_valid"] - 0.5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ten_steps_resume_ten_steps_equal_twenty_bit_for_bit(script, start, tmp_path,
                                                             optimizer):
    config = {**CONFIG, "drop_rate": 0.2}             # random numbers in every step
    changes = {"optimizer": optimizer, "save_ckpt_freq": 10}
    whole = start(config, output_dir=str(tmp_path / "whole"), **changes)
    script.train(whole)

    class Killed(Exception):
        pass

    half = start(config, output_dir=str(tmp_path / "half"), **changes)
    step = half.train_step

    def dies_in_step_14(stop=()):
        if half.step == 13:
            raise Killed
        return step(stop)

    half.train_step = dies_in_step_14
    with pytest.raises(Killed):
        script.train(half)
    assert losses_of(half.out)[-1]["step"] == 13       # more than the checkpoint knows
    torch.manual_seed(999)
    # what the command line says of rate and length does not count on resuming
    again = start(resume=str(tmp_path / "half"), lr=1.0, steps=500)
    assert again.step == 10 and again.settings.steps == 20
    script.train(again)
    assert same_weights(weights(whole), weights(again))
    assert losses_of(whole.out) == losses_of(again.out)


def test_micro_batches_give_the_gradient_of_the_whole_batch(script, start, tmp_path):
    runs = [start(output_dir=str(tmp_path / str(size)), micro_batch_size=size)
            for size in (4, 2, 1)]
    for _ in range(3):
        results = [run.train_step() for run in runs]
        for loss, norm, _ in results[1:]:
            assert loss == pytest.approx(results[0][0], abs=1e-5)
            assert norm == pytest.approx(results[0][1], rel=1e-4)


def test_gradients_are_clipped_before_the_step(start, tmp_path):
    free = start(max_norm=1e9, output_dir=str(tmp_path / "free"))
    clipped = start(max_norm=1e-3, output_dir=str(tmp_path / "clipped"))
    seen = []
    for run in (free, clipped):
        run.optimizers[0].step = lambda run=run: seen.append(torch.nn.utils.get_total_norm(
            [p.grad for p in run.bare.parameters()]).item())
        norm = run.train_step()[1]
        assert norm == pytest.approx(seen[0], rel=1e-4)       # before clipping
    assert seen[1] == pytest.approx(1e-3, rel=1e-2)


def test_the_head_is_the_embedding_and_logits_equal_transformers(script, tmp_path):
    from transformers import GPT2LMHeadModel

    torch.manual_seed(0)
    model = script.GPTModelTied(CONFIG).eval()
    for p in model.parameters():              # no weight 0, none 1: no mix-up is hidden
        p.data = (p.data + 0.1 * torch.randn_like(p)).half().float()
    assert not any("out_head" in name for name in model.state_dict())
    script.save_as_gpt2(model.state_dict(), CONFIG, tmp_path / "model")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert theirs.lm_head.weight.data_ptr() == theirs.transformer.wte.weight.data_ptr()
    ids = torch.randint(0, 50257, (3, 13))
    with torch.no_grad():
        expected = theirs.eval()(ids).logits
        torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-4)
        loss = F.cross_entropy(expected[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        torch.testing.assert_close(model(ids[:, :-1], ids[:, 1:]), loss, atol=1e-4,
                                   rtol=1e-4)


def test_what_was_saved_is_what_the_chapter_loads(script, tmp_path):
    download = load_file("ch05/01_main-chapter-code/gpt_download.py")
    chapter = load_file("ch05/01_main-chapter-code/gpt_generate.py")
    torch.manual_seed(0)
    model = script.GPTModelTied(CONFIG).eval()
    for p in model.parameters():
        p.data = (p.data + 0.1 * torch.randn_like(p)).half().float()
    script.save_as_gpt2(model.state_dict(), CONFIG, tmp_path / "model")
    config, params = download.load_model_folder(tmp_path / "model")
    gpt = chapter.GPTModel({**config, "drop_rate": 0.0})
    chapter.load_weights_into_gpt(gpt, params)
    ids = torch.randint(0, 50257, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(gpt.eval()(ids), model(ids), atol=1e-5, rtol=1e-4)


# ---- what goes wrong -----------------------------------------------------------------
@pytest.mark.parametrize("place, named", [
    ("weight", r"weight trf_blocks\.1\.ff\.layers\.0\.weight"),
    ("output", r"output of trf_blocks\.0\.att\.W_query"),
])
def test_a_value_that_is_not_finite_stops_before_the_weights(script, start, place, named):
    run = start()
    run.train_step()
    if place == "weight":
        run.bare.trf_blocks[1].ff.layers[0].weight.data[3, 2] = torch.nan
    else:          # an overflow in the forward pass, all weights finite
        run.bare.trf_blocks[0].att.W_query.weight.data.fill_(3e38)
    before = weights(run)
    with pytest.raises(script.UserError, match=rf"step 1: .*{named}"):
        run.train_step()
    after = weights(run)
    assert all(torch.equal(before[name], after[name], ) or name.endswith("0.weight")
               for name in before)
    torch.testing.assert_close(before, after, equal_nan=True, rtol=0, atol=0)


def test_the_last_two_checkpoints_are_kept_and_a_full_disk_loses_none(
        script, start, monkeypatch):
    run = start()
    for _ in range(4):
        run.train_step()
        run.save()
    names = [p.name for p in script.checkpoints(run.out)]
    assert names == ["checkpoint-0000003.pth", "checkpoint-0000004.pth"]
    contents = [p.read_bytes() for p in script.checkpoints(run.out)]
    run.train_step()

    def disk_fills(state, path):
        Path(path).write_bytes(b"half of it")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")

    monkeypatch.setattr(torch, "save", disk_fills)
    with pytest.raises(script.UserError, match="could not be written.*--resume"):
        run.save()
    assert [p.read_bytes() for p in script.checkpoints(run.out)] == contents
    assert not list(run.out.glob("*.part"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(script, start, capsys):
    run = start()
    run.train_step()
    run.save()
    run.train_step()
    run.save()
    newest = script.checkpoints(run.out)[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    assert start(resume=str(run.out)).step == 1
    assert "checkpoint-0000002.pth cannot be read" in capsys.readouterr().err


def test_other_data_is_refused_on_resume(script, start, tmp_path):
    run = start()
    run.train_step()
    run.save()
    other = write_corpus(tmp_path / "other", seed=5)
    with pytest.raises(script.UserError, match="other shards"):
        start(resume=str(run.out), data_dir=str(other))


def test_samples_do_not_disturb_training(start, tmp_path):
    config = {**CONFIG, "drop_rate": 0.2}
    quiet = start(config, output_dir=str(tmp_path / "a"))
    loud = start(config, output_dir=str(tmp_path / "b"))
    for run in (quiet, loud):
        for _ in range(2):
            run.train_step()
            if run is loud:
                first = run.sample(5)
                assert first == run.sample(5)        # seeded: the same for every look
                run.evaluate()
    assert same_weights(weights(quiet), weights(loud))


def command(*words, **options):
    """Run the script with words; return the finished process."""
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True,
                          text=True, encoding="utf-8", timeout=300, **options)


@pytest.mark.parametrize("words, said", [
    (["--data-dir", "nowhere"], "nowhere does not exist"),
    (["--data-dir", "."], "has no file that ends in .txt"),
    (["--repeat", "novels=2"], "no source novels"),
    (["--repeat", "tales"], "is not SOURCE=TIMES"),
    (["--batch-size", "6", "--micro-batch-size", "4"], "take a multiple of 4"),
    (["--resume", "x", "--debug"], "leave out --output-dir"),
    (["--resume", "."], "holds no checkpoint"),
    (["--lr", "-1"], "not a number above zero"),
    (["--debug", "perhaps"], "neither true nor false"),
])
def test_bad_input_is_one_line_and_exit_code_2(script, corpus, tmp_path, monkeypatch,
                                               capsys, words, said):
    monkeypatch.chdir(tmp_path)
    data = [] if "--data-dir" in words else ["--data-dir", str(corpus)]
    monkeypatch.setattr(sys, "argv", ["pretraining_simple.py", *data, *words])
    with pytest.raises(SystemExit) as left:
        script.run_command(script.command)
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_script_trains_from_a_folder_of_text(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    story = (ROOT / "ch02/01_main-chapter-code/the-sign-painter.txt").read_text(
        encoding="utf-8")
    third = len(story) // 3
    for i in range(3):
        (texts / f"part{i}.txt").write_text(story[i * third:(i + 1) * third],
                                            encoding="utf-8")
    done = command("--data", "texts", "--debug", "true", "--steps", "4", "--device", "cpu",
                   "--eval_iter", "1", "--batch_size", "8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "held-out loss" in done.stdout
    run = tmp_path / "runs" / "001"
    assert {p.name for p in run.iterdir()} == {
        "checkpoint-0000004.pth", "config.json", "settings.json", "log.jsonl",
        "loss.png", "model"}
    assert {p.name for p in (run / "model").iterdir()} == {
        "model.safetensors", "config.json"}
    again = command("--data", "texts", "--resume", "runs/001", cwd=tmp_path)
    assert again.returncode == 0 and "0%" not in again.stdout
