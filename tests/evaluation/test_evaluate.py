"""`dualm evaluate`: no measurement overwrites another, mistakes are found before the model is loaded, a kind is one record."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from dualm.cli import main
from dualm.evaluation.evaluate import KINDS
from dualm.evaluation.kind import Kind, add_scoring
from dualm.evaluation.result_files import distinguishing, file_name
from dualm.language_model import LanguageModel
from dualm.likelihood.modes import Scoring
from tests.evaluation.tiny import QUESTIONS, save_model, write_lines, written
from tests.test_cli import one_line


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with the same model, the same text, the same prompts and the same benchmark."""
    work = tmp_path_factory.mktemp("work")
    for name in ("a", "b"):
        save_model(work / name / "model", context=24)
        (work / name / "test.txt").write_text("Call me Ishmael. Some years ago.")
        write_lines(
            work / name / "test.jsonl", [{"prompt": "why", "response": " not"}, {"prompt": "how", "response": ""}]
        )
        write_lines(work / name / "data" / "piqa.jsonl", QUESTIONS)
    return work


def evaluate(work: Path, out: Path, words: str) -> None:
    filled = words.format(work=work).split()
    model = [] if filled[0].startswith("/") else [str(work / "a/model")]
    assert main(["evaluate", *model, *filled, "--device", "cpu", "--out", str(out)]) == 0


TEXT, ANSWERS, TASKS = "--text {work}/a/test.txt", "--answers {work}/a/test.jsonl", "--tasks piqa --data {work}/a/data"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{TEXT} --modes pll", f"{TEXT} --modes pll --guidance 0.5"),
        (f"{TEXT} --modes pll", f"{TEXT} --modes pll --mask-padding 24"),
        (f"{TEXT} --modes mc", f"{TEXT} --modes mc --draws 4"),
        (f"{TEXT} --modes mc --draws 2", f"{TEXT} --modes mc --draws 2 --seed 1"),
        (f"{TEXT} --modes ar", f"{TEXT} --modes ar --stride 5"),
        (f"{TEXT} --modes ar", f"{TEXT} --modes ar --precision bf16"),
        (f"{TEXT} --modes ar", f"{TEXT} --modes prefix"),
        ("--text {work}/a/test.txt --modes ar", "--text {work}/b/test.txt --modes ar"),
        (f"{{work}}/a/model {TEXT} --modes ar", f"{{work}}/b/model {TEXT} --modes ar"),
        (f"{ANSWERS} --modes ar", f"{ANSWERS} --modes ar --match begins"),
        (f"{ANSWERS} --modes diffusion --steps 2", f"{ANSWERS} --modes diffusion --steps 3"),
        (f"{ANSWERS} --modes diffusion", f"{ANSWERS} --modes diffusion --sampler ancestral"),
        (f"{ANSWERS} --modes diffusion", f"{ANSWERS} --modes diffusion --two-stage #"),
        (f"{ANSWERS} --modes diffusion", f"{ANSWERS} --modes diffusion --guidance 0.5"),
        (f"{ANSWERS} --modes ar", f"{ANSWERS} --modes ar --limit 1"),
        (f"{ANSWERS} --modes ar", "--answers {work}/b/test.jsonl --modes ar"),
        (f"{TASKS} --modes pll", f"{TASKS} --modes pll --guidance 0.5"),
        (f"{TASKS} --modes ar", f"{TASKS} --modes ar --limit 1"),
        (f"{TASKS} --modes ar", "--tasks piqa --data {work}/b/data --modes ar"),
    ],
)
def test_another_measurement_gets_files_of_its_own(work: Path, tmp_path: Path, one: str, other: str) -> None:
    if "--tasks" in one:
        pytest.importorskip("lm_eval")
    evaluate(work, tmp_path, one)
    first = {path: path.read_bytes() for path in tmp_path.iterdir()}
    evaluate(work, tmp_path, other)
    assert len(first) == 2
    assert len(list(tmp_path.iterdir())) == 4
    assert all(path.read_bytes() == content for path, content in first.items())
    measured = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len({json.dumps([content["model"], content["settings"]]) for content in measured}) == 2


