"""Records as an analysis would write them, of models of every shape, for the report's tests."""

import random

from zsei.records import (
    AnalysisRecord,
    AttributedEdge,
    Check,
    Claim,
    Component,
    Conditions,
    CriterionCheck,
    Failure,
    Finding,
    FlowData,
    GraphEdge,
    GraphNode,
    Interpretation,
    Matrix,
    Measurement,
    Objection,
    Proposal,
    Provenance,
    Ranking,
    Round,
    StageResult,
    Timings,
    Validation,
    Verdict,
)

HOSTILE = [
    '<script>alert("x")</script>',
    "\" onmouseover='alert(1)' x=\"",
    "{{ 7 * 7 }}{% raw %}",
    "</title></svg></style><img src=x onerror=alert(1)>",
    "[bold red]not markup[/bold red]",
    "\u202eevil\u202c\x1b[31mred\x07\x00",
    "a\u0301" + "\u0301" * 500,
    "x" * 10_000,
    "javascript:alert(1)",
    "http://tracker.invalid/pixel.png",
]


def measured(name: str, value: float | None, unit: str = "", std: float | None = None, n: int = 64):
    if value is None:
        return Measurement(name=name, value=None, unit=unit, state="could not tell", note="too few")
    return Measurement(name=name, value=value, unit=unit, std=std, n=n)


def provenance(**changes) -> Provenance:
    base = {
        "zsei": "0.1.0", "model": "demo:minilm", "model_class": "BertModel", "family": "bert",
        "model_hash": "9f2c" * 16, "parameters": 22_713_216, "fidelity": "program",
        "versions": {"python": "3.12.4", "torch": "2.13.0", "transformers": "5.23.0"}, "seed": 0,
        "cards": {"agents/flow.md": "a1b2c3d4e5f6", "prompts/explain_flow.md": "0f1e2d3c4b5a"},
    }  # fmt: skip
    return Provenance(**{**base, **changes})


def conditions(**changes) -> Conditions:
    base = {
        "objective": "fidelity",
        "objective_reason": "the model ends in embeddings and the data has no labels",
        "metric": "1 - cos", "groups": {"prose": 64, "code": 64}, "calibration_samples": 64,
        "held_out_samples": 64, "input_shape": {"input_ids": (16, 64), "attention_mask": (16, 64)},
        "probes": 4,
    }  # fmt: skip
    return Conditions(**{**base, **changes})


