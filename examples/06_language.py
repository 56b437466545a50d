"""A language model: which tokens carry the answer, how far back it looks, where it decides.

A small Llama learns, in seconds, a made-up language in which every token repeats the one eight
places before it, most of the time. So the truth is known: eight tokens are all that it can use.
"""

# %% Make the language, and train on it.
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import zsei

torch.manual_seed(0)
TOKENS, LENGTH, BACK = 16, 32, 8


def texts(n: int) -> torch.Tensor:
    """Token ids [n, t]: each is the one eight before it, but for one in twenty."""
    ids = torch.randint(TOKENS, (n, LENGTH))
    repeats = torch.rand(n, LENGTH) < 0.95
    for t in range(BACK, LENGTH):
        ids[:, t] = torch.where(repeats[:, t], ids[:, t - BACK], ids[:, t])
    return ids


model = LlamaForCausalLM(
    LlamaConfig(vocab_size=TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=LENGTH,
                bos_token_id=0, eos_token_id=0)
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=400)
for _ in range(400):
    ids = texts(32)
    logits = model(input_ids=ids).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
print(
    f"trained to {loss.item():.2f} nats a token; knowing nothing is {torch.tensor(16.0).log():.2f}"
)

# %% Analyse it on new texts.
settings = zsei.Settings(samples=64, batch_size=16, probes=2, ablation_sample=4, max_proposals=0)
record = zsei.analyze(model.eval(), {"input_ids": texts(64)}, settings=settings)
maps = {matrix.name: matrix for matrix in record.matrices}

# %% How far back: texts really cut to their last k tokens.
effects = maps["context_effect"]
print(f"what keeping only the last k of {LENGTH} tokens does, on {effects.n} texts:")
for kept, effect in zip(effects.columns, effects.values[0], strict=True):
    print(f"  k = {kept:>2}: {effect:.3f} nats")
context = record.measured("model.embed_tokens", "effective_context")
print(f"effective context: {context.value:.0f} tokens ({context.note}); truth: {BACK}")

# %% Which tokens: share of the answer's sensitivity by distance, after each layer.
flow = maps["token_flow"]
print("where the answer stands, by distance to it:")
print("  " + " " * 18 + "".join(f"{name:>8}" for name in flow.columns))
for component, shares in zip(flow.rows, flow.values, strict=True):
    print(f"  {component:18}" + "".join(f"{share:8.0%}" for share in shares))

# %% When: what the final head would say after each layer.
for layer in flow.rows[1:]:
    agreement = record.measured(layer, "lens_agreement")
    print(f"after {layer}: {agreement.value:.0%} of the final decisions stand")

# %% The heads that look far, what decoding has to keep, and the findings.
heads = [component.id for component in record.components if component.kind == "head"]
far = max(heads, key=lambda head: record.measured(head, "long_range_share").value)
share = record.measured(far, "long_range_share").value
print(f"{far} carries {share:.0%} of the effect times distance of all heads")
cache = record.measured("output", "kv_bytes_per_token")
print(f"keys and values: {cache.value:.0f} bytes a token")
for finding in record.findings:
    if finding.code in ("context-bottleneck", "vocabulary-bottleneck"):
        print(f"{finding.code}: {finding.message}")
        for check in finding.checks:
            print(f"  {check.outcome}: {check.message}")
