"""What an audit is told, as typed, frozen values: the sections of params.yaml. `neuronlens.params` reads them."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    field_serializer,
    field_validator,
)

from neuronlens.errors import redacted
from neuronlens.rules import Rule
from neuronlens.values import (
    BatchTokens,
    Bytes,
    Control,
    Dtype,
    Gate,
    KeepRows,
    Operator,
    Pooling,
    Positions,
    Preset,
    RangeKind,
    Runner,
    Saliency,
    Scoring,
    Several,
    Share,
    Sweep,
    Tau,
    ValueOrList,
    as_list,
    unique,
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class FamilyParams(_Section):
    """Where a model keeps its parts, as far as neither docs/models.md nor its structure tells rightly. Paths begin below the one above."""

    blocks: str | None = Field(default=None, description="the list of blocks, below the model without its head")
    mlp_down: str | None = Field(
        default=None, description="below a block, the projection that mlp_post is the input of"
    )
    attn_out: str | None = Field(default=None, description="below a block, what gives the vector that attention adds")
    mlp_out: str | None = Field(default=None, description="below a block, what gives the vector that the MLP adds")
    decoder: bool | None = Field(default=None, description="whether tokens see those before them alone")
    layers: str | None = Field(default=None, description="config attribute that counts the blocks")
    inner: str | None = Field(default=None, description="config attribute with the width of the MLP")


class CheckpointParams(_Section):
    """Which model."""

    path: str = Field(default="", description="folder of a checkpoint, or hub id (owner/name)")
    revision: str | None = Field(default=None, description="hub revision: a branch, a tag or a commit")
    dtype: Dtype = Field(default="auto", description="auto: as stored; float32, bfloat16, float16")
    sae: str | dict[str, str] | None = Field(
        default=None,
        description="folder of a sparse autoencoder (SAELens, sparsify), or site -> folder; its latents are sites such as "
        "sae_resid_post.3",
    )
    family: FamilyParams | None = Field(
        default=None, description="where a model of an unknown family keeps its parts (docs/models.md)"
    )
    device_map: Literal["auto"] | None = Field(
        default=None, description="auto: spread over all cards of the machine, and its main memory, by accelerate"
    )


class DatasetParams(_Section):
    """Which labelled text."""

    path: str = Field(default="", description="Parquet, CSV or JSON Lines file, or hub:owner/name")
    text: str = Field(default="text", description="column with the text")
    label: str = Field(default="label", description="column with the concept")
    split: str = Field(
        default="split", description="column with train / fit, validation, test; made where the data has none"
    )
    max_tokens: int = Field(default=128, ge=4, description="longer texts are cut, a prompt template never is")
    prompt: str | None = Field(
        default=None,
        description='language models: template around a row, such as "{text} Topic:"; the label is what follows',
        json_schema_extra={"pattern": r"^(?:(?!\{text\})[\s\S])*\{text\}(?:(?!\{text\})[\s\S])*$"},
    )
    labels: dict[str, str] | None = Field(
        default=None, description="concept -> text of its label (language models) or name of its class (classifiers)"
    )

    @field_validator("prompt")
    @classmethod
    def _names_the_text(cls, value: str | None) -> str | None:
        if value is not None and value.count("{text}") != 1:
            raise ValueError("must contain {text} exactly once")
        return value


class ExtractParams(_Section):
    """Where activations are read."""

    sites: Sweep[str] = Field(
        default=("resid_post.last",), description="component.layer; layer: a number counted from 0, last, middle or all"
    )
    pooling: Pooling = Field(default="auto", description="auto: last token of decoders, first token of encoders")
    batch_tokens: BatchTokens = Field(
        default="auto", description="tokens of a batch, padding included; auto: what suits the device"
    )
    keep_rows: KeepRows = Field(
        default="auto",
        description="whether every row's activations are stored; false: statistics alone; auto: as long as they fit disk_budget",
    )
    disk_budget: Bytes = Field(
        default=20 * 10**9, description='most that the activations of rows may take on disk, such as "20 GB"'
    )


class FitParams(_Section):
    """How neurons are ranked."""

    rows: Literal["correct", "all"] = Field(default="correct", description="rows of the fit split that count")
    saliency: Sweep[Saliency] = Field(default=("mean_abs", "d_prime"), description="how neurons are ranked")
    minimum_rows: int = Field(default=30, ge=2, description="fewer rows of a concept raise a warning on the report")


class TunedParams(_Section):
    """Candidates of the tuned method. Which of them edits a concept at a site is decided on the validation rows; lists are sweeps."""

    ranges: Sweep[RangeKind] = Field(default=("gaussian", "discriminative"), description="kinds of range")
    tau: Sweep[Tau] = Field(default=(2.0,), description="half-width of gaussian and quantile ranges")
    threshold: Sweep[Tau] = Field(default=(1.0, 2.0), description="density ratio of discriminative ranges")
    saliency: Sweep[Saliency] = Field(default=("separation",), description="rankings of the neurons")
    top: Sweep[Share] = Field(default=(0.3, 0.6), description="share of a site's neurons that is edited")
    gate: Sweep[Gate] = Field(
        default=("agreement",),
        description="agreement: edit a token only where the neurons together say it is the concept",
    )
    operators: Sweep[Operator] = Field(
        default=("steer:-0.5", "steer:-1", "steer:-2"), description="what happens in range"
    )


class InterventionParams(_Section):
    """What is edited; lists are sweeps."""

    ranges: Sweep[RangeKind] = Field(
        default=("gaussian", "full"),
        description="gaussian: mean +- tau * std; quantile: the same share of the concept's rows by quantiles; discriminative: where the "
        "concept is denser than everything else; full: the whole neuron",
    )
    tau: Sweep[Tau] = Field(
        default=(2.0, 2.5), description="half-width of gaussian and quantile ranges in standard deviations"
    )
    threshold: Sweep[Tau] = Field(
        default=(1.0,), description="least ratio of the concept's density to the others' in a discriminative range"
    )
    top: Sweep[Share] = Field(default=(0.1, 0.3, 0.6, 1.0), description="share of a site's neurons that is edited")
    operators: Sweep[Operator] = Field(
        default=("zero",),
        description="zero, mean, complement_mean, clamp, transport, dampen or dampen:FACTOR, scale:FACTOR, steer:ALPHA",
    )
    positions: Positions = Field(
        default="all",
        description="tokens that are edited: all, last (of the prompt), pooled (where activations are read), prompt, generated",
    )
    controls: Annotated[tuple[Control, ...], BeforeValidator(as_list), AfterValidator(unique), ValueOrList()] = Field(
        default=("random_neurons", "random_ranges", "other_concept", "leace"),
        description="what the ranges are held against; [] for nothing",
    )
    tuned: TunedParams | None = Field(
        default=TunedParams(), description="candidates of the tuned method; null for none"
    )
    joint: Annotated[tuple[Several, ...], BeforeValidator(as_list), AfterValidator(unique), ValueOrList()] = Field(
        default=(2,),
        description="with several sites: of how many of the best the tuned edits are also made together; [] for none",
    )


class EvaluateParams(_Section):
    """How an intervention's effect is measured."""

    scoring: Scoring = Field(
        default="constrained",
        description="language models: the likeliest label (constrained), the same with probabilities among the labels alone (labels), the "
        "likeliest token (free), or whether greedy text names the label (generate)",
    )
    auxiliary: str | None = Field(
        default=None, description="ordinary text for perplexity: .txt (a document a line) or a table"
    )
    auxiliary_rows: int = Field(default=200, ge=1, description="documents used for perplexity")
    questions: str | None = Field(
        default=None, description="language models: multiple-choice questions in MMLU's format, JSON Lines"
    )
    bootstrap: int = Field(
        default=1000, ge=100, description="resamples that say how surely a matched target drop is reached"
    )


