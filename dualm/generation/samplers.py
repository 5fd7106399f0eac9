"""Which masked tokens to commit at a step of diffusion generation: one function a sampler, in a registry by name.

    ancestral         the expected number of tokens, at random positions (MDLM, section 4.2)
    ancestral_cached  the same, asking the network again only when something has changed
    ddpm              each mask by a coin of its own, so that their number varies (`ddpm` of MDLM's code)
    ddpm_cache        the same, asking again only when something has changed (MDLM's default)
    analytic          ddpm: what SEDD's analytic sampler is for an absorbing process (see `independent`)
    confidence        the expected number, where the model is surest (SMDM, algorithm 1; LLaDA's low-confidence order)
    entropy_bound     as many as keep the summed entropy under gamma (Ben-Hamu et al. 2025, eq. 4)
    threshold         all that the model is surer of than tau (Fast-dLLM: Wu et al. 2025)
    remask            ancestral, and committed tokens are hidden again at rate eta (ReMDM-cap: Wang et al. 2025)
    remask_confidence the same, preferring tokens of low confidence (ReMDM-conf)

Time runs from t = 1 to 0 in equal steps, or to `noise_removal`; at t a share 1 - t of the tokens is committed. A sampler sees one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dualm.errors import UserError
from dualm.registry import Registry


@dataclass(frozen=True)
class Denoising:
    """How masks are filled. Raises UserError for a value outside its range."""

    sampler: str = "confidence"
    steps: int | None = None  # default: as many as there are masks. The last one commits all that is left
    block: int | None = None  # tokens generated at once, left to right, those before them cached; default: all
    guidance: float = 0.0  # weight of unsupervised classifier-free guidance
    gamma: float = 0.1  # entropy_bound: nats
    tau: float = 0.9  # threshold: probability
    eta: float = 0.05  # remask: largest probability of hiding a committed token again in a step
    stride: int | None = (
        None  # tokens added at a time once the window is full, which is read as a whole (MDLM's semi-AR)
    )
    noise_removal: float = 0.0  # t at which the steps end; one more then takes the likeliest token at every mask left

    def __post_init__(self) -> None:
        SAMPLERS.choose(self.sampler)
        for name, low in (("steps", 1), ("block", 1), ("stride", 1), ("gamma", 0)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"{name}: got {value}, expected at least {low}")
        for name in ("tau", "eta"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: got {getattr(self, name)}, expected a probability in [0, 1]")
        if not 0 <= self.noise_removal < 1:
            raise UserError(f"noise_removal: got {self.noise_removal}, expected a mask rate in [0, 1); MDLM has 1e-5")
        if self.stride and self.block:
            raise UserError(f"stride: got {self.stride} with block = {self.block}, expected one of them")

    @property
    def outgrows_context(self) -> bool:
        """Whether a text may be longer than the context of the model."""
        return self.block is not None or self.stride is not None


class View(NamedTuple):
    """One row at one step, and the model's guess at each of its masks."""

    confidence: np.ndarray  # [masks] probability of the token that would be committed there
    entropy: np.ndarray  # [masks] nats
    committed: np.ndarray  # [tokens committed so far] the confidence each of them was committed with
    left: float  # steps to t = 0, this one included; a whole number unless time ends before 0 (`noise_removal`)
    steps: float  # from t = 1 to t = 0
    rng: np.random.Generator


class Choice(NamedTuple):
    commit: np.ndarray  # indices into the masks
    remask: np.ndarray  # indices into the committed tokens


Choose = Callable[[View, Denoising], Choice]
NONE = np.array([], dtype=int)


class Sampler(NamedTuple):
    choose: Choose
    cached: bool = False  # keep the model's guess while nothing has changed
    remasks: bool = False  # has work to do while no mask is left, too
    draws_rest: bool = False  # what `noise_removal` leaves is drawn, not the likeliest token


def ancestral(view: View, options: Denoising) -> Choice:
    """Each mask is committed with probability (t - s) / t = 1 / left, their number rounded at random.

    MDLM flips a coin for each mask instead (`ddpm`). The chance of a token is the same and the number varies less; and with
    as many steps as masks exactly one is committed a step, in an order that is uniformly random.
    """
    masks = len(view.confidence)
    count = int(masks / view.left + view.rng.random())
    return Choice(view.rng.permutation(masks)[:count], NONE)