class _Draft:
    """Components, measurements and a graph while they grow."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.components: list[Component] = []
        self.measurements: dict[str, tuple[Measurement, ...]] = {}
        self.nodes: list[GraphNode] = []
        self.edges: list[GraphEdge] = []

    def positive(self, scale: float) -> float:
        return scale * self.random.lognormvariate(0, 1.1)

    def add(self, name: str, kind: str, *, node: bool = True, scale: float = 0.02, **fields) -> str:
        width = fields.get("width", 384)
        component = Component(id=name, kind=kind, path=name.replace("/", "."), **fields)
        self.components.append(component)
        rank = self.random.uniform(0.2, 0.8) * width
        effect = self.positive(scale)
        taken = [
            measured("mean_abs", self.positive(0.4), "", 0.05),
            measured("rms", self.positive(0.6), "", 0.08),
            measured("near_zero_share", self.random.random() * 0.1, "share", 0.01),
            measured("effective_rank", rank, "", 3.1),
            measured("sensitivity", effect, "1 - cos", effect / 5),
            measured("taylor", self.positive(0.001), "", 0.0002),
        ]
        if kind == "head":
            taken += [
                measured("ablation_effect", effect * self.random.uniform(0.8, 1.2), "1 - cos",
                         effect / 8),
                measured("attention_entropy", self.random.random(), "", 0.05),
                measured("first_token_mass", self.random.random(), "share", 0.04),
                measured("diagonal_mass", self.random.random() * 0.3, "share", 0.02),
                measured("previous_token_mass", self.random.random() * 0.3, "share", 0.02),
            ]  # fmt: skip
        if kind == "layer":
            taken += [measured("block_influence", self.random.uniform(0.02, 0.4), "", 0.01)]
        self.measurements[name] = tuple(taken)
        if node:
            self.nodes.append(
                GraphNode(
                    id=name, kind=kind,
                    attributes={
                        "layer": component.layer, "parameters": component.parameters,
                        "flops": component.flops, "bytes": component.bytes,
                        "effective_rank": rank, "capacity": rank, "saturation": rank / width,
                        "sensitivity": effect,
                        "ablation_effect": effect * 1.05 if kind == "head" else None,
                    },
                )
            )  # fmt: skip
        return name

    def join(self, name: str, layer: int | None) -> str:
        self.components.append(Component(id=name, kind="residual", path="", layer=layer))
        self.nodes.append(
            GraphNode(id=name, kind="residual", attributes={"layer": layer, "bytes": 98304})
        )
        return name

    def edge(self, source: str, target: str, share: float | None) -> None:
        self.edges.append(
            GraphEdge(
                source=source, target=target,
                attributes={
                    "bytes": 98304, "share": share, "attribution": self.random.gauss(0.0005, 0.002),
                    "capacity": self.random.uniform(20, 300),
                },
            )
        )  # fmt: skip

    def shares(self, count: int) -> list[float]:
        raw = [self.random.lognormvariate(0, 0.8) for _ in range(count)]
        return [r / sum(raw) for r in raw]

    def walk(self, start: str, preferred) -> tuple[str, ...]:
        """A path along real edges that goes through preferred nodes where it can."""
        path = [start]
        while True:
            after = [e.target for e in self.edges if e.source == path[-1]]
            if not after:
                return tuple(path)
            streams = [t for t in after if "head" not in t and not t.endswith("mlp")]
            path.append(next((t for t in after if preferred(t)), (streams or after)[0]))

    def flow(self) -> FlowData:
        return FlowData(nodes=tuple(self.nodes), edges=tuple(self.edges))


def _block(draft: _Draft, base: str, layer: int, heads: int, stream: str, *, post: bool) -> str:
    """One transformer block; returns the node that carries the stream on."""
    draft.add(base, "layer", node=False, layer=layer, parameters=1_774_464, flops=230_000_000)
    size = {"layer": layer, "parent": base}
    source = stream
    if not post:
        source = draft.add(f"{base}.norm1", "norm", parameters=768, **size)
        draft.edge(stream, source, 1.0)
    stream = _attention(draft, base, layer, heads, source, stream, post=post)
    if post:
        stream = _norm(draft, f"{base}.attention.output.LayerNorm", stream, size)
        source = stream
    else:
        source = _norm(draft, f"{base}.norm2", stream, size)
    mlp = draft.add(
        f"{base}/mlp", "mlp", parameters=1_181_568, flops=151_000_000, units=1536, scale=0.2, **size
    )
    draft.edge(source, mlp, 1.0)
    join = draft.join(f"{base}/residual.2", layer)
    draft.edge(stream, join, 0.62)
    draft.edge(mlp, join, 0.38)
    return _norm(draft, f"{base}.output.LayerNorm", join, size) if post else join


def _norm(draft: _Draft, name: str, source: str, size: dict) -> str:
    norm = draft.add(name, "norm", parameters=768, **size)
    draft.edge(source, norm, 1.0)
    return norm


def _attention(
    draft: _Draft, base: str, layer: int, heads: int, source: str, stream: str, *, post: bool,
    name: str = "attention", memory: str | None = None,
) -> str:  # fmt: skip
    attention = f"{base}/{name}"
    shares = draft.shares(heads)
    draft.add(
        attention, "attention", layer=layer, parent=base, parameters=591_360, flops=78_000_000,
        units=heads, scale=0.15,
    )  # fmt: skip
    for index in range(heads):
        head = draft.add(
            f"{base}/{'' if name == 'attention' else name + '.'}head.{index}", "head", layer=layer,
            parent=attention, index=index, width=32, parameters=591_360 // heads,
        )  # fmt: skip
        draft.edge(source, head, 1.0 if memory is None else 0.3)
        if memory is not None:
            draft.edge(memory, head, 0.7)
        draft.edge(head, attention, shares[index])
    join = draft.join(f"{base}/{'residual' if name == 'attention' else name + '.residual'}", layer)
    skip = draft.random.uniform(0.5, 0.85)
    draft.edge(stream, join, skip)
    draft.edge(attention, join, 1 - skip)
    return join


def transformer(layers: int = 6, heads: int = 12, *, post: bool = True, seed: int = 1) -> _Draft:
    draft = _Draft(seed)
    draft.add("input_ids", "input")
    draft.add("embeddings.word_embeddings", "embedding", parameters=11_720_448, scale=0.4)
    draft.edge("input_ids", "embeddings.word_embeddings", 1.0)
    stream = "embeddings.word_embeddings"
    if post:
        stream = _norm(draft, "embeddings.LayerNorm", stream, {})
    for layer in range(layers):
        stream = _block(draft, f"encoder.layer.{layer}", layer, heads, stream, post=post)
    draft.add("output", "output")
    draft.edge(stream, "output", 1.0)
    return draft


def findings(draft: _Draft, layers: int, heads: int) -> tuple[Finding, ...]:
    def head(layer: int, index: int) -> str:
        return f"encoder.layer.{layer % layers}/head.{index % heads}"

    path = draft.walk("input_ids", lambda n: n.endswith(("residual", "2/mlp")))
    made = [
        Finding.make(
            code="critical-path-information", components=path, severity=0.4,
            evidence=(measured("share", 0.031, "", 0.004),),
            message="3.1 % of the flow runs along this path, 4.2 times the median of its length.",
        ),
    ]  # fmt: skip
    for index in range(min(9, layers * heads // 4)):
        one, other = head(index, index), head(index, index + 3)
        made.append(
            Finding.make(
                code="redundant-heads", components=(one, other), severity=0.85 - 0.07 * index,
                evidence=(
                    measured("cka", 0.97 - 0.01 * index, "", 0.01),
                    measured("interaction", 0.0021, "1 - cos", 0.0004),
                    measured("ablation_effect", 0.0008, "1 - cos", 0.0002),
                ),
                message=f"{one} and {other} write nearly the same output (CKA "
                f"{0.97 - 0.01 * index:.2f}); together they back each other up.",
            )
        )  # fmt: skip
    made.append(
        Finding.make(
            code="information-bottleneck",
            components=("encoder.layer.4/mlp",),
            severity=0.55,
            evidence=(measured("effective_rank", 61.2, "", 3.3), measured("rank_cap", 384.0, n=0)),
            message="encoder.layer.4/mlp keeps 61 of 240 effective dimensions; artificial: "
            "widening it changes the objective.",
        )
    )
    made.append(
        Finding.make(
            code="memory-bottleneck",
            components=("embeddings.word_embeddings",),
            severity=0.3,
            evidence=(measured("bytes", 46_881_792.0, "bytes", n=0),),
            message="The word embedding holds 52 % of all parameters.",
        )
    )
    return tuple(made)


def _verdict(proposal: Proposal, outcome: str, reason: str, bound: float, limit: float) -> Verdict:
    failed = outcome == "rejected"
    return Verdict(
        proposal_id=proposal.id, outcome=outcome, reason=reason,
        before=(
            measured("quality", 1.0, "agreement", 0.0), measured("parameters", 22713216, "", n=0),
            measured("flops", 1.397e9, "FLOPs", n=0), measured("bytes", 90852864, "bytes", n=0),
        ),
        after=(
            measured("quality", 0.981, "agreement", 0.02),
            measured("parameters", 22122816, "", n=0), measured("flops", 1.319e9, "FLOPs", n=0),
            measured("bytes", 88491264, "bytes", n=0),
        ),
        bounds=(
            Measurement(name="divergence_upper", value=bound, unit="1 - cos", n=64,
                        note=f"limit {limit}"),
            Measurement(name="agreement_drop_upper", value=bound / 3, n=64, note="limit 0.05"),
            Measurement(name="accuracy_kept", value=0.981, n=64, note="at least 0.95"),
        ),
        stages=(
            StageResult(stage="shape", outcome="passed", detail="removes 590,400 parameters"),
            StageResult(stage="architecture", outcome="passed", detail="whole"),
            StageResult(stage="forward", outcome="passed", detail="finite"),
            StageResult(stage="gradients", outcome="passed", detail="reach 103 of 103 parameters"),
            StageResult(stage="quality", outcome="failed" if failed else "passed",
                        detail=f"bound {bound} against {limit}"),
            StageResult(stage="cost", outcome="skipped" if failed else "passed", detail="-5.6 %"),
            StageResult(stage="stability", outcome="skipped" if failed else "passed", detail=""),
            StageResult(stage="reload", outcome="skipped" if failed else "passed",
                        detail="equal outputs"),
        ),
    )  # fmt: skip


def judged(layers: int, heads: int, made: tuple[Finding, ...]):
    first = Proposal.make(
        strategy="prune-heads", priority=0, finding_ids=(made[1].id,),
        components=tuple(f"encoder.layer.{i % layers}/head.{(3 * i) % heads}" for i in range(5)),
        rationale="Five heads whose ablation moves the output least, two of them redundant.",
        expected=(measured("parameters", -590_400, "", n=0),),
    )  # fmt: skip
    second = Proposal.make(
        strategy="remove-layer",
        priority=1,
        components=("encoder.layer.2",),
        rationale="Block influence 0.03: the layer hardly turns the stream.",
    )
    third = Proposal.make(
        strategy="prune-neurons",
        priority=2,
        components=("encoder.layer.4/mlp",),
        params={"neurons": 128, "round_to": 32},
        source="gpt-4o",
        rationale="The MLP uses 61 of 384 directions.",
    )
    verdicts = (
        _verdict(first, "accepted", "The 95 % bound 0.031 lies inside the limit 0.12.", 0.031,
                 0.12),
        _verdict(second, "rejected",
                 "Divergence 0.214 with 95 % bound 0.231 exceeds the limit 0.15.", 0.231, 0.15),
        _verdict(third, "inconclusive", "64 samples leave a bound of 0.081 straddling 0.08.",
                 0.081, 0.08),
    )  # fmt: skip
    combined = _verdict(first, "accepted", "All accepted together: bound 0.031 inside 0.12.", 0.031,
                        0.12)  # fmt: skip
    return (first, second, third), verdicts, combined


def maps(layer_ids: tuple[str, ...], names: list[str]) -> tuple[Matrix, ...]:
    """A square map with a gap, and one below and above zero."""
    count = len(layer_ids)
    return (
        Matrix(
            name="layer_similarity", title="Similarity of the stream after each layer",
            rows=layer_ids, columns=layer_ids, unit="CKA", n=64, note="from 512 rows",
            values=tuple(
                tuple(None if (i, j) == (0, 1) else 1 / (1 + abs(i - j)) for j in range(count))
                for i in range(count)
            ),
        ),
        Matrix(
            name="interaction", title="Synergy and conflict of heads", rows=tuple(names[:24]),
            columns=tuple(names[:24]), n=8,
            values=tuple(
                tuple((i - j) / 100 for j in range(len(names[:24]))) for i in range(len(names[:24]))
            ),
        ),
    )  # fmt: skip


CHECKED = Check(
    name="exact-ablation", outcome="disagrees",
    evidence=(measured("ablation_effect", 0.0031, "1 - cos", 0.0004),),
    message="Ablating them together moves the output by 0.0031, more than their sum.",
)  # fmt: skip


def encoder(layers: int = 6, heads: int = 12, *, post: bool = True, seed: int = 1, **changes):
    draft = transformer(layers, heads, post=post, seed=seed)
    made = findings(draft, layers, heads)
    made = (made[0].model_copy(update={"checks": (CHECKED,)}), *made[1:])
    proposals, verdicts, combined = judged(layers, heads, made)
    names = [c.id for c in draft.components if c.kind == "head"]
    scores = {n: next(m.value for m in draft.measurements[n] if m.name == "ablation_effect")
              for n in names}  # fmt: skip
    ordered = sorted(names, key=lambda n: -scores[n])
    layer_ids = tuple(c.id for c in draft.components if c.kind == "layer")
    clocked = Finding.make(
        code="critical-path-latency", severity=0.5,
        components=draft.walk("input_ids", lambda n: n.endswith(("head.0", "mlp", "attention"))),
        evidence=(measured("seconds", 0.412, "s", 0.01),),
        message="The longest path takes 412 ms of one batch.",
    )  # fmt: skip
    body = {
        "id": "a-3f9c21d07b54", "provenance": provenance(), "conditions": conditions(),
        "components": tuple(draft.components), "measurements": draft.measurements,
        "flow": draft.flow(), "findings": made, "matrices": maps(layer_ids, names),
        "edges": tuple(
            AttributedEdge(writer=names[0], reader=name, port="q", attribution=0.01 / (i + 1),
                           std=0.001, n=32, route_share=0.02)
            for i, name in enumerate(names[heads : heads + 90])
        ),
        "groups": {
            group: {name: (measured("sensitivity", scores[name] * factor, "1 - cos"),)
                    for name in names}
            for group, factor in (("prose", 0.5), ("code", 1.5))
        },
        "interpretations": (
            Interpretation(
                id="i-1", agent="flow", voice="rules", finding_ids=(made[0].id,),
                text="The residual stream carries 62 % of what the last layer reads. Head "
                f"{ordered[0]} moves the output most: replacing it by its mean changes 1 - cos by "
                f"{scores[ordered[0]]:.3f}.",
                claims=(
                    Claim(text="62 %", component="encoder.layer.5/residual.2", measurement="share",
                          stated=0.62, measured=0.62, holds=True),
                    Claim(text="9 in 10 heads", measurement="share", stated=0.9, measured=0.4,
                          holds=False),
                ), struck=2,
            ),
            Interpretation(
                id="i-2", agent="redundancy", voice="gpt-4o", finding_ids=(made[1].id,),
                text="Nine pairs of heads say the same thing; one of each pair must stay.",
            ),
            Interpretation(
                id="i-3", agent="strategist", voice="rules", finding_ids=(),
                text="Five heads can go within the limit. Removing layer 2 was measured and "
                "refused.",
            ),
        ),
        "objections": (
            Objection(about="i-2", kind="not supported", agent="critic", voice="gpt-4o",
                      text="No finding says that one of each pair must stay."),
            Objection(about=made[1].id, kind="too few samples", agent="critic", voice="rules",
                      text="The samples were too few to confirm it."),
            Objection(about=proposals[1].id, kind="tried before", agent="critic", voice="gpt-4o",
                      text="It was refused with less."),
        ),
        "proposals": proposals, "verdicts": verdicts, "combined": combined,
        "rounds": (
            Round(number=1, voice="rules", interpretation_ids=("i-3",),
                  proposal_ids=tuple(p.id for p in proposals[:2]),
                  outcomes={"accepted": 1, "rejected": 1}, gain=0.041),
            Round(number=2, voice="gpt-4o", proposal_ids=tuple(p.id for p in proposals[2:]),
                  outcomes={"inconclusive": len(proposals) - 2}, gain=0.041),
        ),
        "validation": Validation(
            instrumentation=(measured("output_difference", 0.0, "", n=64),),
            criteria=(
                CriterionCheck(kind="head", criterion="sensitivity", kendall=0.88, spearman=0.97,
                               top_hits=0.94, n=72, status="validated"),
                CriterionCheck(kind="head", criterion="taylor", kendall=0.41, spearman=0.57,
                               top_hits=0.5, n=72, status="not validated",
                               note="first order; flat at the clean model"),
                CriterionCheck(kind="layer", criterion="sensitivity", kendall=None, spearman=None,
                               top_hits=None, n=3, status="could not tell", note="3 layers"),
            ),
            rankings=(
                Ranking(kind="head", criterion="sensitivity", components=tuple(ordered),
                        scores=tuple(scores[n] for n in ordered)),
                Ranking(kind="layer", criterion="ablation", components=layer_ids,
                        scores=tuple(0.4 / (i + 1) for i in range(len(layer_ids)))),
            ),
            checks=(CHECKED.model_copy(update={"about": "instrumentation", "outcome": "agrees"}),),
            notes=("Half-split noise of the truth: Kendall 0.91.",),
        ),
        "failures": (
            Failure(stage="advice", what="the language model did not answer",
                    why="no answer within 60 s", fix="raise ZSEI_LLM_CALL__DEADLINE_SECONDS"),
        ),
        "timings": Timings(
            created="2026-03-14T09:26:53Z",
            stages={"export": 2.1, "trace": 4.6, "ablate": 11.2, "gate": 9.4, "report": 0.2},
            components={c.id: draft.positive(0.004) for c in draft.components
                        if c.kind in ("attention", "mlp", "embedding", "norm")},
            overhead=1.07,
            latency={proposals[0].id: (0.951, 0.934, 0.972), proposals[2].id: (0.99, 0.96, 1.03)},
            findings=(clocked,),
            remarks=("Measured on 1 thread.",),
        ),
    }  # fmt: skip
    return AnalysisRecord(**{**body, **changes})


def monster():
    """48 layers of 32 heads."""
    return encoder(
        48, 32, post=False, seed=2,
        provenance=provenance(
            model="org/large-48x32", model_class="LlamaForCausalLM", family="llama",
            parameters=13_015_864_320,
        ),
    )  # fmt: skip


def cnn():
    """A ResNet: convolutions, joins, no heads, no language model, nothing accepted."""
    draft = _Draft(3)
    draft.add("pixel_values", "input")
    draft.add("conv1", "conv", parameters=9408, flops=118_000_000, width=64)
    draft.edge("pixel_values", "conv1", 1.0)
    draft.add("bn1", "norm", parameters=128, width=64)
    draft.edge("conv1", "bn1", 1.0)
    stream = "bn1"
    for layer in range(4):
        base = f"layer{layer // 2 + 1}.{layer % 2}"
        width = 64 * (layer // 2 + 1)
        draft.add(base, "layer", node=False, layer=layer, parameters=73_984 * (layer + 1),
                  flops=231_000_000, width=width)  # fmt: skip
        size = {"layer": layer, "parent": base, "width": width, "flops": 115_000_000,
                "parameters": 36_864, "units": width}  # fmt: skip
        last = stream
        for name, kind in (("conv1", "conv"), ("bn1", "norm"), ("conv2", "conv"), ("bn2", "norm")):
            part = draft.add(f"{base}.{name}", kind, **size)
            draft.edge(last, part, 1.0)
            last = part
        skip = stream
        if layer == 2:
            skip = draft.add(f"{base}.downsample.0", "conv", **size)
            draft.edge(stream, skip, 1.0)
        join = draft.join(f"{base}/residual", layer)
        draft.edge(skip, join, 0.55)
        draft.edge(last, join, 0.45)
        stream = join
    for name, kind in (("avgpool", "pool"), ("fc", "linear"), ("output", "output")):
        draft.add(name, kind, width=512, parameters=5130 if name == "fc" else 0)
        draft.edge(stream, name, 1.0)
        stream = name
    return AnalysisRecord(
        id="a-cnn", provenance=provenance(model="shop.models:resnet", model_class="ResNet",
                                          family="resnet", parameters=11_689_512),
        conditions=conditions(objective="classification", metric="loss", groups={"all": 128},
                              input_shape={"pixel_values": (16, 3, 32, 32)}),
        components=tuple(draft.components), measurements=draft.measurements, flow=draft.flow(),
    )  # fmt: skip


def chain():
    """An LSTM at module fidelity: no layers, no heads, no findings, no clock."""
    draft = _Draft(4)
    last = draft.add("input", "input")
    for name, kind in (("lstm", "recurrent"), ("dense", "linear"), ("head", "module")):
        part = draft.add(name, kind, parameters=4000)
        draft.edge(last, part, None)
        last = part
    return AnalysisRecord(
        id="a-lstm",
        provenance=provenance(model="Forecaster", model_class="Forecaster", family="Forecaster",
                              parameters=12_345, fidelity="modules"),
        conditions=conditions(objective="regression", metric="relative L2"),
        components=tuple(draft.components), flow=draft.flow(),
    )  # fmt: skip


def encoder_decoder():
    """Two streams, joined by cross-attention."""
    draft = _Draft(5)
    draft.add("input_ids", "input")
    draft.add("encoder.embed_tokens", "embedding", parameters=1000)
    draft.edge("input_ids", "encoder.embed_tokens", 1.0)
    stream = "encoder.embed_tokens"
    for layer in range(2):
        stream = _block(draft, f"encoder.block.{layer}", layer, 6, stream, post=False)
    memory = _norm(draft, "encoder.final_layer_norm", stream, {})
    draft.add("decoder_input_ids", "input")
    draft.add("decoder.embed_tokens", "embedding", parameters=1000)
    draft.edge("decoder_input_ids", "decoder.embed_tokens", 1.0)
    stream = "decoder.embed_tokens"
    for layer in range(2, 4):
        base = f"decoder.block.{layer - 2}"
        draft.add(base, "layer", node=False, layer=layer, parameters=1000)
        size = {"layer": layer, "parent": base}
        normed = _norm(draft, f"{base}.norm1", stream, size)
        stream = _attention(draft, base, layer, 6, normed, stream, post=False)
        normed = _norm(draft, f"{base}.norm2", stream, size)
        stream = _attention(draft, base, layer, 6, normed, stream, post=False,
                            name="cross_attention", memory=memory)  # fmt: skip
        normed = _norm(draft, f"{base}.norm3", stream, size)
        mlp = draft.add(f"{base}/mlp", "mlp", **size)
        draft.edge(normed, mlp, 1.0)
        join = draft.join(f"{base}/residual.3", layer)
        draft.edge(stream, join, 0.6)
        draft.edge(mlp, join, 0.4)
        stream = join
    draft.add("lm_head", "linear", parameters=1000)
    draft.edge(stream, "lm_head", 1.0)
    draft.add("logits", "output")
    draft.edge("lm_head", "logits", 1.0)
    return AnalysisRecord(
        id="a-t5", provenance=provenance(model="t5", model_class="T5", family="t5"),
        conditions=conditions(objective="causal-lm"), components=tuple(draft.components),
        measurements=draft.measurements, flow=draft.flow(),
    )  # fmt: skip


def hostile():
    """Every text field that can come from outside holds something nasty."""
    names = [f"{text}{i}" for i, text in enumerate(HOSTILE)]
    evil = " ".join(HOSTILE)
    components = tuple(
        Component(id=name, kind="head" if i % 2 else "mlp", path=name, layer=i // 2,
                  parent=names[i - 1] if i % 2 else None, index=0 if i % 2 else None, flops=10,
                  parameters=10)
        for i, name in enumerate(names)
    )  # fmt: skip
    nasty = Measurement(name=HOSTILE[0], value=0.5, unit=HOSTILE[3], std=0.1, n=3, note=evil)
    flow = FlowData(
        nodes=tuple(
            GraphNode(id=c.id, kind=HOSTILE[i % 5] if i % 3 else c.kind,
                      attributes={"layer": c.layer, HOSTILE[0]: HOSTILE[3], "sensitivity": 0.1})
            for i, c in enumerate(components)
        ),
        edges=tuple(
            GraphEdge(source=a, target=b, attributes={HOSTILE[1]: evil, "share": 0.5})
            for a, b in zip(names, names[1:] + names[:1], strict=True)
        ),
    )  # fmt: skip
    finding = Finding(id=f"f {evil}", code=HOSTILE[0], components=tuple(names), severity=1.0,
                      evidence=(nasty,), message=evil,
                      checks=(Check(name=evil, outcome="agrees", evidence=(nasty,), message=evil,
                                    about=evil),))  # fmt: skip
    proposal = Proposal(id=evil, strategy=HOSTILE[3], params={HOSTILE[0]: HOSTILE[3]},
                        components=tuple(names), rationale=evil, expected=(nasty,),
                        source=HOSTILE[0], finding_ids=(finding.id,))  # fmt: skip
    verdict = Verdict(
        proposal_id=evil, outcome="accepted", before=(nasty,), after=(nasty,), bounds=(nasty,),
        stages=(StageResult(stage=HOSTILE[0], outcome="passed", detail=evil),), reason=evil,
    )  # fmt: skip
    return AnalysisRecord(
        id=evil,
        provenance=provenance(model=evil, model_class=HOSTILE[0], family=HOSTILE[3], llm=evil,
                              versions={HOSTILE[0]: HOSTILE[3]}, cards={evil: evil},
                              model_hash=evil),
        conditions=conditions(objective=HOSTILE[0], objective_reason=evil, metric=HOSTILE[3],
                              groups={evil: 3}, input_shape={HOSTILE[0]: (1, 2)}),
        components=components,
        measurements={n: (nasty, measured("sensitivity", 0.1 * i)) for i, n in enumerate(names)},
        flow=flow, findings=(finding,), groups={evil: {names[0]: (nasty,)}},
        matrices=(Matrix(name=HOSTILE[0], title=evil, rows=tuple(names), columns=(evil,), unit=evil,
                         values=tuple((0.1,) for _ in names), note=evil, component=evil),),
        edges=(AttributedEdge(writer=evil, reader=HOSTILE[0], attribution=0.1),),
        interpretations=(
            Interpretation(id=evil, agent=HOSTILE[0], voice=evil, finding_ids=(finding.id,),
                           text=evil, struck=1,
                           claims=(Claim(text=evil, component=evil, measurement=HOSTILE[0],
                                         stated=1.0, holds=False),)),
        ),
        objections=tuple(
            Objection(about=about, kind="risk", agent=HOSTILE[0], voice=evil, text=evil)
            for about in (evil, finding.id)
        ),
        proposals=(proposal,), verdicts=(verdict,), combined=verdict,
        rounds=tuple(
            Round(number=number, voice=evil, proposal_ids=(evil,), outcomes={"accepted": 1},
                  gain=0.5)
            for number in (1, 2)
        ),
        validation=Validation(
            instrumentation=(nasty,), notes=(evil,),
            criteria=(CriterionCheck(kind=HOSTILE[0], criterion=HOSTILE[3], kendall=0.1,
                                     spearman=None, top_hits=None, n=3, status="could not tell",
                                     note=evil),),
            rankings=(Ranking(kind=HOSTILE[0], criterion=HOSTILE[3], components=tuple(names),
                              scores=tuple(float(i) for i in range(len(names)))),),
        ),
        failures=(Failure(stage=HOSTILE[0], what=evil, why=evil, fix=evil),),
        timings=Timings(created=evil, stages={evil: 1.0}, components=dict.fromkeys(names, 0.1),
                        latency={evil: (1.0, 0.9, 1.1)}, findings=(finding,), remarks=(evil,)),
    )  # fmt: skip
