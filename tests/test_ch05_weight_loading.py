"""ch05/02: every loader ends in transformers' logits; what shape checks let through."""
import json
import socket

import pytest
import torch
from helpers import definitions, load_file

pytest.importorskip("transformers")
FOLDER = "ch05/02_alternative_weight_loading"
IDS = torch.tensor([[3, 52, 17, 0, 8, 8, 41], [1, 2, 3, 4, 5, 6, 7]])
SQUARE = ("W_query", "W_key", "W_value", "out_proj")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection is a failed test."""
    def connect(self, address):
        raise AssertionError(f"a loader of local weights went to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="module")
def course():
    """One namespace with the definitions of the three notebooks."""
    module = definitions(f"{FOLDER}/weight-loading-hf-transformers.ipynb")
    for name in ("pytorch", "hf-safetensors"):
        other = vars(definitions(f"{FOLDER}/weight-loading-{name}.ipynb"))
        vars(module).update({k: v for k, v in other.items() if not hasattr(module, k)})
    return module


@pytest.fixture(scope="module")
def gpt_hf(course):
    return course.random_gpt2_hf()


def empty_gpt(course, gpt_hf, **change):
    """Return our model in the sizes of gpt_hf, random."""
    torch.manual_seed(5)
    settings = gpt_hf.config.to_dict()
    return course.GPTModel({**course.our_config(settings), **change}).eval()


def by_object(course, gpt_hf, folder):
    gpt = empty_gpt(course, gpt_hf)
    course.load_weights(gpt, gpt_hf)
    return gpt


def by_file(course, gpt_hf, folder):
    """The file as save_pretrained writes it: names with the prefix transformer."""
    gpt_hf.save_pretrained(folder)
    gpt = empty_gpt(course, gpt_hf)
    course.load_weights_into_gpt(gpt, course.read_params(folder / "model.safetensors"))
    return gpt


def by_published_file(course, gpt_hf, folder):
    """The file as Hugging Face's gpt2: no prefix, masks in it that look like biases."""
    state = {n: t.clone() for n, t in gpt_hf.transformer.state_dict().items()}
    for block in range(gpt_hf.config.n_layer):
        state[f"h.{block}.attn.bias"] = torch.ones(1, 1, 11, 11)
        state[f"h.{block}.attn.masked_bias"] = torch.tensor(-1e4)
    course.save_file(state, folder / "model.safetensors")
    gpt = empty_gpt(course, gpt_hf)
    course.load_weights_into_gpt(gpt, course.read_params(folder / "model.safetensors"))
    return gpt


def by_state_dict(course, gpt_hf, folder, kind="pth"):
    """Through a file in our names, without the head where the format cannot tie."""
    state = by_object(course, gpt_hf, folder).state_dict()
    path = folder / f"model.{kind}"
    if kind == "pth":
        torch.save(state, path)
    else:
        course.save_file({n: t for n, t in state.items() if n != "out_head.weight"}, path)
    return course.load_model(path, course.our_config(gpt_hf.config.to_dict()))


def by_twin(course, gpt_hf, folder):
    return by_state_dict(course, gpt_hf, folder, "safetensors")


@pytest.mark.parametrize(
    "load", [by_object, by_file, by_published_file, by_state_dict, by_twin])
def test_loaded_logits_are_those_of_transformers(course, gpt_hf, tmp_path, load):
    gpt = load(course, gpt_hf, tmp_path)
    assert course.largest_difference(gpt, gpt_hf, IDS) < 1e-4
    assert course.difference_in_double(gpt, gpt_hf, IDS) < 1e-11      # rounding only
    assert course.largest_difference(empty_gpt(course, gpt_hf), gpt_hf, IDS) > 1