def independent(view: View, options: Denoising) -> Choice:
    """Each mask is committed with probability (t - s) / t = 1 / left, independently of the others (`_ddpm_update` in MDLM's code).

    It is the analytic sampler, too (SEDD: Lou et al. 2024, sampling.py; `analytic` in MDLM's code), whose probability of y at a mask is
    the staggered score times the transition over sigma_t - sigma_s. With sigma = -log alpha and the score p(y) alpha_t / (1 - alpha_t)
    of an absorbing process that is p(y) (alpha_s - alpha_t) / (1 - alpha_t), under any noise schedule; committed tokens stay. What
    differs is the end: `noise_removal` draws what is left there, as that code does, where `ddpm` takes the likeliest token.
    """
    return Choice(np.flatnonzero(view.rng.random(len(view.confidence)) < 1 / view.left), NONE)


def confidence(view: View, options: Denoising) -> Choice:
    count = expected_count(len(view.confidence), view.left)
    return Choice(np.argsort(-view.confidence, kind="stable")[:count], NONE)


def entropy_bound(view: View, options: Denoising) -> Choice:
    """The longest run of masks, by rising entropy, in which all but the last hold less than gamma together.

    The sum without its largest term bounds the dependence that is lost by committing the run at once.
    """
    order = np.argsort(view.entropy, kind="stable")
    before = np.cumsum(view.entropy[order]) - view.entropy[order]
    return Choice(order[before <= options.gamma] if view.left > 1 else order, NONE)


def threshold(view: View, options: Denoising) -> Choice:
    sure = view.confidence > options.tau
    sure[view.confidence.argmax()] = True
    return Choice(np.flatnonzero(sure | (view.left == 1)), NONE)


def remask(view: View, options: Denoising) -> Choice:
    """ReMDM, section 4.1: sigma = min(eta, (1 - alpha_s) / alpha_t), alpha being the share that is committed."""
    return _remask(view, np.full(len(view.committed), min(options.eta, _most(view))))


def remask_confidence(view: View, options: Denoising) -> Choice:
    """The same number on average, shared out by a softmax over how unsure the model was of each committed token.

    ReMDM's own formula leaves the softmax as it is, which hides less than one token a step; here it is multiplied by
    the number of committed tokens, so that eta means the same in both.
    """
    share = np.exp(-view.committed)
    sigma = min(options.eta, _most(view)) * len(view.committed)
    return _remask(view, np.minimum(_most(view), sigma * share / max(share.sum(), 1e-30)))


def _most(view: View) -> float:
    alpha_t, alpha_s = 1 - view.left / view.steps, 1 - (view.left - 1) / view.steps
    return min(1.0, (1 - alpha_s) / alpha_t) if alpha_t else 0.0


def _remask(view: View, sigma: np.ndarray) -> Choice:
    """Hide committed tokens with probability sigma, and commit masks so that their number stays on schedule (eq. 5)."""
    alpha_t, alpha_s = 1 - view.left / view.steps, 1 - (view.left - 1) / view.steps
    mean = float(sigma.mean()) if len(sigma) else 0.0
    rate = (alpha_s - (1 - mean) * alpha_t) / (1 - alpha_t)
    coins = view.rng.random(len(view.confidence)), view.rng.random(len(sigma))
    return Choice(np.flatnonzero(coins[0] < rate), np.flatnonzero(coins[1] < sigma))


def expected_count(masks: int, left: float) -> int:
    """How many of the masks to commit so that as many are committed in each of the steps to go; at least one."""
    return masks - int(masks * (left - 1) / left)


SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {
        "ancestral": Sampler(ancestral),
        "ancestral_cached": Sampler(ancestral, cached=True),
        "ddpm": Sampler(independent),
        "ddpm_cache": Sampler(independent, cached=True),
        "analytic": Sampler(independent, draws_rest=True),
        "confidence": Sampler(confidence),
        "entropy_bound": Sampler(entropy_bound),
        "threshold": Sampler(threshold),
        "remask": Sampler(remask, remasks=True),
        "remask_confidence": Sampler(remask_confidence, remasks=True),
    },
)
