"""gpt_generate.py as readers call it: what it prints, and what it says if it cannot."""
import json
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, load_file

SCRIPT = ROOT / "ch05/01_main-chapter-code/gpt_generate.py"
CONFIG = {"vocab_size": 50257, "context_length": 12, "emb_dim": 6, "n_heads": 3,
          "n_layers": 2, "drop_rate": 0.1, "qkv_bias": False}


@pytest.fixture
def script(monkeypatch, tmp_path):
    """gpt_generate.py as a module, in an empty working folder without weights."""
    module = load_file(SCRIPT.relative_to(ROOT))
    monkeypatch.delenv("LLM_DATA_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    for name in ("gpt_download", "fetch"):         # each test gets them afresh
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield module
    for name in ("gpt_download", "fetch"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(script, monkeypatch, capsys):
    """Call the script with arguments; return (exit code, stdout, stderr)."""
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gpt_generate.py", *map(str, arguments)])
        code = 0
        try:
            script.run_command(script.command)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()
    return call


@pytest.fixture
def checkpoint(script, tmp_path):
    """A run folder as gpt_train.py writes it."""
    torch.manual_seed(7)
    folder = tmp_path / "runs" / "001"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    torch.save(script.GPTModel(CONFIG).state_dict(), folder / "model.pth")
    return folder


def text_of(output):
    """Return the generated text of a run's output."""
    return output.partition("Output text:\n")[2]


# --- what works -----------------------------------------------------------------------

def test_seeded_runs_are_equal_and_seeds_differ(run, checkpoint):
    code, first, errors = run("--checkpoint", checkpoint)
    assert (code, errors) == (0, "")
    assert text_of(first).startswith("Every effort moves you")
    assert len(text_of(first)) > 40
    assert run("--checkpoint", checkpoint)[1] == first
    assert run("--checkpoint", checkpoint, "--seed", 123)[1] == first
    assert run("--checkpoint", checkpoint, "--seed", 124)[1] != first


def test_defaults_are_the_books(script):
    options = script.parse_arguments([])
    assert (options.prompt, options.device) == ("Every effort moves you", "cpu")
    assert (options.max_new_tokens, options.top_k) == (25, 50)
    assert (options.temperature, options.seed) == (1.0, 123)


def test_text_is_what_the_chapters_generate_gives(script, run, checkpoint):
    """The script adds nothing: same model, same ids; dropout off."""
    model = script.GPTModel(CONFIG).eval()
    model.load_state_dict(torch.load(checkpoint / "model.pth", weights_only=True))
    tokenizer = script.load_gpt2_bpe()
    torch.manual_seed(5)
    prompt = script.text_to_token_ids("Once upon", tokenizer)
    ids = script.generate(model, prompt, 9, 12, temperature=0.7, top_k=4)
    _, output, _ = run("--checkpoint", checkpoint, "--prompt", "Once upon", "--seed", 5,
                       "--max-new-tokens", 9, "--temperature", 0.7, "--top-k", 4)
    assert text_of(output) == script.token_ids_to_text(ids, tokenizer) + "\n"


def test_both_spellings_of_a_flag_are_understood(run, checkpoint):
    dashed = run("--checkpoint", checkpoint, "--top-k", 3, "--max-new-tokens", 4)
    underscored = run("--checkpoint", checkpoint, "--top_k", 3, "--max_new_tokens", 4)
    assert dashed == underscored
    assert dashed[0] == 0


def test_temperature_zero_and_top_k_one_agree(run, checkpoint):
    greedy = run("--checkpoint", checkpoint, "--temperature", 0)
    assert greedy == run("--checkpoint", checkpoint, "--top-k", 1, "--seed", 9)


def test_without_network_the_course_s_model_writes(run):
    code, output, errors = run("--model", "gpt2-mini", "--seed", 3)
    assert (code, errors) == (0, "")
    assert "gpt2-mini: the course's small model" in output
    assert len(text_of(output).split()) > 10
    by_default = run("--seed", 3)[1]
    assert "GPT-2 124M: the course's small model, gpt2-mini" in by_default
    assert text_of(by_default) == text_of(output)


def test_pth_file_with_its_config_beside_it_is_a_checkpoint(run, checkpoint):
    expected = run("--checkpoint", checkpoint)
    assert expected == run("--checkpoint", checkpoint / "model.pth")
    state = torch.load(checkpoint / "model.pth", weights_only=True)
    torch.save({"model_state_dict": state, "optimizer_state_dict": {}},
               checkpoint / "model_and_optimizer.pth")       # as the chapter saves it
    assert expected == run("--checkpoint", checkpoint / "model_and_optimizer.pth")


def test_end_of_text_in_a_prompt_is_one_token(run, checkpoint):
    code, output, errors = run("--checkpoint", checkpoint, "--prompt", "<|endoftext|>A")
    assert (code, errors) == (0, "")
    assert text_of(output).startswith("<|endoftext|>A")


def test_prompt_that_fills_the_context_goes(run, checkpoint):
    code, output, _ = run("--checkpoint", checkpoint, "--prompt", "a" + " a" * 11)
    assert code == 0
    assert text_of(output).startswith("a" + " a" * 11)


def test_script_copied_alone_serves_a_checkpoint(checkpoint, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(SCRIPT, alone)
    shutil.copy(ROOT / "ch02/01_main-chapter-code/gpt2_merges.npz", alone)
    done = subprocess.run(
        [sys.executable, "gpt_generate.py", "--checkpoint", checkpoint], cwd=alone,
        capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Every effort moves you" in done.stdout
    done = subprocess.run([sys.executable, "gpt_generate.py"], cwd=alone,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("gpt_generate.py: gpt_download.py is not beside this")
    assert done.stderr.count("\n") == 1


def test_folder_with_safetensors_is_a_model(script, run, tmp_path, checkpoint):
    save_file = pytest.importorskip("safetensors.torch").save_file
    generator = torch.Generator().manual_seed(2)
    shapes = {"wte": (50257, 6), "wpe": (12, 6), "ln_f": (6,)}
    for n in range(2):
        shapes |= {f"h.{n}.ln_1": (6,), f"h.{n}.ln_2": (6,),
                   f"h.{n}.attn.c_attn": (6, 18), f"h.{n}.attn.c_proj": (6, 6),
                   f"h.{n}.mlp.c_fc": (6, 24), f"h.{n}.mlp.c_proj": (24, 6)}
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator)
        if name not in ("wte", "wpe"):
            state[f"{name}.bias"] = torch.randn(shape[-1], generator=generator)
    folder = tmp_path / "mini"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "n_embd": 6, "n_layer": 2, "n_head": 3, "n_positions": 12,
        "vocab_size": 50257}), encoding="utf-8")
    code, output, errors = run("--model", folder, "--max-new-tokens", 5)
    assert (code, errors) == (0, "")
    assert text_of(output).startswith("Every effort moves you")

    (folder / "model.safetensors").write_bytes(b"cut")
    code, _, errors = run("--model", folder)
    assert code == 2
    assert "model.safetensors is cut short" in errors
    (folder / "config.json").unlink()
    code, _, errors = run("--model", folder)
    assert code == 2
    assert "config.json is missing" in errors


def test_main_takes_the_books_arguments(script, monkeypatch, capsys):
    """gpt_config is read from the loaded model, and the caller's dict is left alone."""
    import gpt_download

    def load_pretrained(base_config, model_size, models_dir):
        assert (model_size, models_dir) == ("124M", "gpt2")
        base_config.update(context_length=12, emb_dim=6, n_heads=3, n_layers=0)
        zeros = torch.zeros(6).numpy()
        return {"blocks": [], "wte": torch.zeros(50257, 6).numpy(),
                "wpe": torch.zeros(12, 6).numpy(), "g": zeros, "b": zeros}

    monkeypatch.setattr(gpt_download, "load_pretrained", load_pretrained)
    config = dict(script.BASE_CONFIG)
    script.main(config, "Hello", "124M", torch.device("cpu"))
    assert config == script.BASE_CONFIG
    assert text_of(capsys.readouterr().out).startswith("Hello")


# --- what does not: one line, exit code 2 ---------------------------------------------

def assert_refused(result, *expected):
    """Check that a run ended in one clear line on stderr."""
    code, output, errors = result
    assert code == 2
    assert errors.startswith("gpt_generate.py: ")
    assert errors.count("\n") == 1 and errors.endswith("\n")
    assert "Traceback" not in errors and "Output text" not in output
    for text in expected:
        assert text in errors


def test_without_weights_the_line_says_what_to_do(run, monkeypatch):
    import gpt_download

    monkeypatch.setattr(gpt_download, "BUNDLED_MODEL", "not/in/this/copy")
    result = run()
    assert_refused(result, "GPT-2 124M could not be had", "gpt_train.py",
                   "--checkpoint runs/001", "gpt2/124M")
    assert "could not" not in result[1]


@pytest.mark.parametrize("arguments, expected", [
    (["--prompt", ""], "The prompt is empty"),
    (["--prompt", "a" + " a" * 12], "13 tokens, the model's context is 12; shorten"),
    (["--temperature", "-0.1"], "--temperature: '-0.1' is no number from 0 on"),
    (["--temperature", "nan"], "--temperature: 'nan' is no number from 0 on"),
    (["--temperature", "warm"], "--temperature: 'warm' is no number"),
    (["--top-k", "0"], "--top-k: '0' is no whole number from 1 on"),
    (["--top_k", "2.5"], "'2.5' is no whole number from 1 on"),
    (["--seed", "-1"], "--seed: '-1' is no whole number from 0 on"),
    (["--seed", str(2**64)], "--seed: "),
    (["--max-new-tokens", "0"], "'0' is no whole number from 1 on"),
    (["--device", "gpu"], "--device gpu is not on this machine; take auto or cpu"),
    (["--model", "124M"], "--model and --checkpoint both name a model"),
    (["--topk", "3"], "unrecognized arguments: --topk"),
    (["--temp", "1"], "unrecognized arguments: --temp"),
])
def test_bad_argument_is_one_line(run, checkpoint, arguments, expected):
    assert_refused(run("--checkpoint", checkpoint, *arguments), expected)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_device_this_machine_lacks_is_one_line(run, checkpoint, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert_refused(run("--checkpoint", checkpoint, "--device", name),
                   f"--device {name} is not on this machine; take auto or cpu")
    assert run("--checkpoint", checkpoint, "--device", "auto")[0] == 0


@pytest.mark.parametrize("cuda, mps, version, expected", [
    (True, True, "2.9.0", "cuda"), (False, True, "2.10.1+x", "mps"),
    (False, True, "2.8.0", "cpu"), (False, False, "2.13.0", "cpu")])
def test_auto_takes_apples_gpu_only_where_it_is_right(
        script, monkeypatch, cuda, mps, version, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "__version__", version)
    assert script.pick_device().type == expected


def test_unknown_model_is_one_line(run):
    assert_refused(run("--model", "125M"), "--model 125M is none of 124M, 355M, 774M",
                   "model.safetensors")


def test_missing_checkpoint_is_one_line(run, checkpoint, tmp_path):
    assert_refused(run("--checkpoint", "runs/999"), "999 does not exist; --checkpoint")
    assert_refused(run("--checkpoint", tmp_path), "model.pth does not exist")
    (checkpoint / "config.json").unlink()
    assert_refused(run("--checkpoint", checkpoint), "config.json does not exist")


def test_truncated_checkpoint_is_one_line(run, checkpoint):
    path = checkpoint / "model.pth"
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert_refused(run("--checkpoint", checkpoint), "model.pth cannot be read; it")


class Harmful:
    """A pickle that leaves a file when it is read."""

    def __reduce__(self):
        return open, ("harm-done", "w")


def test_foreign_checkpoint_is_one_line_and_never_run(run, checkpoint, tmp_path):
    path = checkpoint / "model.pth"
    for content in (torch.ones(3), {"a": 1}, [torch.ones(2)], Harmful(),
                    {"w": Harmful()}):
        torch.save(content, path)
        (tmp_path / "harm-done").unlink(missing_ok=True)
        assert_refused(run("--checkpoint", checkpoint), "model.pth cannot be read; it")
        assert not (tmp_path / "harm-done").exists()
    path.write_text("these are no weights", encoding="utf-8")
    assert_refused(run("--checkpoint", checkpoint), "model.pth cannot be read")
    torch.save({"net.weight": torch.ones(2, 3)}, path)
    assert_refused(run("--checkpoint", checkpoint), "is not the model of", "absent")


@pytest.mark.parametrize("change, expected", [
    ({"emb_dim": 9}, "tok_emb.weight is (50257, 6) instead of (50257, 9)"),
    ({"n_layers": 1}, "trf_blocks.1.att.mask is (12, 12) instead of absent"),
    ({"n_layers": 3}, "trf_blocks.2.att.mask is absent instead of (12, 12)"),
    ({"context_length": 16}, "pos_emb.weight is (12, 6) instead of (16, 6)"),
    ({"qkv_bias": True}, "W_query.bias is absent"),
    ({"n_heads": 4}, "4 heads do not divide emb_dim 6"),
    ({"n_heads": "3"}, "n_heads cannot be '3'"),
    ({"emb_dim": 0}, "emb_dim cannot be 0"),
    ({"drop_rate": 7}, "drop_rate or qkv_bias"),
])
def test_checkpoint_of_another_size_is_one_line(run, checkpoint, change, expected):
    (checkpoint / "config.json").write_text(json.dumps(CONFIG | change), encoding="utf-8")
    assert_refused(run("--checkpoint", checkpoint), "config.json", expected)


@pytest.mark.parametrize("content, expected", [
    ("", "not a JSON object"), ("[1, 2]", "not a JSON object"), ("{", "not a JSON"),
    (json.dumps({"vocab_size": 50257}), "'context_length' is missing")])
def test_damaged_config_is_one_line(run, checkpoint, content, expected):
    (checkpoint / "config.json").write_text(content, encoding="utf-8")
    assert_refused(run("--checkpoint", checkpoint), "config.json: ", expected)


def test_diverged_checkpoint_is_one_line(run, checkpoint):
    state = torch.load(checkpoint / "model.pth", weights_only=True)
    state["final_norm.scale"][2] = torch.nan
    torch.save(state, checkpoint / "model.pth")
    assert_refused(run("--checkpoint", checkpoint), "model.pth holds nan or inf")


@pytest.mark.parametrize("vocab_size", [256, 50304])
def test_model_of_another_tokenizer_is_one_line(script, run, checkpoint, vocab_size):
    config = CONFIG | {"vocab_size": vocab_size}
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save(script.GPTModel(config).state_dict(), checkpoint / "model.pth")
    assert_refused(run("--checkpoint", checkpoint),
                   f"The model knows {vocab_size} tokens, GPT-2's tokenizer 50257")


def test_tokenizer_that_cannot_be_had_is_one_line(script, run, checkpoint, monkeypatch):
    def fail():
        raise ConnectionError("no\nnetwork")
    monkeypatch.setattr(script, "load_gpt2_bpe", fail)
    assert_refused(run("--checkpoint", checkpoint), "gpt2_merges.npz", "beside this")
