"""gpt_train.py as a reader uses it: learning, stopping, going on, and bad input."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, load_file

SCRIPT = ROOT / "ch05" / "01_main-chapter-code" / "gpt_train.py"
STORY = ROOT / "ch02" / "01_main-chapter-code" / "the-sign-painter.txt"
CONFIG = {
    "vocab_size": 50257, "context_length": 64, "emb_dim": 16, "n_heads": 2,
    "n_layers": 1, "drop_rate": 0.1, "qkv_bias": False,
}


@pytest.fixture(scope="module")
def gpt_train():
    """The script as a module."""
    return load_file("ch05/01_main-chapter-code/gpt_train.py")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with tiny.json and story.txt."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    shutil.copy(STORY, "story.txt")
    return tmp_path


def settings(**others):
    """Return settings of a short float32 run on the story."""
    return {"learning_rate": 5e-3, "num_epochs": 2, "batch_size": 4, "weight_decay": 0.1,
            "text": "story.txt", "device": "cpu", "dtype": "float32",
            "save_minutes": 0, **others}


def command(*words, **options):
    """Run the script with words; return the finished process."""
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True,
                          text=True, encoding="utf-8", timeout=300, **options)


def test_a_run_learns_and_returns_what_the_book_says(gpt_train, folder, capsys):
    train_losses, val_losses, tokens_seen, model = gpt_train.main(CONFIG, settings())
    assert len(train_losses) == len(val_losses) == len(tokens_seen) > 3
    assert train_losses[0] > 9 and train_losses[-1] < train_losses[0] - 1
    assert tokens_seen[:2] == [4 * 64, 6 * 4 * 64]      # steps 0 and 5
    assert capsys.readouterr().out.count("Every effort moves you") == 2
    run = folder / "runs" / "001"
    assert {p.name for p in run.iterdir()} == {
        "checkpoint.pth", "config.json", "loss.png", "model.pth"}
    chapter = load_file("ch05/01_main-chapter-code/previous_chapters.py")
    plain = chapter.GPTModel(json.loads((run / "config.json").read_text("utf-8")))
    plain.load_state_dict(torch.load(run / "model.pth", weights_only=True))
    ids = torch.arange(10).unsqueeze(0)
    model.eval()
    torch.testing.assert_close(plain.eval()(ids), model(ids), atol=1e-5, rtol=0)


def test_the_default_configuration_is_the_books(gpt_train):
    assert gpt_train.GPT_CONFIG_124M == {
        "vocab_size": 50257, "context_length": 256, "emb_dim": 768, "n_heads": 12,
        "n_layers": 12, "drop_rate": 0.1, "qkv_bias": False}
    book = {"learning_rate": 5e-4, "num_epochs": 10, "batch_size": 2, "weight_decay": 0.1}
    assert {name: gpt_train.SETTINGS[name] for name in book} == book


def test_a_second_run_overwrites_nothing(gpt_train, folder):
    for number in ("001", "002"):
        gpt_train.main(CONFIG, settings(num_epochs=1))
        assert (folder / "runs" / number / "model.pth").exists()
    with pytest.raises(gpt_train.UserError, match="not overwritten"):
        gpt_train.main(CONFIG, settings(out="runs/001"))


def test_ten_steps_and_ten_more_are_twenty_bit_for_bit(gpt_train, folder, monkeypatch):
    whole = gpt_train.main(CONFIG, settings(num_epochs=2, out="whole"))

    def stop_at(step):
        checked = gpt_train.Run.checked

        def press_ctrl_c(run, loss):
            if run.step == step:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            return checked(run, loss)

        monkeypatch.setattr(gpt_train.Run, "checked", press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            gpt_train.main(CONFIG, settings(
                out=None if (folder / "parts").exists() else "parts",
                resume="parts" if (folder / "parts").exists() else None))
        monkeypatch.setattr(gpt_train.Run, "checked", checked)

    stop_at(7)                     # in the middle of the first epoch
    stop_at(17)                    # after the last batch of the first
    stop_at(26)                    # and in the middle of the second
    parts = gpt_train.main(None, settings(resume="parts"))
    assert parts[:3] == whole[:3]
    for name, tensor in whole[3].state_dict().items():
        assert torch.equal(tensor, parts[3].state_dict()[name]), name


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_weights(folder):
    words = ["--config", "tiny.json", "--text", "story.txt", "--device", "cpu",
             "--dtype", "float32", "--save-minutes", "0", "--epochs", "3"]
    assert command(*words, "--out", "whole").returncode == 0
    killed = subprocess.Popen([sys.executable, str(SCRIPT), *words, "--out", "parts"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = folder / "parts" / "checkpoint.pth"
    while not checkpoint.exists() and killed.poll() is None:
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    done = command("--resume", "parts", "--text", "story.txt", "--epochs", "3",
                   "--device", "cpu", "--save-minutes", "0")
    assert done.returncode == 0, done.stderr
    whole, parts = (torch.load(name / Path("checkpoint.pth"), weights_only=True)
                    for name in ("whole", "parts"))
    assert whole["progress"] == parts["progress"]
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name


def test_ctrl_c_on_the_command_line_saves_and_says_how_to_go_on(folder):
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--config", "tiny.json", "--text", "story.txt",
         "--epochs", "5000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0))
    if os.name == "nt":
        process.kill()
        pytest.skip("sending Ctrl-C to a child needs a console on Windows")
    process.stdout.readline()      # the run's folder; then the first evaluation
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors and "Traceback" not in errors
    assert (folder / "runs" / "001" / "checkpoint.pth").exists()


def test_a_full_disk_keeps_the_last_checkpoint(gpt_train, folder, monkeypatch):
    gpt_train.main(CONFIG, settings(num_epochs=1, out="run"))
    before = (folder / "run" / "checkpoint.pth").read_bytes()
    save = torch.save

    def half(state, path):
        save(state, path)
        os.truncate(path, 1000)
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(gpt_train.UserError, match="the one before is kept"):
        gpt_train.main(None, settings(resume="run", num_epochs=2))
    assert (folder / "run" / "checkpoint.pth").read_bytes() == before
    assert not list((folder / "run").glob("*.part"))


def test_a_loss_that_is_not_a_number_stops_the_run(gpt_train, folder):
    with pytest.raises(gpt_train.UserError, match="the loss became .* at step"):
        gpt_train.main(CONFIG, settings(learning_rate=1e30))


def test_the_script_works_alone_in_an_empty_folder(folder):
    for name in ("the-sign-painter.txt", "nothing"):
        assert not (folder / name).exists()
    alone = folder / "alone"
    alone.mkdir()
    shutil.copy(SCRIPT, alone)
    process = subprocess.run(
        [sys.executable, "gpt_train.py", "--config", "../tiny.json", "--epochs", "1",
         "--text", "../story.txt"], cwd=alone, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    process = subprocess.run([sys.executable, "gpt_train.py"], cwd=alone,
                             capture_output=True, text=True, timeout=300)
    assert process.returncode == 2 and "--text FILE" in process.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished tiny run, and damaged copies of its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    other = {**CONFIG, "emb_dim": 32}
    (folder / "other.json").write_text(json.dumps(other), encoding="utf-8")
    (folder / "typo.json").write_text(json.dumps({**CONFIG, "n_head": 2}), encoding="utf-8")
    odd = {**CONFIG, "n_heads": 3}
    (folder / "odd.json").write_text(json.dumps(odd), encoding="utf-8")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    (folder / "list.json").write_text("[1, 2]", encoding="utf-8")
    (folder / "few.json").write_text('{"vocab_size": 9}', encoding="utf-8")
    words = {**CONFIG, "n_heads": "two"}
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "empty.txt").write_text("", encoding="utf-8")
    (folder / "short.txt").write_text("Too short. " * 20, encoding="utf-8")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 10)
    (folder / "nul.txt").write_bytes(b"text\0text")
    shutil.copy(STORY, folder / "story.txt")
    (folder / "story2.txt").write_text(STORY.read_text("utf-8") + " The end.", "utf-8")
    done = command("--config", "tiny.json", "--text", "story.txt", "--epochs", "1",
                   "--out", "run", "--device", "cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    content = (folder / "run" / "checkpoint.pth").read_bytes()
    (folder / "cut.pth").write_bytes(content[:len(content) // 2])
    torch.save({"weights": torch.zeros(3)}, folder / "foreign.pth")
    return folder


@pytest.mark.parametrize("words, named", [
    ("--text none.txt", ["none.txt", "No such file"]),
    ("--text empty.txt", ["empty.txt", "empty"]),
    ("--text binary.txt", ["binary.txt", "UTF-8"]),
    ("--text nul.txt", ["nul.txt", "binary"]),
    ("--text short.txt", ["too short", "tokens"]),
    ("--text .", ["cannot be read"]),
    ("--device tpu", ["tpu"]),
    ("--device xpu:0", ["xpu"]),
    ("--dtype float8", ["float8"]),
    ("--epochs 0", ["--epochs", "above zero"]),
    ("--lr nan", ["--lr", "above zero"]),
    ("--batch_size -1", ["--batch-size", "above zero"]),
    ("--config none.json", ["none.json"]),
    ("--config broken.json", ["broken.json"]),
    ("--config typo.json", ["n_head"]),
    ("--config odd.json", ["n_heads 3"]),
    ("--config words.json", ["n_heads cannot be 'two'"]),
    ("--config list.json", ["list.json", "JSON object"]),
    ("--config few.json", ["few.json", "missing"]),
    ("--out run", ["run", "not overwritten"]),
    ("--resume nowhere", ["nowhere", "no checkpoint"]),
    ("--resume cut.pth", ["cut.pth", "no whole checkpoint"]),
    ("--resume foreign.pth", ["foreign.pth", "no whole checkpoint"]),
    ("--resume tiny.json", ["tiny.json", "no whole checkpoint"]),
    ("--resume run/model.pth", ["model.pth", "no whole checkpoint"]),
    ("--resume run --config other.json", ["another size"]),
    ("--resume run --text story2.txt", ["another text"]),
    ("--resume run --out there", ["--out"]),
    ("--nonsense", ["--nonsense"]),
])
def test_bad_input_is_one_line_and_exit_code_2(
        trained, gpt_train, words, named, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    files = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    words = words.split()
    if "--config" not in words and "--resume" not in words:
        words += ["--config", "tiny.json"]
    if "--text" not in words:
        words += ["--text", "story.txt"]
    monkeypatch.setattr(sys, "argv", ["gpt_train.py", *words])
    with pytest.raises(SystemExit) as left:
        gpt_train.run_command(gpt_train.command)
    errors = capsys.readouterr().err.strip()
    assert left.value.code == 2
    assert errors.count("\n") == 0 and errors.startswith("gpt_train.py: "), errors
    for word in named:
        assert word in errors
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == files


def test_a_device_that_is_not_there_is_named(gpt_train):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(gpt_train.UserError, match="cuda is not on this machine"):
        gpt_train.named_device("cuda")