def test_no_parameter_of_the_practice_model_has_a_default_value(gpt_hf):
    # a loader that forgets biases or norms would pass on zeros and ones
    for name, parameter in gpt_hf.named_parameters():
        assert not ((parameter == 0) | (parameter == 1)).any(), name
    config = gpt_hf.config
    sizes = [config.vocab_size, config.n_positions, config.n_embd, config.n_head,
             config.n_layer, config.n_embd // config.n_head]
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("name", SQUARE)
def test_a_forgotten_transpose_of_a_square_matrix_is_seen_only_by_logits(
        course, gpt_hf, tmp_path, name):
    gpt = by_object(course, gpt_hf, tmp_path)
    layer = getattr(gpt.trf_blocks[3].att, name)
    source = layer.weight.detach().T                       # as it stands in the file
    layer.weight = course.assign_check(layer.weight, source)          # no complaint
    assert course.largest_difference(gpt, gpt_hf, IDS) > 0.1


@pytest.mark.parametrize("number", [0, 2])
def test_a_forgotten_transpose_of_the_feed_forward_is_refused(
        course, gpt_hf, tmp_path, number):
    layer = by_object(course, gpt_hf, tmp_path).trf_blocks[3].ff.layers[number]
    with pytest.raises(ValueError, match="Shape mismatch"):
        course.assign_check(layer.weight, layer.weight.T)


@pytest.mark.parametrize("write", [by_file, by_published_file])
def test_both_readers_of_hugging_face_files_agree_bit_for_bit(
        course, gpt_hf, tmp_path, write):
    write(course, gpt_hf, tmp_path)
    path = tmp_path / "model.safetensors"
    download = load_file(f"{FOLDER}/gpt_download.py")
    theirs = download.load_gpt2_params_from_safetensors(path)
    ours = course.read_params(path)

    def flat(tree, at=""):
        if isinstance(tree, (dict, list)):
            items = tree.items() if isinstance(tree, dict) else enumerate(tree)
            return {k: v for key, value in items
                    for k, v in flat(value, f"{at}/{key}").items()}
        return {at: tree}

    ours, theirs = flat(ours), flat(theirs)
    assert ours.keys() == theirs.keys() and len(ours) == 4 + 12 * gpt_hf.config.n_layer
    for name, array in ours.items():
        assert array.dtype == "float32" and array.tobytes() == theirs[name].tobytes(), name


def test_sixteen_bit_files_give_float32_models(course, gpt_hf, tmp_path):
    import copy

    half = copy.deepcopy(gpt_hf).half()
    half.save_pretrained(tmp_path)
    gpt = empty_gpt(course, gpt_hf)
    course.load_weights_into_gpt(gpt, course.read_params(tmp_path / "model.safetensors"))
    assert {p.dtype for p in gpt.parameters()} == {torch.float32}
    assert course.largest_difference(gpt, half.float(), IDS) < 1e-4


def test_a_block_too_few_or_too_many_is_an_error(course, gpt_hf, tmp_path):
    gpt_hf.save_pretrained(tmp_path)
    state = course.load_file(tmp_path / "model.safetensors")
    course.save_file({n: t.clone() for n, t in state.items() if ".h.4." not in n},
                     tmp_path / "hole.safetensors")
    with pytest.raises(KeyError):
        course.read_params(tmp_path / "hole.safetensors")
    gpt = empty_gpt(course, gpt_hf, n_layers=6)
    with pytest.raises(ValueError, match="6 blocks, the source 7"):
        course.load_weights(gpt, gpt_hf)


def test_the_copy_shares_no_memory_with_its_source(course, gpt_hf, tmp_path):
    gpt = by_object(course, gpt_hf, tmp_path)
    theirs = {p.untyped_storage().data_ptr() for p in gpt_hf.parameters()}
    assert not theirs & {p.untyped_storage().data_ptr() for p in gpt.parameters()}
    assert all(p.is_contiguous() for p in gpt.parameters())       # can be saved


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_loaded_state_dict_is_tied_and_complete(course, gpt_hf, tmp_path, kind):
    gpt = by_state_dict(course, gpt_hf, tmp_path, kind)
    assert course.is_tied(gpt)
    assert course.count_parameters(gpt) == sum(p.numel() for p in gpt_hf.parameters())
    state = course.read_state_dict(tmp_path / f"model.{kind}")
    state["surplus"] = torch.zeros(1)
    torch.save(state, tmp_path / "surplus.pth")
    with pytest.raises(RuntimeError, match="surplus"):
        course.load_model(tmp_path / "surplus.pth",
                          course.our_config(gpt_hf.config.to_dict()))


def test_a_pickle_that_calls_a_function_is_not_run(course, tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"tok_emb.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        course.read_state_dict(tmp_path / "trap.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("block", [0, 4, 6])
def test_the_first_wrong_hidden_state_names_the_broken_block(
        course, gpt_hf, tmp_path, block):
    gpt = by_object(course, gpt_hf, tmp_path)
    assert max(course.differences(gpt, gpt_hf, IDS)) < 1e-3
    att = gpt.trf_blocks[block].att
    att.W_key, att.W_value = att.W_value, att.W_key
    found = course.differences(gpt, gpt_hf, IDS)
    assert len(found) == gpt_hf.config.n_layer + 1
    assert next(i for i, d in enumerate(found) if d > 1e-2) == block + 1


# --- where the weights come from ------------------------------------------------------

@pytest.fixture
def finder(monkeypatch, tmp_path):
    """local_gpt2.py on a machine with nothing: empty cache, folder and course."""
    module = load_file(f"{FOLDER}/local_gpt2.py")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "course" / "ch05" / "02").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "course/ch05/02/local.py"))
    monkeypatch.chdir(tmp_path / "course/ch05/02")
    return module


def put_model(folder):
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(json.dumps({}), encoding="utf-8")
    return folder


def test_weights_are_looked_for_best_first_and_named(finder, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="gpt2-mini.*hf download openai-comm"):
        finder.find_gpt2_folder()
    course = tmp_path / "course"
    cached = tmp_path / "cache" / "models--openai-community--gpt2"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123abc", encoding="utf-8")
    for folder, word in (
        (course / finder.BUNDLED_MODEL, "gpt2-mini, the course's own"),
        (course / finder.CHAPTER / finder.DOWNLOADED, "OpenAI's, downloaded earlier"),
        (cached / "snapshots" / "0123abc", "OpenAI's, openai-community/gpt2 from Hugg"),
    ):
        put_model(folder)
        assert finder.find_gpt2_folder().resolve() == folder.resolve()
        line = capsys.readouterr().out
        assert word in line and line.count("\n") == 1 and str(tmp_path) not in line


def test_half_a_model_is_passed_over(finder, tmp_path):
    folder = put_model(tmp_path / "course" / finder.CHAPTER / finder.DOWNLOADED)
    (folder / "config.json").unlink()
    whole = put_model(tmp_path / "course" / finder.BUNDLED_MODEL)
    assert finder.find_gpt2_folder() == whole
