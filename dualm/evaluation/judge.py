"""A causal language model from a Hugging Face folder that judges texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualm.errors import UserError
from dualm.likelihood.pairs import Pair, windows

LONGEST = 1024  # tokens, for a judge whose configuration names no limit


@dataclass(frozen=True)
class Judge:
    model: Any  # transformers builds the class that the folder names
    tokenizer: Any

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> Judge:
        """Any folder that AutoModelForCausalLM and AutoTokenizer read; no network. Raises UserError for another."""
        from transformers import AutoModelForCausalLM, AutoTokenizer, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if not Path(folder).is_dir():
            raise UserError(f"--judge: {folder}: no such folder, expected a Hugging Face causal language model")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # whatever is wrong with a folder, from many libraries
            message = str(error).strip().split("\n")[0]
            raise UserError(f"--judge: {folder}: not a Hugging Face causal language model: {message}") from None
        try:
            model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device: got {device!r}: {str(error).splitlines()[0]}") from None
        return cls(model.eval(), tokenizer)

    @property
    def context(self) -> int:
        return getattr(self.model.config, "max_position_embeddings", LONGEST)

    def encode(self, text: str) -> np.ndarray:
        """Token ids `[length]`, none of them special."""
        return np.array(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    @torch.no_grad()
    def loss(self, tokens: np.ndarray) -> tuple[float, int]:
        """Nats of `tokens` `[length]`, and how many tokens were scored: all, or all but the first for a judge without `<s>`.

        Texts longer than the judge's context are read in windows that overlap by half.
        """
        bos = self.tokenizer.bos_token_id
        start = np.array([bos]) if bos is not None else tokens[:1]
        scored = tokens if bos is not None else tokens[1:]
        if not len(scored):
            return 0.0, 0
        size = self.context + 1  # the last token is a target only
        return sum(self._loss(window) for window in windows(Pair(start, scored), size, size // 2)), len(scored)

    def _loss(self, window: Pair) -> float:
        ids = torch.from_numpy(np.concatenate(window)).to(self.model.device)
        logits = self.model(ids[None, :-1]).logits[0, len(window.context) - 1 :].float()
        return torch.nn.functional.cross_entropy(logits, ids[len(window.context) :], reduction="sum").item()

    @torch.no_grad()
    def feature(self, text: str) -> np.ndarray:
        """The last hidden state of the last token of a text, `[hidden]`, read no further than the judge's context."""
        ids = torch.from_numpy(self.encode(text)[: self.context]).to(self.model.device)
        return self.model(ids[None], output_hidden_states=True).hidden_states[-1][0, -1].float().cpu().numpy()
