"""The sweep that most tests run."""

from __future__ import annotations

TINY = """\
name: tiny
design:
  factors: {tokens: [512, 1024]}
  repetitions: 2
  seed: 7
model:
  config: {model_type: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,
           intermediate_size: 64}
data:
  synthetic: {kind: markov, vocab_size: 64, tokens: 20_000, seed: 3}
  sequence_length: 32
train: {batch_size: 4, learning_rate: 1.0e-2}
eval: {tokens: 512}
energy: {period: 20ms, idle: 40ms}
resources: {gpus: 0, cpus: 1}
analysis: {dv: [pee, joules_per_token, perplexity]}
"""
"""A sweep whose trials take a fraction of a second: 4 trials of a 20 K parameter model on a Markov source."""
