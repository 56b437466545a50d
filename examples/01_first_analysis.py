"""A first analysis: the MiniLM sentence encoder that comes with ZSEI, offline and without a key.

Takes under a minute on two cores: fewer samples and proposals than the default, the same stages.
"""

# %% Analyse. `model` and `data` are optional: the default is MiniLM on docstrings and source lines.
import zsei

settings = zsei.Settings(samples=32, batch_size=8, probes=2, max_proposals=2, rounds=1)
record = zsei.analyze("demo:minilm", settings=settings)
print(f"{record.id}: {record.provenance.model_class}, {record.provenance.parameters:,} parameters")

# %% Which heads matter? The ranking names its criterion and was checked against exact ablation.
ranking = next(r for r in record.validation.rankings if r.kind == "head")
print(f"heads by {ranking.criterion}:")
for head, score in zip(ranking.components[:3], ranking.scores[:3], strict=True):
    print(f"  {head:28} {score:.4f} {record.conditions.metric}")
for check in record.validation.criteria:
    if check.kind == "head" and check.spearman is not None:
        print(f"  {check.criterion:42} Spearman {check.spearman:+.2f}  {check.status}")

# %% What was found, worst first.
for finding in sorted(record.findings, key=lambda f: -f.severity)[:5]:
    print(f"{finding.severity:.2f} {finding.code}: {finding.message}")

# %% What may go: the gate has measured each proposal on held-out data, on a copy.
for proposal, verdict in zip(record.proposals, record.verdicts, strict=True):
    print(f"{proposal.strategy} {proposal.id}: {verdict.reason}")

# %% The flow graph is a networkx graph.
print(record.graph)