class RemoteParams(_Section):
    """Where audits are shared. No stage depends on it."""

    url: str | None = Field(
        default=None,
        description="DVC remote that results are looked for in, and `push` sends to: name, address or folder; DVC's own default where null",
    )
    push: bool = Field(
        default=False,
        strict=True,
        description="send an audit when it is complete; otherwise nothing is sent unless asked for",
    )

    @field_serializer("url", when_used="json")
    def _without_what_opens_it(self, value: str | None) -> str | None:
        """What Prefect's server is told of a run are its parameters as JSON; the run itself has them as they are."""
        return None if value is None else redacted(value)


class RunnerParams(_Section):
    """Who makes the parts of extraction and evaluation; a text alone is the kind. No stage depends on it."""

    kind: Runner = Field(
        default="threads",
        description="threads of this process, processes of this machine, or workers of a Dask cluster",
    )
    workers: PositiveInt | None = Field(
        default=None,
        description="processes: how many; null: one for each card, or two without one",
    )
    address: str | None = Field(
        default=None,
        description="dask: the scheduler, such as tcp://host:8786; null: DASK_SCHEDULER_ADDRESS, else processes of this machine",
    )
    store: str | None = Field(
        default=None,
        description="dask: where workers that see none of this machine's files read and write, such as s3://bucket/folder (any address "
        "that fsspec knows); null: they see them",
    )

    @field_serializer("address", "store", when_used="json")
    def _without_what_opens_it(self, value: str | None) -> str | None:
        """What Prefect's server is told of a run are its parameters as JSON; the run itself has them as they are."""
        return None if value is None else redacted(value)


