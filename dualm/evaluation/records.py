"""One record of a benchmark's file -> a document: a context, its possible continuations, and which of them is right.

A parser reads every layout in which people have the data set: the fields of its export from Hugging Face, or the
{"query", "choices", "gold"} of llm-foundry, whose queries are prompts already. What both become is the prompt of lm-eval's
task of the same name (EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/tasks), with two differences: BLiMP's sentences begin
a document as in training, without the space that lm-eval puts first; and a HellaSwag context without `ctx_b` keeps its
lower-case letters, since nothing says where that begins. The queries of llm-foundry have words of their own in places
("Passage:" in BoolQ, four instead of five choices in CommonsenseQA); they stay as they are.
"""

from __future__ import annotations

import ast
import re
from string import ascii_uppercase
from typing import Any, TypedDict

Record = dict[str, Any]


class Document(TypedDict):
    context: str
    choices: list[str]  # a single one: the model must produce it
    gold: int  # which choice is right


def minimal_pair(record: Record) -> Document:
    """BLiMP: which of two sentences is more likely."""
    return Document(context="", choices=[record["sentence_good"], record["sentence_bad"]], gold=0)


def last_word(record: Record) -> Document:
    """LAMBADA: the last word of a passage, given as `continuation` or as the end of `text`."""
    if "continuation" in record:
        return Document(context=record["context"], choices=[record["continuation"].strip()], gold=0)
    context, _, word = record["text"].rpartition(" ")
    return Document(context=context, choices=[word], gold=0)


def science_question(record: Record) -> Document:
    """ARC, both halves."""
    if "query" in record:
        return _query(record)
    return _labelled(record, f"Question: {record['question']}\nAnswer:")


def science_statement(record: Record) -> Document:
    """OpenBookQA: the beginning of a sentence and its possible ends, without "Answer:"."""
    if "query" in record:
        return Document(context=record["query"].strip(), choices=list(record["choices"]), gold=record["gold"])
    return _labelled(record, record["question_stem"])


def goal(record: Record) -> Document:
    """PIQA: two ways to reach a goal."""
    if "query" in record:
        return _query(record)
    context = f"Question: {record['goal']}\nAnswer:"
    return Document(context=context, choices=[record["sol1"], record["sol2"]], gold=record["label"])


def common_sense(record: Record) -> Document:
    """CommonsenseQA: the choices stand in the prompt, the answer is a letter."""
    if "query" in record:
        return _query(record)
    found, texts = record["choices"], record["choices"]["text"]
    context = _lettered(f"Question: {record['question'].strip()}", texts)
    return Document(context=context, choices=_letters(texts), gold=found["label"].index(record["answerKey"]))


def exam_question(record: Record) -> Document:
    """MMLU, zero-shot: a sentence that names the subject, the choices, and a letter as answer."""
    if "query" in record:
        return _query(record)
    subject, choices = record["subject"].replace("_", " "), record["choices"]
    description = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    context = _lettered(description + record["question"].strip(), choices)
    return Document(context=context, choices=_letters(choices), gold=record["answer"])


def social_situation(record: Record) -> Document:
    """SIQA: a situation, a question about it, three answers; labels begin with 1."""
    if "query" in record:
        return _query(record)
    choices = [record[f"answer{letter}"] for letter in "ABC"]
    context = f"Q: {record['context']} {record['question']}\nA:"
    return Document(context=context, choices=choices, gold=int(record["label"]) - 1)


def yes_or_no(record: Record) -> Document:
    """BoolQ, with the `label` of SuperGLUE or the `answer` of the data set's own export."""
    if "query" in record:
        return _query(record)
    context = f"{record['passage']}\nQuestion: {record['question']}?\nAnswer:"
    gold = record["label"] if "label" in record else record["answer"]
    return Document(context=context, choices=["no", "yes"], gold=int(gold))


def exam_passage(record: Record) -> Document:
    """RACE. In lm-eval's own data a record has all questions of an article; the last one is asked, the others are answered."""
    if "query" in record:
        return _query(record)
    if "problems" not in record:  # one question a record
        asked, context = record, f"Article: {record['article']}\n\n{record['question']}"
    else:
        *answered, asked = ast.literal_eval(record["problems"])
        solved = "".join(_solved(problem) for problem in answered)
        context = f"Article: {record['article']}\n\n{solved}{asked['question']}"
    return Document(context=context, choices=list(asked["options"]), gold=ascii_uppercase.index(asked["answer"]))


def _solved(problem: Record) -> str:
    answer = problem["options"][ascii_uppercase.index(problem["answer"])]
    if problem["question"].endswith(BLANK):  # at the end of a sentence, before its full stop
        return f"{problem['question'][: 1 - len(BLANK)]}{answer}\n"
    return f"Question: {problem['question']}\nAnswer: {answer}\n"


BLANK = "  _  ."


def ending(record: Record) -> Document:
    """HellaSwag as published: {"activity_label", "ctx_a", "ctx_b", "endings", "label"}, or `ctx` for both parts."""
    begun = f"{record['ctx_a']} {record['ctx_b'].capitalize()}" if "ctx_b" in record else record["ctx"]
    context = f"{record['activity_label']}: {begun}" if "activity_label" in record else begun
    endings = [_without_markup(text) for text in record["endings"]]
    return Document(context=_without_markup(context), choices=endings, gold=int(record["label"]))


# ---------------------------------------------------------------- what several of them share


def _query(record: Record) -> Document:
    """llm-foundry's layout; some of its queries end in "Answer:" already."""
    query = record["query"].strip()
    context = query if query.endswith("Answer:") else f"{query}\nAnswer:"
    return Document(context=context, choices=list(record["choices"]), gold=record["gold"])


def _labelled(record: Record, context: str) -> Document:
    """{"choices": {"text", "label"}, "answerKey"}; labels are letters or numbers."""
    choices = record["choices"]
    return Document(
        context=context, choices=list(choices["text"]), gold=choices["label"].index(record["answerKey"].strip())
    )


def _letters(texts: list[str]) -> list[str]:
    return list(ascii_uppercase[: len(texts)])


def _lettered(question: str, texts: list[str]) -> str:
    lines = [f"{letter}. {text}" for letter, text in zip(_letters(texts), texts, strict=True)]
    return "\n".join([question, *lines, "Answer:"])


def _without_markup(text: str) -> str:
    """The WikiHow half of HellaSwag has section marks such as [title] in its text."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ").strip()