@pytest.mark.parametrize("words", [f"{TEXT} --modes ar", f"{ANSWERS} --modes ar"])
def test_the_same_measurement_again_replaces_its_own_files(
    work: Path, tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(work, tmp_path, words)
    evaluate(work, tmp_path, words + " --batch 3 --show 1")
    monkeypatch.chdir(work / "a")
    evaluate(work, tmp_path, words.replace("{work}/a/", ""))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_file_says_what_its_name_distinguishes(work: Path, tmp_path: Path) -> None:
    evaluate(work, tmp_path, f"{TEXT} --modes ar,mc --draws 2 --seed 1")
    found = written(tmp_path)
    assert found["model"] == str((work / "a/model").resolve())
    assert found["settings"] == {
        "precision": "fp32",
        "files": [str((work / "a/test.txt").resolve())],
        "scorings": [asdict(Scoring(mode, draws=2, seed=1)) for mode in ("ar", "mc")],
        "stride": None,
    }
    (path,) = tmp_path.glob("*.json")
    about = {key: found[key] for key in ("model", "settings")}
    assert path.stem == file_name(("test", "ar+mc"), about)


def test_every_field_of_scoring_has_an_option_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_scoring(parser.add_argument_group())
    defaults = vars(parser.parse_args([]))
    assert defaults.pop("modes") == ()
    assert {"mode": "ar", **defaults} == asdict(Scoring())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{TEXT} --modes ar,plk", "mode: got 'plk', expected ar or prefix"),
        (f"{ANSWERS} --modes plk", "--modes: got 'plk', expected ar or prefix or diffusion"),
        (f"{ANSWERS} --match roughly", "--match: got 'roughly', expected exact or begins"),
        (f"{ANSWERS} --sampler luck", "sampler: got 'luck'"),
        ("--text nowhere.txt", "nowhere.txt: no such file"),
        ("--answers nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("--tasks piqa --data nowhere", "--data: nowhere: no such folder"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    work: Path, words: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--tasks" in words:
        pytest.importorskip("lm_eval")
    monkeypatch.setattr(LanguageModel, "load", lambda *_: pytest.fail("the model was loaded"))
    assert main(["evaluate", "run", *words.format(work=work).split()]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_the_command_line_is_built_without_torch() -> None:
    code = "import sys, dualm.evaluation.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------- another kind of evaluation


@dataclass(frozen=True)
class Words:
    words: tuple[str, ...]

    @property
    def label(self) -> tuple[str, ...]:
        return self.words


def lengths(model: LanguageModel, what: Words, inputs: None, say: Callable[[str], None]) -> Iterator[tuple[str, int]]:
    for word in what.words:
        yield word, len(model.encode(word)) - 1


def table(results: Sequence[tuple[str, int]], title: str, what: Words) -> str:
    return " ".join(f"{word}={length}" for word, length in results)


def test_a_kind_of_evaluation_is_one_record(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Kind(
        add_arguments=lambda group: group.add_argument("--words", nargs="+"),
        settings=lambda arguments: Words(tuple(arguments.words)),
        read=lambda what: None,
        run=lengths,
        row=lambda result: {"word": result[0], "length": result[1]},
        table=table,
    )
    monkeypatch.setitem(KINDS, "words", kind)
    evaluate(work, tmp_path, "--words to be")
    assert "to=2 be=2" in capsys.readouterr().out
    assert written(tmp_path)["results"] == [{"word": "to", "length": 2}, {"word": "be", "length": 2}]
    (csv,) = tmp_path.glob("to-be-*.csv")
    assert csv.read_text().splitlines() == ["word,length", "to,2", "be,2"]


def test_what_changes_no_number_distinguishes_nothing() -> None:
    from dualm.evaluation.answers import Answering, Answers

    made = [Answers(Path(), (), ("ar",), Answering(batch=batch), show=show) for batch, show in ((1, 0), (8, 3))]
    assert distinguishing(made[0]) == distinguishing(made[1])
    assert distinguishing(made[0]) != distinguishing(Answers(Path(), (), ("ar",), Answering(seed=1)))
