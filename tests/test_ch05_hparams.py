"""The search: finds, prunes, stops, resumes, and says what is luck."""
import csv
import math
import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, load_file

optuna = pytest.importorskip("optuna")
SCRIPT = "ch05/05_bonus_hparam_tuning/hparam_search.py"


@pytest.fixture(scope="module")
def hs():
    return load_file(SCRIPT)


def quiet(line):
    pass


def study_in_memory(hs):
    """Return a study as open_study makes it, without a file: faster."""
    study = optuna.create_study()
    study.enqueue_trial(hs.CHAPTER_5)
    return study


def bowl(settings):
    """A loss with its minimum at a rate of 0.01 and a dropout of 0.1."""
    rate = math.log10(settings["peak_lr"] / 0.01)
    return 2 + rate ** 2 + (settings["drop_rate"] - 0.1) ** 2


def bowl_objective(hs, stop_at=None):
    def objective(trial):
        if stop_at is not None and trial.number == stop_at:
            raise KeyboardInterrupt
        return bowl(hs.suggest(trial))
    return objective


def history(study):
    return [(t.params, t.value, t.state) for t in study.trials
            if t.state != optuna.trial.TrialState.FAIL]


def test_the_search_finds_a_planted_optimum(hs):
    study = study_in_memory(hs)
    hs.search(study, bowl_objective(hs), 40, minutes=1, show=quiet)
    best = hs.complete(study)[0]
    assert study.trials[0].params == hs.CHAPTER_5          # the mark to beat comes first
    assert 0.006 < best.params["peak_lr"] < 0.016
    assert best.value < bowl(hs.CHAPTER_5) - 1
    later = sorted(t.value for t in study.trials[25:])     # and it looks where it is good
    early = sorted(t.value for t in study.trials[1:11])
    assert later[len(later) // 2] < early[len(early) // 2]


@pytest.mark.parametrize("stop_at", [0, 11])
def test_a_search_stopped_and_resumed_equals_one_never_stopped(hs, tmp_path, stop_at):
    whole = study_in_memory(hs)
    hs.search(whole, bowl_objective(hs), 14, minutes=1, show=quiet)
    study = hs.open_study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        hs.search(study, bowl_objective(hs, stop_at=stop_at), 14, minutes=1, show=quiet)
    assert len(hs.finished(study)) == stop_at
    resumed = hs.open_study(tmp_path, resume=True)
    hs.search(resumed, bowl_objective(hs), 14, minutes=1, show=quiet)
    assert history(resumed) == history(whole)


def test_a_killed_trial_does_not_stay_running(hs, tmp_path):
    study = hs.open_study(tmp_path)
    trial = study.ask()                                    # and the process is killed
    resumed = hs.open_study(tmp_path, resume=True)
    hs.search(resumed, bowl_objective(hs), 2, minutes=1, show=quiet)
    assert resumed.trials[trial.number].state == optuna.trial.TrialState.FAIL
    assert len(hs.finished(resumed)) == 2
    assert hs.finished(resumed)[0].params == hs.CHAPTER_5


def test_a_bad_trial_is_pruned_and_a_good_one_is_not(hs):
    study = study_in_memory(hs)
    study.pruner = hs.make_pruner("median", 12)

    def objective(trial):
        number = trial.number
        level = 5.0 if number == 8 else 1.0 if number == 9 else 2 + number / 100
        hs.suggest(trial)
        for epoch in range(1, 13):
            trial.report(level - epoch / 100, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return level

    hs.search(study, objective, 10, minutes=1, show=quiet)
    states = [t.state.name for t in study.trials]
    assert states[8] == "PRUNED" and states[9] == "COMPLETE"
    assert states[:5] == ["COMPLETE"] * 5                  # nothing to compare with yet
    assert len(study.trials[8].intermediate_values) == 3   # a quarter of 12 is free


def test_a_loss_that_is_not_finite_neither_wins_nor_stops_the_search(hs):
    study = study_in_memory(hs)
    values = iter([2.0, math.nan, math.inf, 1.0])
    hs.search(study, lambda trial: hs.suggest(trial) and next(values), 4, minutes=1,
              show=quiet)
    assert [t.value for t in hs.complete(study)] == [1.0, 2.0]
    assert len(hs.finished(study)) == 4


def test_the_time_budget_ends_the_search(hs):
    study = study_in_memory(hs)
    hs.search(study, bowl_objective(hs), 10, minutes=0, show=quiet)
    assert not hs.finished(study)


def test_runs_again_are_kept_and_not_repeated(hs, tmp_path):
    study = hs.open_study(tmp_path)
    hs.search(study, bowl_objective(hs), 5, minutes=1, show=quiet)
    calls = []

    def train(params, seed):
        calls.append(seed)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return bowl(params) + seed / 1000

    with pytest.raises(KeyboardInterrupt):
        hs.run_again(study, train, 2, 3, show=quiet)
    losses = hs.run_again(hs.open_study(tmp_path, resume=True), train, 2, 3, show=quiet)
    assert len(calls) == 1 + 3 * len(losses)
    assert hs.SEED not in calls                            # the search's own luck
    assert list(losses)[:2] == [t.number for t in hs.complete(study)[:2]]
    assert 0 in losses                                     # chapter 5's settings, too


def test_noise_is_not_called_a_difference(hs):
    near = {4: [2.00, 2.02, 1.98], 7: [2.01, 2.03, 1.99], 0: [5.0, 6.0, 7.0]}
    assert hs.noise_of({4: near[4], 7: near[7]}) == pytest.approx(0.02)
    said = hs.conclusion(near, num_best=2)
    assert "trial 4 with 2.0000, inside the noise: trial 7" in said
    far = {4: [2.00, 2.02, 1.98], 7: [2.11, 2.13, 2.09]}
    assert "inside" not in hs.conclusion(far, num_best=2)
    assert "no noise floor" in hs.conclusion({4: [2.0]}, num_best=1)


def test_every_validation_batch_has_one_weight(hs):
    text = "abcdefgh" * 2000
    datasets = hs.make_datasets(text, 64)
    train_loader, val_loader = hs.make_loaders(*datasets, 8)
    sizes = {len(inputs) for inputs, _ in val_loader}
    windows = sum(len(inputs) for inputs, _ in val_loader)
    assert len(sizes) == 1
    assert len(datasets[1]) - len(val_loader) < windows <= len(datasets[1])
    assert len(val_loader.dataset) > 40 and len(train_loader) > 8


def test_training_follows_the_schedule_reports_and_repeats(hs, monkeypatch):
    datasets = hs.make_datasets("the cat sat on the mat. " * 80, 64)
    settings = {**hs.CHAPTER_5, "warmup_share": 0.25, "batch_size": 8}
    rates, seen = [], []
    original = hs.warmup_cosine
    monkeypatch.setattr(hs, "warmup_cosine",
                        lambda *a: rates.append((a[:3], original(*a))) or rates[-1][1])
    first = hs.train_once(settings, 1, datasets, 3, torch.device("cpu"),
                          lambda epoch, loss: seen.append((epoch, loss)))
    steps = 3 * (math.ceil(len(datasets[0]) / 8) // 8)
    assert [r[0] for r in rates] == [(s, steps, round(steps / 4)) for s in range(steps)]
    assert [epoch for epoch, _ in seen] == [1, 2, 3] and seen[-1][1] == first[1]
    assert first == hs.train_once(settings, 1, datasets, 3, torch.device("cpu"))
    assert first[1] != hs.train_once(settings, 2, datasets, 3, torch.device("cpu"))[1]


def test_table_and_plots_hold_pruned_and_failed_trials(hs, tmp_path, capsys):
    study = study_in_memory(hs)
    study.pruner = hs.make_pruner("median", 4)

    def objective(trial):
        if trial.number == 6:
            raise KeyboardInterrupt
        loss = bowl(hs.suggest(trial))
        for epoch in range(1, 5):
            trial.report(loss + 1 / epoch, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    with pytest.raises(KeyboardInterrupt):
        hs.search(study, objective, 20, minutes=1, show=quiet)
    assert study.trials[6].state.name == "FAIL"            # not left as if it ran on
    hs.search(study, objective, 20, minutes=1, show=quiet)
    hs.report_all(study, tmp_path)
    with open(tmp_path / "trials.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21 and rows[6]["state"] == "fail"
    assert float(rows[0]["peak_lr"]) == 5e-4 and rows[0]["epochs"] == "4"
    assert {p.name for p in tmp_path.iterdir()} == {
        "trials.csv", "curves.png", "slices.png"}
    assert all((tmp_path / n).read_bytes()[:4] == b"\x89PNG"
               for n in ("curves.png", "slices.png"))
    said = capsys.readouterr().out
    assert "20 trials" in said and "1. trial" in said


def test_the_pictures_keep_the_rules(hs, tmp_path, monkeypatch):
    import picture_rules
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = []
    save = Figure.savefig

    def checked(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        FigureCanvasAgg(figure).draw()           # its renderer measures the letters
        found.extend(picture_rules.problems(figure))

    monkeypatch.setattr(Figure, "savefig", checked)
    study = study_in_memory(hs)

    def objective(trial):
        loss = bowl(hs.suggest(trial))
        trial.report(loss, 1)
        return loss

    hs.search(study, objective, 12, minutes=1, show=quiet)
    hs.plot_curves(study, tmp_path / "curves.png")
    hs.plot_slices(study, tmp_path / "slices.png")
    assert not found


# --- the command line -----------------------------------------------------------------

def run(*arguments, cwd):
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([sys.executable, str(ROOT / SCRIPT), *arguments], cwd=cwd,
                          env=environment, capture_output=True, encoding="utf-8",
                          timeout=300)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text("The ship's cook was called Ann. She cooked. " * 30, encoding="utf-8")
    return path


def test_quick_runs_as_a_command_and_resumes(hs, tmp_path, story, monkeypatch, capsys):
    out = tmp_path / "ä search"
    first = run("--quick", "--text", str(story), "--out", str(out), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "3 trials, 0 of them pruned" in first.stdout

    def again(*arguments):
        monkeypatch.setattr(sys, "argv", ["hparam_search.py", *arguments])
        hs.run_command(hs.command)

    again("--resume", str(out), "--text", str(story), "--trials", "4", "--seeds", "2",
          "--best", "1")
    assert "4 trials" in capsys.readouterr().out
    other = tmp_path / "other.txt"
    other.write_text(story.read_text(encoding="utf-8") + "!", encoding="utf-8")
    for arguments, word in (
        (["--quick", "--text", str(story), "--out", str(out)], "not overwritten"),
        (["--resume", str(out), "--text", str(other)], "another text"),
        (["--resume", str(out), "--text", str(story), "--epochs", "7"], "--epochs"),
    ):
        with pytest.raises(SystemExit) as left:
            again(*arguments)
        said = capsys.readouterr().err
        assert left.value.code == 2 and said.count("\n") == 1 and word in said


@pytest.mark.parametrize("arguments, word", [
    (["--trials", "0"], "whole number above zero"),
    (["--minutes", "soon"], "number above zero"),
    (["--pruner", "axe"], "invalid choice"),
    (["--resume", "nowhere"], "no study in nowhere"),
    (["--resume", "a", "--out", "b"], "leave out --out"),
    (["--text", "nothing.txt"], "cannot be read"),
    (["--text", "short.txt"], "too short"),
    (["--resume", "broken"], "no whole study"),
])
def test_a_wrong_flag_is_one_line(hs, tmp_path, monkeypatch, capsys, arguments, word):
    (tmp_path / "short.txt").write_text("too short", encoding="utf-8")
    (tmp_path / "story.txt").write_text("Once upon a time. " * 99, encoding="utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.db").write_bytes(b"no database " * 99)
    monkeypatch.chdir(tmp_path)
    if "--text" not in arguments:
        arguments = [*arguments, "--text", "story.txt"]
    monkeypatch.setattr(sys, "argv", ["hparam_search.py", *arguments])
    with pytest.raises(SystemExit) as left:
        hs.run_command(hs.command)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1 and word in said, said
    assert not (tmp_path / "runs").exists()


def test_a_missing_optuna_is_one_line(hs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hs, "optuna", None)
    monkeypatch.setattr(sys, "argv", ["hparam_search.py"])
    with pytest.raises(SystemExit):
        hs.run_command(hs.command)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "requirements-extra.txt" in said
