"""The adapter for EleutherAI's lm-eval: a trained model as one of its models, read in any mode.

    dualm lm-eval --model dualm --model_args run=runs/mine,mode=pll --tasks arc_easy     its own command line

    import dualm.evaluation.lm_eval
    lm_eval.simple_evaluate(model="dualm", model_args="run=runs/mine,mode=pll", tasks=["arc_easy"])

lm-eval (0.4.13) knows its own models and those that are registered in its process. It has no entry point with which an
installed package could add one. So plain `lm_eval --model dualm` works only if something imports this module there first;
`dualm lm-eval` is that command line with the import made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import simple_parse_args_string

from dualm.errors import UserError
from dualm.language_model import LanguageModel
from dualm.likelihood.modes import Scoring
from dualm.likelihood.pairs import Score

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class DualLM(LM):
    """A trained model, read in one mode, as lm-eval asks: every number is that of `LanguageModel.score`.

    `batch` is how many sequences of full context go through the network at once.
    """

    def __init__(self, model: LanguageModel, scoring: Scoring, batch: int = 32) -> None:
        super().__init__()
        self.model, self.scoring, self.batch = model, scoring, batch
        self._device = model.device

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> DualLM:
        """What lm-eval calls with its `--model_args`; every value may be text.

        Args:
            arg_dict: `run` is a run directory, a checkpoint or an export; `mode`, `draws` and so on are the fields of
                `Scoring`; `batch_size` may be "auto", which means 32; `device` and `precision` as in
                `LanguageModel.load`.
            additional_config: the options of lm-eval's command line. It passes batch_size 1 where none is given,
                which is slow.

        Raises:
            UserError: an unknown argument, a value that is no number, or as `LanguageModel.load`.
        """
        arguments = {name: value for name, value in (arg_dict | (additional_config or {})).items() if value is not None}
        options = [option.name for option in fields(Scoring)] + ["batch_size", "device", "precision"]
        unknown = [name for name in arguments if name not in ("run", *options)]
        if unknown or "run" not in arguments:
            got = ", ".join(unknown) or "no run"
            raise UserError(f"model_args: got {got}, expected run=PATH and any of {', '.join(options)}")
        scoring = Scoring(
            **{
                option.name: _converted(type(option.default), option.name, arguments[option.name])
                for option in fields(Scoring)
                if option.name in arguments
            }
        )
        size = arguments.get("batch_size", "auto")
        batch = _converted(int, "batch_size", 32 if size == "auto" else size)
        if batch < 1:
            raise UserError(f"batch_size: got {batch}, expected at least 1")
        device = arguments.get("device")
        if device == "cuda:0" and not torch.cuda.is_available():
            device = None  # lm-eval's command line says cuda:0 where its user said nothing
        model = LanguageModel.load(str(arguments["run"]), device, arguments.get("precision", "fp32"))
        return cls(model, scoring, batch)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> DualLM:
        """The same for arguments in one text: "run=runs/mine,mode=pll"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(nats of the continuation, whether decoding at temperature 0 gives it) for requests (context, continuation)."""
        pairs = _arguments(requests)
        answers = [(score.log_likelihood, bool(score.greedy)) for score in self._score(pairs, greedy=True)]
        return self._remember("loglikelihood", pairs, answers)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Nats of whole texts after `<s>`, for requests (text,). Long ones are scored in overlapping windows.

        `--model hf` on an export says the same of a text that fits into one window if it gets add_bos_token=False;
        without, it scores `<s>` after `<s>` as well.
        """
        texts = _arguments(requests)
        answers = [score.log_likelihood for score in self._score([("", text) for (text,) in texts])]
        return self._remember("loglikelihood_rolling", texts, answers)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations of prompts, for requests (prompt, generation arguments), up to the first stop string."""
        asked = _arguments(requests)
        answers = [""] * len(asked)
        order = sorted(range(len(asked)), key=lambda i: repr(asked[i][1]))
        for _, group in groupby(order, key=lambda i: repr(asked[i][1])):
            rows = list(group)
            texts = self._generate([asked[i][0] for i in rows], asked[rows[0]][1])
            for i, text in zip(rows, texts, strict=True):
                answers[i] = text
        return self._remember("generate_until", asked, answers)

    def _score(self, pairs: Sequence[tuple[Any, ...]], greedy: bool = False) -> list[Score]:
        encoded = [self.model.encode_pair(context, continuation) for context, continuation in pairs]
        return self.model.score_tokens(encoded, self.scoring, self.batch, greedy)

    def _generate(self, prompts: list[str], arguments: dict[str, Any]) -> list[str]:
        how: dict[str, Any] = {**normalize_gen_kwargs(arguments, default_max_gen_toks=self.model.context // 2)}
        tokens, most = how["max_gen_toks"], self.model.context - 2  # beside <s> and one token of the prompt
        if not 1 <= tokens <= most:
            raise UserError(f"max_gen_toks: got {tokens}, expected 1 to {most}, what fits into the model's context")
        return self.model.generate(
            [self._end_of(prompt, most + 1 - tokens) for prompt in prompts],
            mode=self.scoring.mode if self.scoring.how.causal else "diffusion",
            max_tokens=tokens,
            temperature=how.get("temperature", 0.0),
            top_p=how.get("top_p", 1.0),
            seed=self.scoring.seed,
            stop=[text for text in how["until"] if text],
            batch=self.batch,
        )

    def _end_of(self, prompt: str, tokens: int) -> str:
        """The last `tokens` tokens of a prompt, less the rest of a character that is cut in two."""
        ids = self.model.tokenizer.encode([prompt])[0]
        return prompt if len(ids) <= tokens else self.model.tokenizer.decode(ids[-tokens:]).lstrip("\ufffd")

    def _remember(self, kind: str, asked: Sequence[tuple[Any, ...]], answers: list[Any]) -> list[Any]:
        for request, answer in zip(asked, answers, strict=True):
            self.cache_hook.add_partial(kind, request, answer)
        return answers


register_model("dualm")(DualLM)  # as a decorator it would hide the class's type


def _arguments(requests: Sequence[Instance]) -> list[tuple[Any, ...]]:
    return [tuple(request.args) for request in requests]


def _converted(kind: type, name: str, value: Any) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}: got {value!r}, expected {'an integer' if kind is int else 'a number'}") from None


def command_line(arguments: Sequence[str]) -> None:
    """Run lm-eval's own command line on `arguments`, in a process that knows the model `dualm`."""
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    sys.argv = ["lm-eval", *arguments]  # its parser reads them from there
    setup_logging()
    harness = HarnessCLI()
    harness.execute(harness.parse_args())
