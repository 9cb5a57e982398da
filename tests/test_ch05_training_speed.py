"""ch05/10: each rung is the one before plus one idea, and none changes what is learned."""
import json
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module

import pytest
import torch
from helpers import ROOT, clean_modules, definitions

FOLDER = "ch05/10_llm-training-speed"
STORY = ROOT / "ch02" / "01_main-chapter-code" / "the-sign-painter.txt"
CONFIG = {
    "vocab_size": 50257, "context_length": 32, "emb_dim": 16, "n_heads": 2,
    "n_layers": 2, "drop_rate": 0.1, "qkv_bias": False,
}
SMALL = {**CONFIG, "vocab_size": 997}             # for ids that come from no text
STILL = {**SMALL, "drop_rate": 0.0}
NAMES = ["baseline", "mask", "tf32", "fused", "prefetch", "bf16", "native", "sdpa",
         "compile", "vocab", "batch", "ddp"]
CPU = torch.device("cpu")
compile_eagerly = partial(torch.compile, backend="aot_eager")      # traces, builds no C++


@pytest.fixture(scope="module", autouse=True)
def folder():
    """The folder on the path while its tests run: torch.compile imports by name."""
    names = ("ladder", "measure", "00_orig", "01_opt_single_gpu", "02_opt_multi_gpu_ddp")
    with clean_modules(ROOT / FOLDER):
        yield
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def measure(folder):
    """The runner as a module."""
    return import_module("measure")


@pytest.fixture(scope="module")
def ladder(folder):
    """The module of the rungs."""
    return import_module("ladder")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An empty working folder with tiny.json; returns the flags for a tiny run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return ["--config", "tiny.json", "--text", str(STORY), "--device", "cpu"]


def settings(ladder, **others):
    """Return settings of a short run on the story."""
    return {**ladder.SETTINGS, "text": STORY, "device": "cpu", "batch_size": 2,
            "learning_rate": 5e-3, **others}


def batch(number, size=4):
    """Return (inputs, targets), each (size, 32)."""
    ids = torch.randint(0, 997, (size, 33),
                        generator=torch.Generator().manual_seed(number))
    return ids[:, :-1], ids[:, 1:]


def one_process(rung):
    """Return rung without processes, as those of a test run without torchrun."""
    return replace(rung, processes=1)


# --- the rungs ------------------------------------------------------------------------

def test_a_rung_is_the_one_before_and_one_idea(ladder):
    rungs = ladder.ladder()
    assert [rung.name for rung in rungs] == NAMES
    for before, rung in zip(rungs, rungs[1:]):
        changed = {key for key in asdict(rung) if asdict(rung)[key] != asdict(before)[key]}
        assert len(changed) == 2 and "name" in changed, (rung.name, changed)


def test_a_rung_left_out_leaves_its_idea_out_of_all_above(ladder):
    rungs = ladder.ladder(without={"compile": "no compiler", "bf16": "no instructions"})
    assert [r.name for r in rungs] == [n for n in NAMES if n not in ("compile", "bf16")]
    assert not any(rung.compiled or rung.autocast for rung in rungs)


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_a_rung_has_the_baselines_logits_and_sees_no_future(ladder, number):
    models = []
    for rung in (ladder.Rung(), ladder.ladder()[number]):
        torch.manual_seed(123)
        models.append(ladder.build_model(rung, SMALL).eval())
    ids, _ = batch(1)
    with torch.no_grad():
        expected, logits = (model(ids) for model in models)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=rung.autocast):
            rounded = models[1](ids).float()
            torch.testing.assert_close(rounded, expected, atol=3e-2, rtol=0)
        other = ids.clone()
        other[:, 20] = (ids[:, 20] + 1) % 997
        torch.testing.assert_close(models[1](other)[:, :20], logits[:, :20],
                                   atol=1e-5, rtol=0)


