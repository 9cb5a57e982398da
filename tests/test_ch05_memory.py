"""ch05/08: frugal ways of loading are frugal, and give the same model, buffers too."""
import json
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, definitions, load_file

pytest.importorskip("psutil")
FOLDER = "ch05/08_memory_efficient_weight_loading"
SMALL = {"vocab_size": 53, "context_length": 11, "emb_dim": 15, "n_heads": 5,
         "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True}
# about 105 MB, so that peaks stand out from what Python itself does
LARGE = {"vocab_size": 1009, "context_length": 64, "emb_dim": 512, "n_heads": 8,
         "n_layers": 8, "drop_rate": 0.0, "qkv_bias": True}
IDS = torch.tensor([[3, 52, 17, 0, 8, 8, 41]])
CPU = torch.device("cpu")
STRATEGIES = ("baseline", "load_then_move", "load_sequentially",
              "load_sequentially_with_meta", "best_practices",
              "load_individual_weights", "load_with_safe_open")
MEASURED = ("baseline", "load_sequentially_with_meta", "best_practices",
            "load_with_safe_open")


@pytest.fixture(scope="module")
def course():
    return definitions(f"{FOLDER}/memory-efficient-state-dict.ipynb")


@pytest.fixture(scope="module")
def script():
    return load_file(f"{FOLDER}/measure_loading.py")


@pytest.fixture(scope="module")
def written(script, tmp_path_factory):
    """A folder with the small model in all three forms."""
    folder = tmp_path_factory.mktemp("small")
    script.write_checkpoints(folder, SMALL)
    return folder


@pytest.fixture
def nan_in_empty_memory():
    """Whatever is left uninitialised becomes NaN instead of what happens to lie there."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def logits_of(model):
    with torch.no_grad():
        return model.eval()(IDS)


def test_all_ways_of_loading_are_listed(script):
    assert set(script.STRATEGIES) == {"model_only", *STRATEGIES}


@pytest.mark.parametrize("name", STRATEGIES)
def test_parameters_and_buffers_are_right_after_loading(
        script, written, nan_in_empty_memory, name):
    torch.manual_seed(7)                           # other random numbers than the file's
    model = script.STRATEGIES[name](written, SMALL, CPU)
    wanted = torch.load(written / "model.pth", weights_only=True)
    found = model.state_dict()
    assert found.keys() == wanted.keys() and script.names_on_meta(model) == []
    for key, tensor in wanted.items():
        assert torch.equal(found[key], tensor), key
    assert all(p.requires_grad for p in model.parameters())
    right = script.GPTModel(SMALL)
    right.load_state_dict(wanted)
    assert (logits_of(model) - logits_of(right)).abs().max() < 1e-5


def test_the_way_that_copies_parameters_alone_leaves_the_mask_empty(
        course, nan_in_empty_memory):
    # the claim of the lesson's trap; if it stops being true, so does the lesson
    state = course.GPTModel(SMALL).state_dict()
    model = course.empty_model(SMALL)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    assert logits_of(model).isnan().any()
    for _, buffer in model.named_buffers():
        buffer.zero_()
    changed = IDS.clone()
    changed[0, -1] = 30
    with torch.no_grad():
        assert not torch.equal(model(IDS)[:, :-1], model(changed)[:, :-1])
    course.rebuild_masks(model)
    with torch.no_grad():
        assert torch.equal(model(IDS)[:, :-1], model(changed)[:, :-1])


def test_masks_that_are_not_saved_are_rebuilt(course):
    torch.manual_seed(123)
    right = course.GPTModel(SMALL)
    state = {n: t for n, t in right.state_dict().items() if not n.endswith("mask")}
    lean = course.make_mask_lean(course.empty_model(SMALL))
    lean.load_state_dict(state)                    # strict, and content
    assert not logits_of(lean).isfinite().all()
    course.rebuild_masks(lean)
    assert torch.equal(logits_of(lean), logits_of(right))
    assert lean.state_dict().keys() == state.keys()


def test_a_tensor_of_another_shape_is_not_assigned(course):
    model = course.GPTModel(SMALL)
    with pytest.raises(ValueError, match="out_head.weight"):
        course.assign_tensor(model, "out_head.weight", torch.zeros(15, 53))
    course.assign_tensor(model, "final_norm.shift", torch.ones(15))
    assert isinstance(model.final_norm.shift, torch.nn.Parameter)


def test_what_was_left_out_is_named(course):
    with torch.device("meta"):
        model = course.GPTModel(SMALL)
    for name, tensor in course.GPTModel(SMALL).state_dict().items():
        if name not in ("trf_blocks.1.att.mask", "final_norm.shift"):
            course.assign_tensor(model, name, tensor)
    assert set(course.names_on_meta(model)) == {"trf_blocks.1.att.mask",
                                                "final_norm.shift"}


# --- peaks, each in a process of its own ----------------------------------------------

def measured(name, folder):
    """Return what measure_loading.py prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, ROOT / FOLDER / "measure_loading.py", name, folder, "--json",
         "--device", "cpu"], capture_output=True, text=True, encoding="utf-8", timeout=110)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def peaks(script, tmp_path_factory):
    """What measure_loading.py says of four ways, and the size of the weights in GB."""
    folder = tmp_path_factory.mktemp("large")
    weights = sum(script.write_checkpoints(folder, LARGE).values()) / 1e9
    rows = {name: measured(name, folder) for name in MEASURED}
    for name in rows:
        logits = torch.load(folder / f"logits-{name}.pth", weights_only=True)
        wanted = torch.load(folder / "logits-baseline.pth", weights_only=True)
        assert (logits - wanted).abs().max() < 1e-4, name
    for path in (*folder.glob("*.*"), *folder.glob("tensors/*")):
        path.unlink()
    return weights, rows


@pytest.mark.xdist_group("memory")
def test_the_baseline_needs_the_weights_twice(peaks):
    weights, rows = peaks
    assert 1.7 * weights < rows["baseline"]["loading_gb"] < 2.6 * weights


@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize("name", MEASURED[1:])
def test_the_frugal_ways_need_the_weights_once(peaks, name):
    weights, rows = peaks
    assert 0.7 * weights < rows[name]["used_gb"] < 0.75 * rows["baseline"]["used_gb"]


@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize("name", ["best_practices", "load_with_safe_open"])
def test_a_mapped_file_is_read_when_it_is_used(peaks, name):
    weights, rows = peaks
    assert rows[name]["loading_gb"] < 0.3 * weights
    if rows[name]["file_backed_gb"] is not None:                              # Linux
        assert rows[name]["file_backed_gb"] > 0.7 * weights
        assert rows["baseline"]["file_backed_gb"] < 0.3 * weights


@pytest.mark.parametrize("arguments, word", [
    (["baseline", "nowhere"], "config.json"),
    (["fastest", "nowhere"], "invalid choice"),
    (["write", "."], "exists already"),
])
def test_a_wrong_command_line_is_one_line(
        script, tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["measure_loading.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        script.run_command(script.main)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and word in printed.err
    assert printed.err.count("\n") == 1 and printed.out == ""


def test_a_missing_tensor_file_is_named(tmp_path, script):
    script.write_checkpoints(tmp_path, SMALL)
    (tmp_path / "tensors" / "final_norm.shift.pth").unlink()
    with pytest.raises(script.UserError, match="final_norm.shift.pth is missing"):
        script.measure("load_individual_weights", tmp_path, CPU)
