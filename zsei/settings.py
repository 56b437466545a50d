"""Settings: defaults < `zsei.toml` in the working folder < `ZSEI_*` variables < arguments.

No language model can reach these values: the gate reads its limits here and nowhere else.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

SafetyLevel = Literal["conservative", "moderate", "aggressive"]
EditKind = Literal["channels", "heads", "layers"]

LIMITS: dict[EditKind, dict[SafetyLevel, tuple[float, float]]] = {
    "channels": {
        "conservative": (0.02, 0.05),
        "moderate": (0.03, 0.08),
        "aggressive": (0.05, 0.12),
    },
    "heads": {"conservative": (0.03, 0.08), "moderate": (0.05, 0.12), "aggressive": (0.08, 0.15)},
    "layers": {"conservative": (0.05, 0.12), "moderate": (0.08, 0.15), "aggressive": (0.12, 0.20)},
}
"""Largest (accuracy drop, relative loss increase) by kind of change and safety level. Under
*fidelity*: (1 - agreement, mean divergence)."""


SPEED_BOUNDS = {"embedding": 1e-3, "logits": 1e-2, "values": 1e-2}
"""Largest mean divergence of a speed-up that is not exact, by kind of output: 1 - cos (so a mean
cosine of 0.999), nats, relative L2."""


class LLMSettings(BaseModel):
    """How the language model is called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deadline_seconds: float = Field(default=60.0, gt=0)
    """Wall-clock limit of one question, retries and re-asks included."""
    attempt_seconds: float = Field(default=30.0, gt=0)
    retries: int = Field(default=2, ge=0)
    """Transport retries (429, 5xx, dropped connections)."""
    repairs: int = Field(default=1, ge=0)
    """How often an invalid answer is asked for again with the list of what is wrong."""
    max_tokens: int = Field(default=2000, gt=0)
    """Tokens of one answer; one that was cut off is asked for again with twice as many."""

    max_calls: int = Field(default=40, gt=0)
    """Calls of one analysis, question or conversation; like all budgets, for all agents together.
    What the cache answers is free, and transport retries belong to their call."""
    max_total_tokens: int | None = Field(default=1_000_000, gt=0)
    """Tokens read and written by all calls; None sets no limit."""
    max_cost: float | None = Field(default=None, gt=0)
    """Dollars of all calls; None sets no limit. It needs a price that is known."""
    input_price: float | None = Field(default=None, ge=0)
    """Dollars per million tokens read, where litellm's list lacks the model or a contract differs;
    0 for a model of one's own."""
    output_price: float | None = Field(default=None, ge=0)
    """Dollars per million tokens written; set both prices or none."""

    cache: bool = True
    """Whether a question asked before is answered from `home`, without a call."""
    cache_megabytes: float = Field(default=32.0, gt=0)
    """Size of all answers kept; the ones unused for longest go."""

    @model_validator(mode="after")
    def _both_prices(self) -> "LLMSettings":
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("input_price and output_price must be set together")
        return self


class Settings(BaseSettings):
    """Everything a user may set."""

    model_config = SettingsConfigDict(
        env_prefix="ZSEI_",
        env_nested_delimiter="__",
        toml_file="zsei.toml",
        frozen=True,
        extra="forbid",
    )

    safety: SafetyLevel = "moderate"
    seed: int = Field(default=0, ge=0)
    budget: float | None = Field(default=None, gt=0)
    """Seconds the analysis may take; optional work is left out when it runs short."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads; None leaves torch's own choice."""
    home: Path = Path(".zsei")
    """Where memory lives."""
    cards: Path | None = None
    """A project folder with agents/, prompts/, knowledge/ that override or add cards."""
    llm: str | None = None
    """A litellm model name, or None for the rule-based voice."""
    llm_call: LLMSettings = LLMSettings()
    chroma_url: str | None = None
    """Address of a Chroma server that a team shares for searching, as http://HOST:PORT; None keeps
    the index in a folder beside memory."""
    embedder: Path | None = None
    """Folder of a sentence-transformers model; None is the MiniLM that ZSEI depends on."""
    allow_remote_code: bool = False
    """Let a Hugging Face folder run Python code that came with it."""
    allow_download: bool = True
    """Let a hub name be downloaded; a missing network is noticed within seconds."""

    stream: Literal["auto", "always", "never"] = "auto"
    """Whether a folder's weights stay in a memory-mapped file, so that one layer at a time is in
    memory. "auto": when their float32 size does not fit four times into the available memory."""
    memory: float | None = Field(default=None, gt=0)
    """GB of memory the analysis may count on; None asks the system what is available."""

    samples: int = Field(default=128, ge=4)
    """Samples used in all, calibration and held-out together, when the data has more."""
    batch_size: int = Field(default=16, ge=1)
    length: int = Field(default=64, ge=4)
    """Tokens per text."""
    probes: int = Field(default=4, ge=1)
    """Random output directions for output sensitivity."""
    ablation_sample: int = Field(default=24, ge=2)
    """Components ablated exactly at least, to validate the cheap scores."""
    truth_samples: int = Field(default=32, ge=1)
    """Calibration samples on which exact ablation is run, in whole batches."""
    rows: int = Field(default=512, ge=16)
    """Rows (sample and position) kept of every value: what ranks and similarities rest on."""
    replacement: Literal["mean", "zero", "resample"] = "mean"
    halves: bool = True
    """Whether findings are looked for again on either half of the samples, which costs about as
    much as the trace itself."""
    random_paths: int = Field(default=200, ge=0)
    """Random paths that every critical path is compared with; 0 leaves the comparison out."""

    bootstrap: int = Field(default=2000, ge=200)
    """Bootstrap resamples of the gate."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    min_heads: int = Field(default=2, ge=1)
    min_channels: int = Field(default=16, ge=1)
    max_layer_share: float = Field(default=0.2, gt=0, le=1)
    """At most this share of the layers may go."""
    max_drop: float | None = Field(default=None, gt=0, lt=1)
    """The user's own limit, in the place of both limits of the safety level: largest drop of the
    score (of the loss, relatively, where there is no score), or mean divergence without labels."""
    max_divergence: float | None = Field(default=None, gt=0)
    """Largest mean divergence of a speed-up that is not exact, in the unit of the objective's
    metric; None takes `SPEED_BOUNDS`."""
    latency_limit: float | None = Field(default=None, gt=0)
    """Largest latency ratio after / before that is accepted; None lets no clock decide."""
    max_proposals: int = Field(default=6, ge=0)
    """Proposals tried in one turn, the smaller ones that a rejection leads to not counted."""
    strategist_rounds: int = Field(default=3, ge=0)
    """Turns of a language model that proposes, each with all verdicts so far in front of it."""
    rounds: int = Field(default=2, ge=1)
    """Times a rejected proposal may come back smaller."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, which wins over `zsei.toml`; no .env is read."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
