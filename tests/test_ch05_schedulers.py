"""Learning rate schedules: tables, PyTorch's counterparts, warm-up of zero, clipping."""
import ast
import math

import notebooks
import pytest
import torch
from helpers import definitions, load_file
from torch.optim import lr_scheduler

NOTEBOOK = "learning-rate-schedulers.ipynb"
NUM_STEPS = 135
STEPS = range(NUM_STEPS)


@pytest.fixture(scope="module")
def lesson():
    return definitions(NOTEBOOK)


def trace(make, peak_lr=1e-3, num_steps=NUM_STEPS):
    """Return the rates that a PyTorch scheduler gives an optimizer."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak_lr)
    scheduler, rates = make(optimizer), []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_warmup_and_cosine_give_appendix_d_table(lesson):
    table = {0: 1e-5, 1: 1e-5 + 9.9e-4 / 27, 13: 1e-5 + 13 / 27 * 9.9e-4, 27: 1e-3,
             54: 1e-5 + 4.95e-4 * (1 + math.cos(math.pi / 4)), 81: 5.05e-4,
             134: 1e-5 + 4.95e-4 * (1 + math.cos(math.pi * 107 / 108))}
    for step, lr in table.items():
        found = lesson.warmup_cosine(step, 135, 27, 1e-3, 1e-5, 1e-5)
        assert found == pytest.approx(lr, rel=1e-12), step


@pytest.mark.parametrize("name", ["warmup_cosine", "warmup_stable_decay"])
def test_no_warmup_does_not_divide_by_zero_and_starts_at_the_peak(lesson, name):
    extra = {"decay_steps": 20} if name == "warmup_stable_decay" else {}
    rate = getattr(lesson, name)
    settings = dict(total_steps=100, warmup_steps=0, peak_lr=1e-3, initial_lr=1e-5,
                    min_lr=1e-5, **extra)
    rates = [rate(step, **settings) for step in range(101)]
    assert rates[0] == 1e-3 and rates[100] == pytest.approx(1e-5)
    assert all(a >= b for a, b in zip(rates, rates[1:]))
    all_warmup = {**settings, "warmup_steps": 100, **({"decay_steps": 0} if extra else {})}
    assert rate(100, **all_warmup) > 0          # nothing left to come down in


def test_a_prolonged_run_stays_at_the_minimum(lesson):
    assert lesson.warmup_cosine(500, 135, 27, 1e-3, 1e-5, 1e-6) == pytest.approx(1e-6)
    assert lesson.warmup_stable_decay(
        500, 135, 27, 30, 1e-3, 1e-5, 1e-6) == pytest.approx(1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("warmup", [0, 1, 27])
def test_cosine_equals_torchs(lesson, warmup):
    def make(optimizer):
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, 135 - warmup, eta_min=1e-5)
        if warmup == 0:
            return cosine
        climb = lr_scheduler.LinearLR(optimizer, 1e-2, 1.0, warmup)
        return lr_scheduler.SequentialLR(optimizer, [climb, cosine], [warmup])

    ours = [lesson.warmup_cosine(s, 135, warmup, 1e-3, 1e-5, 1e-5) for s in STEPS]
    assert trace(make) == pytest.approx(ours, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_wsd_equals_torchs(lesson):
    def make(optimizer):
        return lr_scheduler.SequentialLR(optimizer, [
            lr_scheduler.LinearLR(optimizer, 1e-2, 1.0, 27),
            lr_scheduler.ConstantLR(optimizer, 1.0, 0),
            lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, 35)], [27, 100])

    ours = [lesson.warmup_stable_decay(s, 135, 27, 35, 1e-3, 1e-5, 1e-6) for s in STEPS]
    assert ours[27] == ours[99] == ours[100] == 1e-3 > ours[101]
    assert trace(make) == pytest.approx(ours, rel=1e-9)


def test_steps_equal_torchs(lesson):
    ours = [lesson.step_decay(s, 1e-3, 30, 0.5) for s in STEPS]
    assert trace(lambda o: lr_scheduler.StepLR(o, 30, 0.5)) == pytest.approx(ours)
    assert {lesson.constant(s, 1e-3) for s in STEPS} == {1e-3}


def test_highest_gradient_does_not_lose_the_negative_ones(lesson):
    model = torch.nn.Linear(2, 1)
    assert lesson.find_highest_gradient(model) is None
    model.weight.grad = torch.tensor([[0.1, -3.0]])
    model.bias.grad = torch.tensor([2.0])
    assert lesson.find_highest_gradient(model) == 3.0


def test_noise_is_not_called_a_difference(lesson):
    assert "inside the noise" in lesson.verdict([1.0, 1.2, 0.9], [1.1, 1.0, 1.0])
    assert lesson.verdict([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]).endswith("differs")


def test_training_uses_the_schedule_and_reports_the_norm_before_clipping(lesson):
    # train() reads datasets of the notebook; hand it tiny ones
    lesson.train_set = lesson.GPTDatasetV1("abcd" * 40, lesson.ByteTokenizer(), 64, 8)
    lesson.val_set = lesson.train_set
    asked = []

    def schedule(step):
        asked.append(step)
        return 1e-3

    loss, record = lesson.train(schedule, seed=1, total_steps=3, max_norm=1e-3)
    again, _ = lesson.train(lambda step: 1e-3, seed=1, total_steps=3, max_norm=1e-3)
    frozen, _ = lesson.train(lambda step: 0.0, seed=1, total_steps=3)
    assert asked == [0, 1, 2] and loss == again != frozen
    assert all(norm > 1e-3 for norm in record["norm"])


def test_bytes_come_back_as_they_were(lesson):
    tokenizer = lesson.ByteTokenizer()
    text = "naïve 漢字\t😀"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode(text)) < 256


def test_the_search_uses_the_lessons_schedule(lesson):
    chapters = load_file("ch05/05_bonus_hparam_tuning/previous_chapters.py")
    assert chapters.warmup_cosine(81, 135, 27, 1e-3, 1e-5, 1e-5) == pytest.approx(5.05e-4)


def test_cells_that_train_are_not_compared_between_machines():
    """Losses of 400 steps depend on the last bit of the first; their noise is printed."""
    book = notebooks.read(notebooks.ROOT / "ch05/04_learning_rate_schedulers" / NOTEBOOK)
    for cell in book.cells:
        calls = cell.cell_type == "code" and "train(" in cell.source
        if calls and "def train(" not in cell.source:
            kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
            assert ast.Assert not in kinds, cell.source
            assert "varies" in notebooks.tags_of(cell), cell.source