def test_the_top_is_the_chapters_fast_model(ladder):
    torch.manual_seed(123)
    fast = definitions("ch05.ipynb").GPTModelFast(SMALL).eval()
    torch.manual_seed(123)
    top = ladder.build_model(ladder.ladder()[-1], SMALL).eval()
    names = {type(module).__name__ for module in top.modules()}
    assert {type(module).__name__ for module in fast.modules()} - names == {"GPTModelFast"}
    torch.testing.assert_close(top(batch(1)[0]), fast(batch(1)[0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", range(1, len(NAMES)), ids=NAMES[1:])
def test_a_rung_learns_what_the_baseline_learns(ladder, number, monkeypatch):
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    losses = []
    for rung in (ladder.Rung(), one_process(ladder.ladder()[number])):
        trainer = ladder.Trainer(rung, STILL, settings(ladder), CPU)
        losses.append([trainer.step(*batch(i)).item() for i in range(4)])
    assert losses[1] == pytest.approx(losses[0], abs=3e-2 if rung.autocast else 1e-4)
    assert losses[0][-1] != losses[0][0]
    torch.set_float32_matmul_precision("highest")


def test_every_switch_is_really_pulled(ladder, monkeypatch):
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    loaders = ladder.feeding(ladder.Rung(prefetch=True), torch.device("cuda"))
    assert loaders["pin_memory"] and loaders["num_workers"] > 0
    for rung in map(one_process, ladder.ladder()):
        trainer = ladder.Trainer(rung, SMALL, settings(ladder), CPU)
        kinds = {type(module).__name__ for module in trainer.model.modules()}
        with trainer.autocast():
            product = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        assert asdict(rung) == {
            **asdict(rung),
            "mask_on_the_fly": "MultiHeadAttention" not in kinds,
            "matmul_precision": torch.get_float32_matmul_precision(),
            "fused_adamw": trainer.optimizer.defaults["fused"] is True,
            "autocast": product == torch.bfloat16,
            "native_layers": {"LayerNormFast", "GELUFast"} <= kinds,
            "sdpa": "MultiHeadAttentionFast" in kinds,
            "compiled": type(trainer.loss_of).__name__ == "OptimizedModule",
            "vocab_multiple": 64 if "GPTModelPadded" in kinds else 1}
    torch.set_float32_matmul_precision("highest")


def test_the_weights_stay_float32_except_where_it_says_otherwise(ladder):
    rungs = ladder.ladder()
    asides = {rung.name: rung for rung in ladder.beside(rungs)}
    assert {asides["bf16-weights"]: "bf16", asides["no-dropout"]: "batch"} \
        == ladder.beside(rungs)
    for rung, dtype in ((rungs[-1], torch.float32), (asides["bf16-weights"],
                                                     torch.bfloat16)):
        model = ladder.build_model(rung, SMALL)
        assert {p.dtype for p in model.parameters()} == {dtype}
    assert not asides["bf16-weights"].autocast
    still = ladder.build_model(asides["no-dropout"], SMALL)
    assert {m.p for m in still.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_spare_rows_of_the_head_are_never_predicted_and_never_learn(ladder):
    rung = replace(ladder.Rung(), vocab_multiple=64)
    trainer = ladder.Trainer(rung, STILL, settings(ladder), CPU)
    plain = ladder.Trainer(ladder.Rung(), STILL, settings(ladder), CPU)
    assert trainer.model.out_head.weight.shape == (1024, 16)
    for i in range(2):
        loss, expected = (t.step(*batch(i)) for t in (trainer, plain))
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    assert trainer.model.out_head.weight[997:].abs().max() == 0
    assert trainer.model(batch(1)[0]).shape == (4, 32, 997)


def test_no_mask_is_stored_from_the_second_rung_on(ladder):
    stored = [any(name.endswith("mask") for name, _ in
                  ladder.build_model(rung, SMALL).named_buffers())
              for rung in ladder.ladder()]
    assert stored == [True] + [False] * (len(NAMES) - 1)


def test_the_books_model_loads_what_the_top_saved(ladder):
    torch.manual_seed(123)
    top = ladder.build_model(ladder.ladder()[-1], SMALL).eval()
    book = ladder.GPTModel(SMALL).eval()
    book.load_state_dict(ladder.book_weights(top, SMALL))
    torch.testing.assert_close(book(batch(1)[0]), top(batch(1)[0]), atol=1e-5, rtol=0)


# --- data -----------------------------------------------------------------------------

def test_all_rungs_train_on_the_same_batches_in_the_same_order(ladder):
    text = STORY.read_text(encoding="utf-8")
    found = []
    for prefetch in (False, True):
        rung = ladder.Rung(prefetch=prefetch)
        loaders = ladder.make_loaders(text, rung, CONFIG, 2, CPU, settings(ladder))
        torch.rand(3 * prefetch)                # what models draw must not matter
        found.append([inputs.tolist() for inputs, _ in loaders.train][:3])
    assert found[0] == found[1]
    assert loaders.train.num_workers > 0 and not loaders.train.pin_memory


def test_a_short_text_gives_four_batches_and_validation_is_never_trained_on(ladder):
    text = STORY.read_text(encoding="utf-8")
    config = {**CONFIG, "context_length": 1024}
    rung = ladder.Rung(batch_factor=4)
    loaders = ladder.make_loaders(text, rung, config, 32, CPU, settings(ladder))
    assert len(loaders.train) == 4
    assert next(iter(loaders.val))[0].shape[1] < 1024      # a tenth of a short story
    assert loaders.evaluated.batch_size == 8               # equal for all rungs
    seen = " ".join(map(str, loaders.train.dataset.target_ids.flatten().tolist()))
    start = " ".join(map(str, loaders.val.dataset.input_ids[0, 1:9].tolist()))
    assert start not in seen


# --- the clock ------------------------------------------------------------------------

def test_the_clock_leaves_evaluation_samples_and_warm_up_out(
        ladder, monkeypatch, capsys):
    now = [0.0]

    def takes(seconds, result=None):
        def function(*arguments):
            now[0] += seconds
            return result
        return function

    class SlowTrainer(ladder.Trainer):
        step = takes(2.0)
        evaluate = takes(1000.0, (1.0, 2.0))

    monkeypatch.setattr(ladder.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(ladder, "generate_and_print_sample", takes(5000.0))
    trainer = SlowTrainer(ladder.Rung(), CONFIG, settings(ladder), CPU)
    loaders = ladder.make_loaders(STORY.read_text(encoding="utf-8"), trainer.rung, CONFIG,
                                  2, CPU, settings(ladder))
    found = ladder.train_model_simple_with_timing(
        trainer, loaders, 3, 5, 1, "Every effort moves you", None, max_steps=200)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 41 and lines[0].endswith("32 tok/s, warm-up")
    assert all(line.endswith("32 tok/s, average 32") for line in lines[1:])
    assert found[2][:2] == [64, 6 * 64] and found[0] == [1.0] * 41


# --- the runner -----------------------------------------------------------------------

def run(module, words, monkeypatch):
    """Run the command of module with words, in this process."""
    monkeypatch.setattr(sys, "argv", ["measure.py", *words])
    module.run_command(module.command)


def test_one_run_measures_all_rungs_and_writes_table_and_chart(
        measure, tiny, tmp_path, monkeypatch, capsys):
    words = [*tiny, "--rounds", "1", "--steps", "1", "--without", "compile",
             "--beside"]
    run(measure, [*words, "--out", "first"], monkeypatch)
    report = json.loads((tmp_path / "first" / "ladder.json").read_text("utf-8"))
    measured = [name for name in NAMES if name != "compile"]
    asides = ["bf16-weights", "no-dropout"]
    assert [row["rung"] for row in report["rows"]] == measured + asides
    page = (tmp_path / "first" / "ladder.md").read_text("utf-8")
    assert page.strip() in capsys.readouterr().out
    assert "compile left out: --without names it" in page
    start = report["rows"][0]["loss"]
    for row in report["rows"]:
        assert row["tokens_per_second"] > 0 and row["loss"] == pytest.approx(start, abs=.5)
        assert f"| {row['rung']} | {row['idea']} |" in page
        switches, turn = row["switches"], row["turns"][0]
        assert round(turn["tokens_per_second"] * turn["step_seconds"]) \
            == 2 * 32 * switches["batch_factor"] * switches["processes"]
    assert report["rows"][-3]["switches"]["processes"] == 2
    assert (tmp_path / "first" / "ladder.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit) as stop:
        run(measure, [*words, "--out", "first"], monkeypatch)
    assert stop.value.code == 2 and "not overwritten" in capsys.readouterr().err


def test_the_runner_measures_a_compiled_rung(measure, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    run(measure, [*tiny, "--rounds", "2", "--steps", "1", "--rungs", "sdpa", "compile"],
        monkeypatch)
    path = tmp_path / "runs" / "001" / "ladder.json"
    sdpa, compiled = json.loads(path.read_text("utf-8"))["rows"]
    assert compiled["switches"]["compiled"] and compiled["compared_with"] == "sdpa"
    assert compiled["loss"] == pytest.approx(sdpa["loss"], abs=0.05)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_slower_rung_is_marked_from_its_ratios_and_says_why(measure):
    for name in measure.IDEAS:
        if name != "baseline":
            why = measure.ON_CPU[name]
            assert measure.verdict([0.9, 0.8], name, CPU) == ("slower", why) and why
            for ratios in ([1.01, 1.02], [0.8, 1.3]):            # small, or only noise
                assert measure.verdict(ratios, name, CPU) == ("no difference", why)
            assert measure.verdict([1.1, 1.2], name, CPU) == ("faster", "")
    assert measure.verdict([0.9], "sdpa", torch.device("cuda")) == ("slower", "")


def test_a_rung_that_does_not_fit_into_memory_is_a_row_not_a_crash(
        measure, tiny, monkeypatch, tmp_path):
    taken = measure.take_turn

    def full(rung, *arguments, **options):
        if rung.name == "mask":
            raise torch.OutOfMemoryError
        return taken(rung, *arguments, **options)

    monkeypatch.setattr(measure, "take_turn", full)
    run(measure, [*tiny, "--rounds", "1", "--steps", "1", "--without", "compile",
                  "--rungs", "baseline", "mask", "tf32"], monkeypatch)
    path = tmp_path / "runs" / "001" / "ladder.json"
    rows = json.loads(path.read_text("utf-8"))["rows"]
    assert rows[1]["note"] == "out of memory"
    assert rows[2]["compared_with"] == "baseline"


def test_flops_are_counted_by_hand_for_the_124m_model(measure, ladder):
    config = {**ladder.GPT_CONFIG_124M, "context_length": 1024}
    matrices = 12 * 12 * 768**2 + 768 * 50257
    assert measure.flops_per_token(config) == 6 * matrices + 6 * 12 * 768 * 1024


def test_without_a_compiler_the_rung_is_left_out_with_one_line(ladder, monkeypatch):
    def broken(function, **options):
        raise RuntimeError("No C++ compiler\nlong\ntrace")

    monkeypatch.setattr(torch, "compile", broken)
    found = ladder.missing(CPU, settings(ladder))
    assert "No C++ compiler" in found["compile"] and "\n" not in found["compile"]


@pytest.mark.parametrize("words, said", [
    (["--rungs", "warp"], "--rungs has no warp"),
    (["--without", "warp"], "--without has no warp"),
    (["--device", "tpu"], "tpu"),
    (["--steps", "0"], "not a whole number above zero"),
    (["--text", "nothing.txt"], "nothing.txt cannot be read"),
    (["--context", "9999"], "the text is too short"),
    (["--config", "small.json"], "vocab_size"),
    (["--rungs", "bf16", "--dtype", "float32"], "--dtype float32 was asked for"),
])
def test_wrong_flags_are_one_line_and_exit_code_2(
        measure, tiny, monkeypatch, capsys, tmp_path, words, said):
    (tmp_path / "small.json").write_text(json.dumps({**CONFIG, "vocab_size": 300}),
                                         encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run(measure, [*tiny, "--without", "compile", *words], monkeypatch)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and said in err and len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


# --- the three scripts ----------------------------------------------------------------

@pytest.mark.parametrize("name", ["00_orig", "01_opt_single_gpu"])
def test_a_script_trains_and_returns_what_the_book_says(
        ladder, tiny, tmp_path, name, capsys):
    script = import_module(name)
    train_losses, val_losses, tokens_seen, model = script.main(
        CONFIG, settings(ladder, max_steps=16, without=["compile"]))
    factor = 1 if name.startswith("00") else 4
    assert tokens_seen[:2] == [factor * 64, 6 * factor * 64]
    assert len(train_losses) == len(val_losses) == 4
    assert train_losses[-1] < train_losses[0] - 0.5
    assert ("Fast" in type(model.trf_blocks[0].att).__name__) == (factor == 4)
    out = capsys.readouterr().out
    assert "Every effort moves you" in out and out.count("average") == 3
    assert {p.name for p in (tmp_path / "runs" / "001").iterdir()} \
        == {"model.pth", "loss.png"}
    torch.set_float32_matmul_precision("highest")


WORKER = """
import json, sys
from importlib import import_module
sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as dist
from ladder import Loaders, Rung, Trainer, World, train
from torch.utils.data import DataLoader, TensorDataset

config, *batches = json.loads(sys.argv[2])
batches = [torch.tensor(pair) for pair in batches]           # (2, 4, 32) each
script = import_module("02_opt_multi_gpu_ddp")


def train_twice(*arguments):
    world = World.from_torchrun()
    trainer = Trainer(Rung(fused_adamw=True, processes=2), config,
                      {"seed": 123, "learning_rate": 5e-3, "weight_decay": 0.1},
                      torch.device("cpu"), world)
    losses = []
    for inputs, targets in batches[:-1]:
        loss = trainer.step(inputs.chunk(2)[world.rank], targets.chunk(2)[world.rank])
        dist.all_reduce(loss)
        losses.append(loss.item() / 2)
    data = DataLoader(TensorDataset(*batches[-1]), 2)
    losses += trainer.evaluate(Loaders(data, data, data), None)
    with open(f"losses{world.rank}.json", "w", encoding="utf-8") as file:
        json.dump(losses, file)
    return train(*arguments)


script.train = train_twice          # in the same process group
sys.argv = sys.argv[2:]
script.command()
assert not dist.is_initialized()
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """One torchrun of the DDP script and of WORKER; returns (its folder, its output)."""
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "worker.py").write_text(WORKER, encoding="utf-8")
    (folder / "tiny.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    batches = [[part.tolist() for part in batch(i)] for i in range(5)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc-per-node", "2", "worker.py", str(ROOT / FOLDER),
         json.dumps([STILL, *batches]), "--config", "tiny.json", "--text", str(STORY),
         "--device", "cpu", "--without", "compile", "--steps", "6", "--out", "run"],
        cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def test_the_ddp_script_trains_in_two_processes_and_one_of_them_speaks(two_processes):
    folder, out = two_processes
    assert "2 x 8 x 32 tokens a step" in out
    assert out.count("Step 000005") == out.count("model.pth") == 1
    assert {p.name for p in (folder / "run").iterdir()} == {"model.pth", "loss.png"}


def test_two_processes_learn_as_one_with_the_same_global_batch(ladder, two_processes):
    first, second = (
        json.loads((two_processes[0] / f"losses{rank}.json").read_text("utf-8"))
        for rank in range(2))
    trainer = ladder.Trainer(ladder.Rung(fused_adamw=True), STILL, settings(ladder), CPU)
    alone = [trainer.step(*batch(i)).item() for i in range(4)]
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch(4)), 2)
    alone += trainer.evaluate(ladder.Loaders(data, data, data), None)
    assert first == second                      # validation is not a part of the data
    assert first == pytest.approx(alone, abs=1e-5)


def test_ranks_are_global_and_gpus_are_local(ladder, monkeypatch):
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    world = ladder.World.from_torchrun()
    assert (world.rank, world.local_rank, world.size) == (5, 1, 8)
    dataset = torch.utils.data.TensorDataset(torch.arange(16))
    assert ladder.sampling(dataset, 123, world)["sampler"].rank == 5


def test_a_failing_process_leaves_the_group(ladder, monkeypatch):
    calls = []
    monkeypatch.setattr(ladder, "ddp_setup", lambda *words: calls.append("joined"))
    monkeypatch.setattr(ladder.dist, "destroy_process_group",
                        lambda: calls.append("left"))
    with pytest.raises(ZeroDivisionError):
        with ladder.process_group(ladder.ALONE, CPU):
            raise ZeroDivisionError
    assert calls == ["joined", "left"]


def test_the_ddp_script_without_torchrun_says_how(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    script = import_module("02_opt_multi_gpu_ddp")
    with pytest.raises(SystemExit) as stop:
        script.run_command(script.command)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "torchrun --standalone" in err
