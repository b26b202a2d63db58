"""Measure response tokens per second of whole PPO iterations (sample, score, advantages, update), here and in PyTorch.

    uv run experiments/benchmarks/language_speed.py
    uv run --no-project --with torch --with transformers experiments/benchmarks/language_speed.py --torch

The work is the same in both: prompts of 6 tokens, responses of 12, two layers of width 64 (rotary, SwiGLU), 4 epochs
of 4 minibatches of whole texts, Adam, GAE. Iterations have 16, 64 and 256 texts, since the cost of matrix products
grows with the size and the overhead of Python loops does not. In JAX an iteration is one compiled step. In PyTorch it
is the usual loop of public calls: `LlamaModel` with its key-value cache, sampled token by token, and GAE in a loop over
tokens. Lines are appended to results/language_speed.csv; prompt tokens are not counted. Run both on an idle machine,
and PyTorch with OMP_NUM_THREADS=1 too: its threads spin while they wait for each other, which on a busy machine costs
more than they gain.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "language_speed.csv"
VOCAB, HIDDEN, LAYERS, HEADS, MLP = 20, 64, 2, 4, 256
BATCHES, PROMPT, RESPONSE, EPOCHS, MINIBATCHES = (16, 64, 256), 6, 12, 4, 4
LEARNING_RATE, CLIP, GAE_LAMBDA, VALUE, ENTROPY, MAX_NORM = 1e-3, 0.2, 0.95, 0.5, 0.01, 1.0
ROUNDS, STEPS_PER_ROUND = 3, 2


def timed(step: Callable[[], object]) -> float:
    """Returns the seconds of one call, as the median of several rounds."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(STEPS_PER_ROUND):
            step()
        seconds.append((time.perf_counter() - started) / STEPS_PER_ROUND)
    return statistics.median(seconds)


