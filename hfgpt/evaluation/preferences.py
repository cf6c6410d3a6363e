"""Which of two answers to a prompt a language model prefers, from its own and its base's log-likelihoods."""

import numpy as np


def preference_metrics(
    policy: np.ndarray,
    reference: np.ndarray,
    *,
    loss: str,
    beta: float,
    length_normalised: bool = False,
    labels: np.ndarray | None = None,
) -> dict[str, float]:
    """What a model prefers, measured on N pairs, or on N single answers (KTO); with equal weights.

    Args:
        policy, reference: (K, N, 2), nats and tokens of answers to N prompts, for the model and its base; K is the chosen answer,
            the rejected one, and for KTO a chosen and a rejected one after a different prompt. For single answers, K is each
            answer, and each after a different prompt.
        loss: "dpo", "kto" or "orpo".
        beta: the value used in training.
        length_normalised: log-likelihoods per token instead of their sums.
        labels: (N,), whether each single answer is wanted; None for pairs.
    Returns:
        loss: the training loss; for ORPO, only with the likelihood of chosen answers, although TRL also trains that of prompts.
        reward_margin: mean reward of the chosen answer minus that of the rejected one; a reward is beta times the log of how much
            more likely the answer has become.
        reward_accuracy: share of pairs with a margin above 0; for the base itself, 0.
        chosen_reward, rejected_reward: their means.
        likelihood_accuracy, likelihood_accuracy_per_token: share of pairs whose chosen answer is more likely than the rejected one,
        as a whole and per token, regardless of the base. chosen_nats_per_token, rejected_nats_per_token: token-weighted negative
        log-likelihoods. For single answers, the wanted ones count as chosen; reward_side_accuracy is the share whose reward is on
        the right side of the drift (how much more likely answers became after wrong prompts); no two answers are compared, and
        figures for a missing kind of answer are left out.
    Source: Rafailov et al. (2023), DPO, eq. 7; Ethayarajh et al. (2024), KTO, eq. 7; Hong et al. (2024), ORPO, eq. 6.
    """
    nats, tokens = policy[..., 0].astype(np.float64), policy[..., 1].astype(np.float64)
    log_ratios = reference[..., 0] - nats
    if length_normalised:
        log_ratios = log_ratios / tokens
    rewards = beta * log_ratios
    if labels is not None:
        return _of_single_answers(rewards, nats[0], tokens[0], np.asarray(labels, dtype=bool))
    margins = rewards[0] - rewards[1]
    chosen_nats, rejected_nats = nats[:2].sum(axis=1) / tokens[:2].sum(axis=1)
    per_token = -nats[:2] / tokens[:2]
    if loss == "dpo":
        trained = np.logaddexp(0, -margins).mean()
    elif loss == "kto":
        drift = max(0.0, rewards[2:].mean())
        trained = 1 - _sigmoid(np.stack([rewards[0] - drift, drift - rewards[1]])).mean()
    else:
        log_odds = per_token - np.log(-np.expm1(np.minimum(per_token, -1e-12)))
        trained = chosen_nats + beta * np.logaddexp(0, log_odds[1] - log_odds[0]).mean()
    values = {
        "loss": trained,
        "reward_margin": margins.mean(),
        "reward_accuracy": (margins > 0).mean(),
        "chosen_reward": rewards[0].mean(),
        "rejected_reward": rewards[1].mean(),
        "likelihood_accuracy": (nats[0] < nats[1]).mean(),
        "likelihood_accuracy_per_token": (per_token[0] > per_token[1]).mean(),
        "chosen_nats_per_token": chosen_nats,
        "rejected_nats_per_token": rejected_nats,
    }
    return {name: float(value) for name, value in values.items()}


def _of_single_answers(rewards: np.ndarray, nats: np.ndarray, tokens: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    drift = max(0.0, rewards[1].mean())
    gains = np.where(wanted, rewards[0] - drift, drift - rewards[0])
    values = {"loss": 1 - _sigmoid(gains).mean(), "reward_side_accuracy": (gains > 0).mean()}
    for name, chosen in (("chosen", wanted), ("rejected", ~wanted)):
        if chosen.any():
            values[f"{name}_reward"] = rewards[0][chosen].mean()
            values[f"{name}_nats_per_token"] = nats[chosen].sum() / tokens[chosen].sum()
    if wanted.any() and not wanted.all():
        values["reward_margin"] = values["chosen_reward"] - values["rejected_reward"]
    return {name: float(value) for name, value in values.items()}


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))