class WaiverParams(_Section):
    """Why a gate may fail for a while."""

    reason: str = Field(min_length=1, description="what is known of the failure, for those who read the report")
    until: date = Field(description="last day on which it holds, such as 2027-01-31")


class GateParams(_Section):
    """An inequality that an audit must fulfil; a text alone is its rule."""

    rule: str = Field(
        min_length=1,
        description="such as selectivity.sports >= 0.3, base_accuracy drop <= 0.02, drift.max_wasserstein <= 0.5",
    )
    method: str | None = Field(default=None, description="whose numbers; the tuned method's unless told otherwise")
    site: str | None = Field(default=None, description="where; the deepest site unless told otherwise")
    waiver: WaiverParams | None = Field(default=None, description="a failure that is known and does not count for now")

    @field_validator("rule")
    @classmethod
    def _is_a_rule(cls, value: str) -> str:
        Rule.parse(value)
        return value


def _as_gate(value: Any) -> Any:
    return {"rule": value} if isinstance(value, str) else value


def _as_runner(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


SHARED = ("remote", "runner")  # sections that say who computes and who is told, and nothing about an audit


class Config(_Section):
    """Everything an audit is told."""

    preset: Preset = Field(
        default="audited", description="sets what is left open in fit and interventions; official: the published method"
    )
    checkpoint: CheckpointParams = Field(default_factory=CheckpointParams, description="which model")
    dataset: DatasetParams = Field(default_factory=DatasetParams, description="which labelled text")
    extract: ExtractParams = Field(default_factory=ExtractParams, description="where activations are read")
    fit: FitParams = Field(default_factory=FitParams, description="how neurons are ranked")
    interventions: InterventionParams = Field(
        default_factory=InterventionParams, description="what is edited; lists are sweeps"
    )
    evaluate: EvaluateParams = Field(
        default_factory=EvaluateParams, description="how an intervention's effect is measured"
    )
    gates: dict[str, Annotated[GateParams, BeforeValidator(_as_gate, json_schema_input_type=str | GateParams)]] = Field(
        default_factory=dict, description="name -> what an audit must fulfil; no stage depends on them"
    )
    remote: RemoteParams = Field(default_factory=RemoteParams, description="where audits are shared")
    runner: Annotated[RunnerParams, BeforeValidator(_as_runner, json_schema_input_type=Runner | RunnerParams)] = Field(
        default_factory=RunnerParams, description="who makes the parts of extraction and evaluation"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="decides splits, random neurons and resamples")


def config_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of params.yaml, so that an editor accepts what `load_config` accepts.

    It is stricter in one thing: numbers in quotes and truth values, which `load_config` reads as numbers where one is due, are refused.
    """
    schema = Config.model_json_schema()
    for field in schema["properties"].values():
        if "$ref" in field:  # a section left empty says nothing
            field["anyOf"] = [{"$ref": field.pop("$ref")}, {"type": "null"}]
        elif any("$ref" in kind for kind in field.get("anyOf", ())):
            field["anyOf"].append({"type": "null"})
        elif field.get("type") == "object":
            field["type"] = ["object", "null"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "type": ["object", "null"]}
