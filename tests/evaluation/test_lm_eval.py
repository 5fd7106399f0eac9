"""The lm-eval adapter: the scorer's numbers to the last bit, and those of a transformers export to the last digit shown."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import dualm
from dualm.cli import main
from dualm.errors import UserError
from dualm.language_model import LanguageModel
from dualm.likelihood.modes import MODES, Scoring
from tests import forked
from tests.evaluation.test_tasks import local_yaml
from tests.evaluation.tiny import save_model, write_data
from tests.test_cli import one_line

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval.utils import make_table  # noqa: E402

from dualm.evaluation.lm_eval import DualLM  # noqa: E402

PAIRS = [("The cat sat", " on the mat."), ("", "Once upon a time."), ("ends in a space ", "here"), ("x" * 90, " y" * 8)]
LONG = "A text that is longer than the context of this model, so that it takes some windows to read all of it."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return dualm.load(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def asked(kind: Any, *requests: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, request, 0) for request in requests]


@pytest.mark.parametrize("mode", MODES)
def test_numbers_are_those_of_the_scorer(folder: Path, model: LanguageModel, mode: str) -> None:
    guidance = "0" if mode in ("ar", "prefix") else "0.5"
    arguments = f"run={folder},mode={mode},draws=4,seed=3,guidance={guidance},batch_size=2"
    adapter = DualLM.create_from_arg_string(arguments, {"device": "cpu"})
    how = {"draws": 4, "seed": 3, "guidance": float(guidance), "batch": 2}
    expected = model.score(PAIRS, mode, greedy=True, **how)
    assert adapter.loglikelihood(asked("loglikelihood", *PAIRS)) == [(s.log_likelihood, s.greedy) for s in expected]
    whole = model.score([("", LONG)], mode, **how)
    assert adapter.loglikelihood_rolling(asked("loglikelihood_rolling", (LONG,))) == [whole[0].log_likelihood]


@pytest.mark.parametrize(
    ("mode", "way"), [("ar", "ar"), ("prefix", "prefix"), ("mc", "diffusion"), ("pll", "diffusion")]
)
def test_generation_is_that_of_the_model(model: LanguageModel, mode: str, way: str) -> None:
    adapter = DualLM(model, Scoring(mode, seed=1))
    prompts, stop = ["The cat", "", "A dog"], "e"
    sampled = {"until": [stop], "max_gen_toks": 12, "do_sample": True, "temperature": 0.8, "top_p": 0.9}
    found = adapter.generate_until(asked("generate_until", *((prompt, sampled) for prompt in prompts)))
    how = {"max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 1}
    assert found == model.generate(prompts, way, stop=[stop], **how)
    assert not any(stop in text for text in found)
    greedy = {"until": [], "max_gen_toks": 12}
    mixed = asked("generate_until", ("The cat", greedy), ("The cat", sampled), ("A dog", greedy))
    cold = model.generate(["The cat", "A dog"], way, max_tokens=12, temperature=0.0, seed=1)
    assert adapter.generate_until(mixed)[::2] == cold


def test_a_long_prompt_loses_its_front(model: LanguageModel) -> None:
    adapter, arguments = DualLM(model, Scoring()), {"until": [], "max_gen_toks": 10}
    room = model.context - 1 - 10
    prompt = "é" + "ab" * model.context
    kept = prompt.encode()[-room:].decode()
    one, other = adapter.generate_until(asked("generate_until", (prompt, arguments), (kept, arguments)))
    assert one == other
    torn = "é" * model.context  # an odd number of bytes is left, so that a character is cut in two
    assert adapter.generate_until(asked("generate_until", (torn, arguments)))
    with pytest.raises(UserError, match=f"max_gen_toks: got 99, expected 1 to {model.context - 2}"):
        adapter.generate_until(asked("generate_until", ("a", {"until": [], "max_gen_toks": 99})))


def test_answers_reach_the_cache_of_lm_eval(model: LanguageModel) -> None:
    kept = []

    class Hook:
        def add_partial(self, kind: str, request: tuple[Any, ...], answer: Any) -> None:
            kept.append((kind, request, answer))

    adapter = DualLM(model, Scoring())
    adapter.set_cache_hook(Hook())  # type: ignore[arg-type]
    answers = adapter.loglikelihood(asked("loglikelihood", *PAIRS[:2]))
    assert kept == [("loglikelihood", pair, answer) for pair, answer in zip(PAIRS[:2], answers, strict=True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "plk"}, "mode: got 'plk', expected ar or prefix or mc"),
        ({"draws": "many"}, "draws: got 'many', expected an integer"),
        ({"draws": 0}, "draws: got 0, expected at least 1"),
        ({"guidance": "no"}, "guidance: got 'no', expected a number"),
        ({"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        ({"precision": "fp8"}, "precision: got 'fp8', expected fp32 or bf16"),
        ({"run": "nowhere"}, "nowhere: no such folder, expected a run directory"),
        ({"pretrained": "x"}, "model_args: got pretrained, expected run=PATH and any of mode, draws"),
        ({"run": None}, "model_args: got no run, expected run=PATH"),
    ],
)
def test_bad_arguments(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        DualLM.create_from_arg_obj({"run": str(folder), **arguments})
    assert message in str(error.value)


# ---------------------------------------------------------------- beside transformers


def test_agrees_with_an_export_in_transformers(folder: Path, model: LanguageModel, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from dualm.evaluation.harness import local_tasks

    assert main(["export", str(folder), "--to", str(tmp_path / "export")]) == 0
    tasks = [task for name in ("blimp", "lambada", "piqa", "hellaswag") for task in local_tasks(name, data).values()]
    theirs = {"model": "hf", "model_args": f"pretrained={tmp_path / 'export'},dtype=float32"}
    ours = {"model": "dualm", "model_args": f"run={folder},mode=ar"}
    how = {"device": "cpu", "batch_size": 2, "task_manager": TaskManager(include_defaults=False)}
    tables = [make_table(lm_eval.simple_evaluate(**which, tasks=[*tasks], **how)) for which in (theirs, ours)]
    assert tables[0] == tables[1]
    assert "acc_norm" in tables[0]

    from lm_eval.models.huggingface import HFLM

    hf = HFLM(str(tmp_path / "export"), device="cpu", dtype="float32")
    requests = asked("loglikelihood", *PAIRS)
    for (log_p, greedy), score in zip(hf.loglikelihood(requests), model.score(PAIRS, greedy=True), strict=True):
        assert log_p == pytest.approx(score.log_likelihood, rel=1e-5)
        assert greedy == score.greedy


# ---------------------------------------------------------------- its command line


def run_lm_eval(arguments: str, data: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "mine.yaml").write_text(local_yaml("mine", data / "foundry" / "piqa.jsonl"))
    words = ["lm-eval", "--model", "dualm", "--tasks", str(folder / "mine.yaml"), "--model_args", arguments]
    return forked.run(words, folder, timeout=120)


def test_the_command_line_knows_us(folder: Path, model: LanguageModel, data: Path, tmp_path: Path) -> None:
    from dualm.evaluation.harness import evaluate_benchmark, local_tasks

    done = run_lm_eval(f"run={folder},mode=pll", data, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = evaluate_benchmark(DualLM(model, Scoring("pll")), "piqa", local_tasks("piqa", data))
    (line,) = [line for line in done.stdout.splitlines() if "acc_norm" in line]
    assert f"{100 * expected.score:.2f}" in line
    assert f"{100 * expected.standard_error:.2f}" in line


def test_its_users_mistakes_are_one_line(folder: Path, data: Path, tmp_path: Path) -> None:
    done = run_lm_eval(f"run={folder},mode=plk", data, tmp_path)
    assert done.returncode == 2
    assert "mode: got 'plk', expected ar" in one_line(done.stderr)
