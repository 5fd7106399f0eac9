"""Preparing: made once, used again as long as nothing changed, and never half there."""

import errno
import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from dualm import config
from dualm.config import DataConfig
from dualm.data import prepare as preparing
from dualm.data.prepare import prepare
from dualm.data.shards import Shards, ShardWriter
from dualm.data.tokenizer import train_bpe
from dualm.errors import UserError


@pytest.fixture
def recipe(tmp_path):
    """A recipe for 40 short documents, and the place its shards go to."""
    (tmp_path / "corpus.txt").write_text("".join(f"Line {i} tells of {i * i}.\n" for i in range(40)))
    (tmp_path / "valid.txt").write_text("Another line.\n")

    def make(**keys):
        files = {"train": [str(tmp_path / "corpus.txt")], "valid": [str(tmp_path / "valid.txt")]}
        place = {"dir": str(tmp_path / "shards"), "tokenizer": "bytes", "documents": "line", "source": "text"}
        return DataConfig(**{**files, **place, **keys})

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_prepared_shards_hold_the_corpus(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "BATCH", 100)
    folder = prepare(recipe(shard_tokens=200), vocab=272)
    shards = Shards.open(folder)
    text = shards.tokenizer.decode(shards.train.read(0, len(shards.train)), show_specials=True)
    lines = (tmp_path / "corpus.txt").read_text().splitlines()
    assert text == "".join(f"<s>{line}</s>" for line in lines)
    assert shards.manifest["splits"]["train"]["documents"] == 40
    assert shards.manifest["splits"]["train"]["bytes"] == sum(map(len, lines))
    assert len(shards.manifest["splits"]["train"]["shards"]) > 3
    assert names(tmp_path) == [".shards.lock", "corpus.txt", "shards", "valid.txt"]


def test_a_document_larger_than_a_piece_is_one_document(recipe, monkeypatch):
    monkeypatch.setattr("dualm.data.tokenizer.PIECE", 50)
    monkeypatch.setattr(preparing, "BATCH", 100)
    shards = Shards.open(prepare(recipe(documents="file"), vocab=272))
    assert shards.manifest["splits"]["train"]["documents"] == 1
    assert shards.train.documents.tolist() == [0]
    assert shards.tokenizer.decode(shards.train.read(0, len(shards.train))).count("\n") == 40


