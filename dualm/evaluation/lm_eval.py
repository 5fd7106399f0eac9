"""The adapter for EleutherAI's lm-eval: a run as one of its models, in any of our ways to read.

    dualm lm-eval --model dualm --model_args run=runs/mine,mode=pll --tasks arc_easy     its command line, with us in it

    import dualm.evaluation.lm_eval
    lm_eval.simple_evaluate(model="dualm", model_args="run=runs/mine,mode=pll", tasks=["arc_easy"])

lm-eval (0.4.13) knows the models of its own table and those registered in its process, and has no entry point that
would let an installed package add one. So plain `lm_eval --model dualm` cannot work unless something imports this module
there first; `dualm lm-eval` is that command line with the import made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from dualm.errors import UserError
from dualm.language_model import LanguageModel
from dualm.likelihood.modes import Scoring
from dualm.likelihood.pairs import Score

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class DualLM(LM):
    """A trained model, read in one mode, as lm-eval asks: every number is that of `LanguageModel.score`.

    Args:
        run: a run directory, a checkpoint, an export, or a model in hand.
        mode, draws, guidance, mask_padding, seed: as in `LanguageModel.score`; numbers may come as text.
        batch_size: sequences of full context that go through the network at once, or "auto" for 32. lm-eval's
            command line passes 1 where it is not given, which is slow.
        device, precision: as in `LanguageModel.load`.

    Raises:
        UserError: an argument of no meaning, or what `LanguageModel.load` raises.
    """

    def __init__(
        self,
        run: str | LanguageModel | None = None,
        mode: str = "ar",
        draws: int | str = 32,
        guidance: float | str = 0.0,
        mask_padding: int | str = 0,
        seed: int | str = 0,
        batch_size: int | str = 32,
        device: str | None = None,
        precision: str = "fp32",
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown or run is None:
            expected = "run, mode, draws, guidance, mask_padding, seed, batch_size, device, precision"
            raise UserError(
                f"model_args: got {', '.join(unknown) or 'no run'}, expected run=PATH and any of {expected}"
            )
        self.scoring = Scoring(
            mode,
            draws=_number(int, "draws", draws),
            seed=_number(int, "seed", seed),
            guidance=_number(float, "guidance", guidance),
            mask_padding=_number(int, "mask_padding", mask_padding),
        )
        self.batch = _number(int, "batch_size", 32 if batch_size == "auto" else batch_size)
        if self.batch < 1:
            raise UserError(f"batch_size: got {batch_size}, expected at least 1")
        if device == "cuda:0" and not torch.cuda.is_available():
            device = None  # lm-eval's command line says cuda:0 where its user said nothing
        self.model = run if isinstance(run, LanguageModel) else LanguageModel.load(str(run), device, precision)
        self._device = self.model.device

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
        for _, alike in groupby(order, key=lambda i: repr(asked[i][1])):
            places = list(alike)
            texts = self._generate([asked[i][0] for i in places], asked[places[0]][1])
            for place, text in zip(places, texts, strict=True):
                answers[place] = text
        return self._remember("generate_until", asked, answers)

    def _score(self, pairs: Sequence[tuple[Any, ...]], greedy: bool = False) -> list[Score]:
        how = self.scoring
        return self.model.score(
            [(context, continuation) for context, continuation in pairs],
            how.mode,
            draws=how.draws,
            guidance=how.guidance,
            mask_padding=how.mask_padding,
            seed=how.seed,
            batch=self.batch,
            greedy=greedy,
        )

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


def _number(kind: type, name: str, value: object) -> Any:
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