def in_jax(batch: int) -> dict[str, float]:
    """Measures one compiled training step."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import gaejax
    from gaejax.language import DecoderConfig, Text, decoder_policy, token_environment

    prompts = np.random.default_rng(0).integers(0, VOCAB, (4096, PROMPT))

    def reward(text: Text) -> jax.Array:
        return jnp.mean(text.response == text.prompt[0])

    # No token ends a response: all have the same length, so the work is the same.
    environment = token_environment(prompts, VOCAB + 1, VOCAB, RESPONSE, reward=reward, time_limit="terminate")
    steps = PROMPT + RESPONSE - 1
    shape = DecoderConfig(VOCAB + 1, HIDDEN, LAYERS, HEADS, intermediate_size=MLP, max_position_embeddings=steps + 1)
    config = gaejax.PPOConfig(
        num_envs=batch,
        num_steps=steps,
        fresh_rows=True,
        discount=1.0,
        gae_lambda=GAE_LAMBDA,
        learning_rate=LEARNING_RATE,
        num_epochs=EPOCHS,
        num_minibatches=MINIBATCHES,
        max_grad_norm=MAX_NORM,
    )
    algorithm = gaejax.ppo(environment, decoder_policy(shape))
    state = jax.jit(algorithm.init)(jax.random.key(0), config)
    started = time.perf_counter()
    compiled = jax.jit(algorithm.step, donate_argnums=0).lower(state).compile()
    compile_seconds = time.perf_counter() - started
    holder = [state]

    def step() -> None:
        holder[0], info = compiled(holder[0])
        jax.block_until_ready((holder[0], info))

    step()
    seconds = timed(step)
    arrays = {name: jnp.ones((steps, batch)) for name in ("rewards", "values", "next_values")}
    flags = {name: jnp.zeros((steps, batch), bool) for name in ("terminated", "truncated", "mask")}
    gae = jax.jit(lambda arrays, flags: gaejax.gae(**arrays, **flags, discount=1.0, gae_lambda=GAE_LAMBDA))
    jax.block_until_ready(gae(arrays, flags))
    gae_seconds = timed(lambda: jax.block_until_ready(gae(arrays, flags)))
    return {"seconds": seconds, "compile_seconds": compile_seconds, "gae_share": gae_seconds / seconds}


def in_torch(batch: int) -> dict[str, float]:
    """Measures the PyTorch loop."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import LlamaConfig, LlamaModel  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    sizes = dict(hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=MLP)
    trunk = LlamaModel(LlamaConfig(vocab_size=VOCAB + 1, max_position_embeddings=64, **sizes))
    head, value_head = torch.nn.Linear(HIDDEN, VOCAB + 1, bias=False), torch.nn.Linear(HIDDEN, 1)
    parameters = [*trunk.parameters(), *head.parameters(), *value_head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=1e-5)
    gae_seconds = [0.0]

    @torch.no_grad()
    def sample() -> tuple:
        prompts = torch.randint(0, VOCAB, (batch, PROMPT))
        text, new, cache, log_probs, values = prompts, prompts, None, [], []
        for _ in range(RESPONSE):
            output = trunk(input_ids=new, past_key_values=cache, use_cache=True)
            cache, features = output.past_key_values, output.last_hidden_state[:, -1]
            logits = head(features)
            logits[:, VOCAB] = -1e9  # no response ends early
            distribution = torch.distributions.Categorical(logits=logits)
            token = distribution.sample()
            log_probs.append(distribution.log_prob(token))
            values.append(value_head(features)[:, 0])
            new = token[:, None]
            text = torch.cat([text, new], dim=1)
        return text, torch.stack(log_probs, dim=1), torch.stack(values, dim=1)

    def advantages_of(rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        following, reversed_advantages = torch.zeros(batch), []
        for t in reversed(range(RESPONSE)):
            next_values = values[:, t + 1] if t + 1 < RESPONSE else torch.zeros(batch)
            following = rewards[:, t] + next_values - values[:, t] + GAE_LAMBDA * following
            reversed_advantages.append(following)
        gae_seconds[0] += time.perf_counter() - started
        return torch.stack(reversed_advantages[::-1], dim=1)

    def step() -> None:
        text, old, values = sample()
        rewards = torch.zeros(batch, RESPONSE)
        rewards[:, -1] = (text[:, PROMPT:] == text[:, :1]).float().mean(dim=1)
        advantages = advantages_of(rewards, values)
        targets = advantages + values
        for _ in range(EPOCHS):
            for chosen in torch.randperm(batch).chunk(MINIBATCHES):
                features = trunk(input_ids=text[chosen, :-1], use_cache=False).last_hidden_state[:, PROMPT - 1 :]
                distribution = torch.distributions.Categorical(logits=head(features))
                own = advantages[chosen]
                own = (own - own.mean()) / (own.std() + 1e-8)
                ratios = torch.exp(distribution.log_prob(text[chosen, PROMPT:]) - old[chosen])
                policy_loss = -torch.minimum(ratios * own, ratios.clamp(1 - CLIP, 1 + CLIP) * own).mean()
                value_loss = 0.5 * (value_head(features)[..., 0] - targets[chosen]).square().mean()
                loss = policy_loss + VALUE * value_loss - ENTROPY * distribution.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
                optimizer.step()

    step()
    gae_seconds[0] = 0.0
    seconds = timed(step)
    return {
        "seconds": seconds,
        "compile_seconds": 0.0,
        "gae_share": gae_seconds[0] / ROUNDS / STEPS_PER_ROUND / seconds,
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true", help="measure the PyTorch loop (PyTorch must be installed)")
    torch = parser.parse_args(argv).torch
    for batch in BATCHES:
        measure(batch, torch)


def measure(batch: int, torch: bool) -> None:
    """Measures one size, prints it and appends it to the results."""
    found = in_torch(batch) if torch else in_jax(batch)
    name = f"pytorch, {os.environ.get('OMP_NUM_THREADS', 'all')} threads" if torch else "gaejax"
    row = {"framework": name, "texts": batch, "tokens_per_second": batch * RESPONSE / found["seconds"]} | found
    print(
        f"{name}, {batch} texts: {row['tokens_per_second']:,.0f} response tokens/s, {1000 * row['seconds']:.0f} ms per "
        f"iteration, {100 * row['gae_share']:.2f} % of it GAE, {row['compile_seconds']:.1f} s of compiling"
    )
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