def test_default_folder_is_named_by_what_decides_its_content(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = prepare(recipe(dir=None), vocab=300)
    assert folder.parent == tmp_path / "prepared"
    assert folder.name.startswith("text-")
    for same in ({"tokens": 5}, {"repetitions": 3}, {"keep_in_document": False}, {"shard_tokens": 7}):
        assert prepare(recipe(dir=None, **same), vocab=400) == folder
    assert prepare(recipe(dir=None, documents="file"), vocab=300) != folder
    bpe = {prepare(recipe(dir=None, tokenizer="bpe"), vocab=vocab) for vocab in (280, 290)}
    assert len(bpe) == 2


def test_packed_and_rows_share_their_shards_and_pairs_have_their_own(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("corpus.txt", "valid.txt"):
        (tmp_path / name).write_text("who || I\nwhat || it\nwhere | ever || here\n")
    folder = prepare(recipe(dir=None), vocab=300)
    assert prepare(recipe(dir=None, format="rows"), vocab=300) == folder
    pairs = {
        separator: prepare(recipe(dir=None, format="pairs", separator=separator), 300) for separator in ("||", "|")
    }
    assert len({folder, *pairs.values()}) == 3
    shards = Shards.open(pairs["||"])
    text = shards.tokenizer.decode(shards.train.read(0, len(shards.train)), show_specials=True)
    assert text.startswith("<s>who </s><s> I</s><s>what </s><s> it</s><s>where | ever </s>")
    with pytest.raises(UserError, match=r"data\.separator='\|\|' \(got '\|'\)"):
        prepare(recipe(dir=str(pairs["||"]), format="pairs", separator="|"), 300)


def test_a_key_decides_unless_it_says_otherwise(recipe):
    """A key that is added to DataConfig and forgotten prepares again; it never uses stale shards."""
    pairs = recipe(format="pairs")
    before = preparing.source_keys(pairs, 300)
    for name, key in config.keys().items():
        section, _, last = name.partition(".")
        if section == "data":
            changed = preparing.source_keys(
                replace(pairs, **{last: ["another"] if last in ("train", "valid") else object()}), 300
            )
            assert (changed != before) == key.shards or last in ("tokenizer", "format"), name
    read_later = {name for name, key in config.keys().items() if name.startswith("data.") and not key.shards}
    assert read_later == {
        *("data.supervise_prompt", "data.random_length", "data.streaming", "data.shard_tokens", "data.dir"),
        *("data.tokens", "data.repetitions", "data.keep_in_document"),
        *("data.unit", "data.chunk", "data.recut"),
    }


def test_folders_made_before_a_key_existed_stay_usable(recipe, capsys):
    folder = prepare(recipe(), 300)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["source"]["keys"]["data.valid_split"], manifest["source"]["fingerprint"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    prepare(recipe(), 300)
    assert "used again" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"data\.valid_split=None \(got 'dev'\)"):
        prepare(recipe(valid_split="dev"), 300)


def test_the_line_that_tells_what_was_prepared_counts_pairs(recipe, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("a||b\nc||d\n\n")
    (tmp_path / "valid.txt").write_text("e||f\n")
    prepare(recipe(format="pairs"), 272)
    assert "prepared; train 2 pairs, 12 tokens; valid 1 pairs, 6 tokens" in capsys.readouterr().err


def test_an_unknown_format_is_refused_first(recipe, tmp_path):
    with pytest.raises(UserError, match=r"data\.format: got 'row', expected packed or rows or pairs"):
        prepare(recipe(format="row"), 272)
    assert names(tmp_path) == ["corpus.txt", "valid.txt"]


def test_used_again_until_a_file_changes(recipe, tmp_path, capsys):
    folder = prepare(recipe(), vocab=300)
    made = (folder / "manifest.json").stat()
    capsys.readouterr()
    assert prepare(recipe(), vocab=300) == folder
    assert (folder / "manifest.json").stat() == made
    assert "used again" in capsys.readouterr().err

    (tmp_path / "corpus.txt").write_text("Now it is different.\n")
    prepare(recipe(), vocab=300)
    assert "source files have changed" in capsys.readouterr().err
    assert Shards.open(folder).manifest["splits"]["train"]["documents"] == 1
    assert names(tmp_path) == [".shards.lock", "corpus.txt", "shards", "valid.txt"]


def test_shards_are_used_where_their_sources_are_not(recipe, tmp_path):
    made = (prepare(recipe(), 272) / "manifest.json").stat()
    (tmp_path / "corpus.txt").unlink()
    (tmp_path / "valid.txt").unlink()
    assert (prepare(recipe(), 272) / "manifest.json").stat() == made
    with pytest.raises(UserError, match=r"data\.documents='line' \(got 'file'\)"):
        prepare(recipe(documents="file"), 272)


def test_a_folder_with_a_file_missing_is_prepared_anew(recipe, capsys):
    folder = prepare(recipe(), vocab=300)
    (folder / "valid-00000.npy").unlink()
    prepare(recipe(), vocab=300)
    assert "valid-00000.npy" in capsys.readouterr().err
    Shards.open(folder)


def test_a_changed_tokenizer_file_is_noticed(recipe, tmp_path, capsys):
    path = tmp_path / "mine.json"
    train_bpe(["some text"], 275).save(path)
    folder = prepare(recipe(tokenizer=str(path)), vocab=300)
    train_bpe(["other words"], 280).save(path)
    prepare(recipe(tokenizer=str(path)), vocab=300)
    assert "source files have changed" in capsys.readouterr().err
    assert Shards.open(folder).tokenizer.vocab == 280


def test_folders_that_are_not_ours_to_replace(recipe, tmp_path):
    prepare(recipe(), vocab=300)
    with pytest.raises(UserError, match=r"shards was prepared with data.documents='line' \(got 'file'\)"):
        prepare(recipe(documents="file"), vocab=300)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").touch()
    with pytest.raises(UserError, match=r"data.dir: .*thesis exists and holds no prepared shards"):
        prepare(recipe(dir=str(tmp_path / "thesis")), vocab=300)
    assert names(tmp_path / "thesis") == ["chapter1"]


def test_mistakes_leave_nothing_behind(recipe, tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    before = {*names(tmp_path), ".shards.lock"}
    with pytest.raises(UserError, match=r"data.train: no text in the corpus"):
        prepare(recipe(train=[str(tmp_path / "blank.txt")]), vocab=300)
    with pytest.raises(
        UserError, match=r"model.vocab: got 271, expected at least 272, the ids of data.tokenizer: bytes"
    ):
        prepare(recipe(), vocab=271)
    with pytest.raises(UserError, match=r"data.valid: no file matches 'absent'"):
        prepare(recipe(valid=["absent"]), vocab=300)
    assert set(names(tmp_path)) == before


def test_a_full_disk_leaves_nothing_behind(recipe, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "finish", full)
    with pytest.raises(UserError, match=r"data.dir: no space left on the disk of .*shards"):
        prepare(recipe(), vocab=300)
    assert names(tmp_path) == [".shards.lock", "corpus.txt", "valid.txt"]


# ---------------------------------------------------------------- other processes

HANGING = """
import sys
from dataclasses import replace
from dualm import config
from dualm.config import DataConfig
from dualm.data import corpus, prepare

def hanging(data, split, read=corpus.SOURCES["text"].entries):
    for number, text in enumerate(read(data, split)):
        if number == 30 and {hangs}:
            print("half way", flush=True)
            sys.stdin.readline()
        yield text

corpus.SOURCES["text"] = corpus.Source(hanging)
prepare.BATCH = 100
prepare.prepare(DataConfig(**{keys!r}), 272)
"""


def start(data, hangs):
    script = HANGING.format(keys=vars(data), hangs=hangs)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", script], text=True, **pipes)


def test_killed_half_way_nothing_passes_for_whole(recipe, tmp_path):
    data = recipe(shard_tokens=100)
    with start(data, hangs=True) as process:
        assert process.stdout.readline() == "half way\n"
        written = names(tmp_path / ".shards.partial")
        process.send_signal(signal.SIGKILL)
    assert "train-00003.npy" in written
    with pytest.raises(UserError):
        Shards.open(tmp_path / "shards")
    with pytest.raises(UserError):
        Shards.open(tmp_path / ".shards.partial")
    shards = Shards.open(prepare(data, vocab=272))
    assert shards.manifest["splits"]["train"]["documents"] == 40
    assert names(tmp_path) == [".shards.lock", "corpus.txt", "shards", "valid.txt"]


def test_killed_while_replacing_the_old_folder_stays(recipe, tmp_path):
    folder = prepare(recipe(), vocab=272)
    (tmp_path / "corpus.txt").write_text("A new line.\n" * 50)
    with start(recipe(), hangs=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert Shards.open(folder).manifest["splits"]["train"]["documents"] == 40
    prepare(recipe(), vocab=272)
    assert Shards.open(folder).manifest["splits"]["train"]["documents"] == 50


def test_one_process_prepares_and_the_others_wait_for_it(recipe):
    first = start(recipe(), hangs=True)
    assert first.stdout.readline() == "half way\n"
    second = start(recipe(), hangs=False)
    assert "waiting for the process that prepares it" in second.stderr.readline()
    assert "prepared; train 40 documents" in first.communicate("go on\n", timeout=60)[1]
    assert "used again" in second.communicate(timeout=60)[1]
    assert (first.returncode, second.returncode) == (0, 0)
    Shards.open(recipe().dir)


def test_processes_that_start_at_once_do_not_disturb_each_other(recipe):
    processes = [start(recipe(shard_tokens=50), hangs=False) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert sum("prepared; train 40 documents" in error for error in errors) == 1
    Shards.open(recipe().dir)
