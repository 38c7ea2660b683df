"""The run file: what one evolution is, with the paper's values as defaults (METHOD.md, "Parameters").

One type serves the command line (YAML), the API (`wire.py` of the controller) and the planner. Keys are fixed and may grow.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from semievol.algorithm.collaborators import numbered, sample_collaborators
from semievol.algorithm.types import MAX_OPTIONS, AnswerForm, Collaborator, Task, TaskType, Weights
from semievol.common import errors
from semievol.common.columns import check_map
from semievol.common.endpoints import check_url, is_url
from semievol.ports import BASE_MODEL

_HOLDOUT = 0.2
_LEAST_HELD_OUT = 20  # the accuracy of fewer rows says nothing: one standard error of 20 rows is 10 points

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
ENGINES = ("transformers", "vllm")  # of our own
_LATER_KEYS = {"placement": "auto", "trainer": "peft"}  # with what was so before there was such a key


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(_Strict):
    """Where the rows are: paths relative to the run file, hub datasets, or URIs of uploads. `map`: our column name -> theirs."""

    labeled: str = Field(min_length=1)
    unlabeled: str = Field(min_length=1)
    test: str = ""
    dev: str = ""
    map: dict[str, str] = {}

    @field_validator("map")
    @classmethod
    def _known(cls, names: dict[str, str]) -> dict[str, str]:
        try:
            check_map(names)
        except errors.InvalidInput as error:
            raise ValueError(error.message) from error
        return names

    @model_serializer(mode="wrap")
    def _without_empty_map(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs from before there were maps keep their ids."""
        return {name: value for name, value in serialize(self).items() if name != "map" or value}


class TaskSpec(_Strict):
    """What every row asks for."""

    type: TaskType = TaskType.CHOICE
    answer: AnswerForm = AnswerForm.LETTER
    instruction: str = ""
    options: list[str] = []

    @field_validator("options")
    @classmethod
    def _distinct(cls, options: list[str]) -> list[str]:
        options = [option.strip() for option in options]
        if options and not 2 <= len(options) <= MAX_OPTIONS:
            raise ValueError(f"a choice has 2 to {MAX_OPTIONS} options, these are {len(options)}")
        if not all(options) or len(set(options)) < len(options):
            raise ValueError("options are texts, none empty and none twice")
        return options

    @model_validator(mode="after")
    def _only_choices_have_options(self) -> TaskSpec:
        if self.options and self.type is not TaskType.CHOICE:
            raise ValueError(f"task.options is for type choice, not {self.type.value}")
        return self

    def task(self) -> Task:
        return Task(self.type, self.answer, self.instruction, tuple(self.options))


class CollaboratorSpec(_Strict):
    """One collaborator, given explicitly."""

    model: Weights
    references: int = Field(ge=0)


class TrainSpec(_Strict):
    """FT(.): Tables 4 and 5 and App. B of the paper, and the authors' files (rank, cutoff, batch)."""

    epochs: float = Field(2.0, gt=0, le=1000)
    learning_rate: float = Field(1e-4, gt=0, le=1)
    lora_rank: int = Field(16, ge=1, le=512)
    lora_alpha: int = Field(0, ge=0)  # 0: twice the rank
    batch_size: int = Field(1, ge=1, le=4096)
    gradient_accumulation: int = Field(8, ge=1, le=4096)
    max_tokens: int = Field(1024, ge=8)
    references: int = Field(0, ge=0)


class GateSpec(_Strict):
    """What an iteration's model must reach to replace the best so far: accuracy on `data.dev`, or on labeled rows kept out for it."""

    holdout: float | None = Field(None, ge=0, le=0.5)  # None: see RunSpec.holdout
    min_gain: float = Field(0.0, ge=-1, le=1)


class RunSpec(_Strict):
    """One evolution."""

    name: str = Field(pattern=NAME_PATTERN)
    model: str = Field(min_length=1)
    embedding: str = Field(min_length=1)
    data: DataSpec
    task: TaskSpec = TaskSpec()
    references: int = Field(3, ge=0, le=32)
    collaborators: Annotated[int, Field(ge=1, le=64)] | list[CollaboratorSpec] = 4
    theta: float = Field(50.0, ge=0, le=100)
    iterations: int = Field(1, ge=1, le=100)
    gate: GateSpec = GateSpec()
    train: TrainSpec = TrainSpec()
    seed: int = Field(0, ge=0, lt=2**63)
    in_weight: bool = True
    judge: Literal["disagreement", "all"] = "disagreement"
    entropy_source: Literal["scored", "generated"] = "scored"
    threshold_reference: Literal["unlabeled", "labeled"] = "unlabeled"
    include_labeled: bool = True
    max_tokens: int = Field(128, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    max_no_answer: float = Field(0.5, ge=0, le=1)
    bad_rows: Literal["fail", "quarantine"] = "fail"
    shard_rows: int = Field(64, ge=1, le=65536)
    engine: str = "transformers"
    placement: Literal["auto", "shared", "dedicated"] = "auto"
    trainer: Literal["peft", "openai"] = "peft"

    @field_validator("name")
    @classmethod
    def _is_an_alias(cls, name: str) -> str:
        """The run's best model is served under its name."""
        if name == BASE_MODEL:
            raise ValueError(f"{BASE_MODEL} is how the base model is asked for, so no run can be called so")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        if isinstance(self.collaborators, list):
            if not 1 <= len(self.collaborators) <= 64:
                raise ValueError("collaborators: give 1 to 64 of them")
            for index, one in enumerate(self.collaborators):
                if one.references > self.references:
                    raise ValueError(
                        f"collaborators[{index}].references is {one.references}, but only {self.references} are retrieved"
                    )
                if one.model is Weights.WARM and not self.in_weight:
                    raise ValueError(f"collaborators[{index}].model is warm, but in_weight: false trains no warm model")
        if self.data.dev and self.gate.holdout:
            raise ValueError("gate.holdout keeps labeled rows out in place of data.dev: give one of the two")
        if self.train.references > self.references:
            raise ValueError(
                f"train.references is {self.train.references}, but only {self.references} are retrieved (references)"
            )
        return self

    @model_validator(mode="after")
    def _endpoint_can_train(self) -> RunSpec:
        """What an endpoint that trains cannot do, or does not know."""
        if self.trainer == "peft":
            return self
        if not is_url(self.engine):
            raise ValueError(f"trainer is openai, but engine is {self.engine}: name the endpoint that trains and answers there")
        for key, wanted in (("entropy_source", "generated"), ("threshold_reference", "unlabeled")):
            if getattr(self, key) != wanted:
                raise ValueError(
                    f"{key} is {getattr(self, key)}, which needs scores, and an endpoint gives none: set {key}: {wanted}"
                )
        for key in ("lora_rank", "lora_alpha", "max_tokens"):
            if getattr(self.train, key) != TrainSpec.model_fields[key].default:
                raise ValueError(f"train.{key} means nothing to an endpoint that trains (trainer: openai): leave it out")
        if self.train.epochs != round(self.train.epochs):
            raise ValueError(f"train.epochs is {self.train.epochs:g}, but an endpoint trains whole epochs")
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs from before there were these keys keep their ids."""
        return {name: value for name, value in serialize(self).items() if _LATER_KEYS.get(name) != value}

    @property
    def holdout(self) -> tuple[float, int]:
        """The share of the labeled rows that is kept out for the gate (0: none), and how few are not worth it.

        Unless the run file says otherwise: a fifth, if there is more than one iteration, no `data.dev`, and enough rows to decide by.
        """
        if self.data.dev or self.gate.holdout is not None:
            return self.gate.holdout or 0.0, 1
        return (_HOLDOUT if self.iterations > 1 else 0.0), _LEAST_HELD_OUT

    @property
    def endpoint(self) -> str:
        """URL of the OpenAI-compatible endpoint that answers, without a slash at its end; empty where an engine of our own does."""
        return self.engine.rstrip("/") if is_url(self.engine) else ""

    def collaborator_list(self) -> tuple[Collaborator, ...]:
        """The n configurations of Eq. 4: as given, or sampled from {base, warm} x {0..k} by the run's seed."""
        if isinstance(self.collaborators, list):
            return numbered([(one.model, one.references) for one in self.collaborators])
        return sample_collaborators(self.collaborators, self.references, self.seed, in_weight=self.in_weight)


def parse_run_spec(value: Any, *, source: str = "the run file") -> RunSpec:
    """A spec from plain values. Raises InvalidInput(field=) that says what is wrong with which key; for an unknown key, which is nearest."""
    if not isinstance(value, dict):
        raise errors.InvalidInput(f"{source} must hold keys and values, such as `name: demo`; `semievol init` writes one.")
    try:
        spec = RunSpec.model_validate(value)
    except ValidationError as error:
        # a misspelled key is also a missing one: the misspelling says more
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        # of a union's branches (a number or a list of collaborators) the one that got furthest is the one that was meant
        first = max(
            (problem for problem in problems if problem["loc"][:1] == problems[0]["loc"][:1]),
            key=lambda problem: len(problem["loc"]),
        )
        # pydantic puts the branch of a union into the location; a user knows only their own keys
        path = [
            str(part)
            for part in first["loc"]
            if not (isinstance(part, str) and ("[" in part or part in ("int", "constrained-int")))
        ]
        field = ".".join(path) or _named_in(first["msg"])
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 and first["loc"][:1] != ("collaborators",) else ""
        raise errors.InvalidInput(f"{source}: {_describe(first, field, path)}{more}", field=field or None) from error
    _check_engine(spec, source)
    return spec


def _check_engine(spec: RunSpec, source: str) -> None:
    if spec.endpoint:
        check_url(spec.endpoint, field="engine")
    elif spec.engine not in ENGINES:
        raise errors.InvalidInput(
            f"{source}: engine is {spec.engine!r}; it is {', '.join(ENGINES)}, or the URL of an OpenAI-compatible endpoint.",
            field="engine",
        )


class _KeysOnce(yaml.SafeLoader):
    """YAML takes the last of two equal keys: half of what was meant, and nobody is told."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":  # merges come first, and may be written over
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_run_file(text: str, *, source: str) -> dict[str, Any]:
    """The plain values of a YAML run file. Raises InvalidInput with the line of a syntax error."""
    try:
        value = yaml.load(text, _KeysOnce)  # a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise errors.InvalidInput(f"{where}: not valid YAML: {getattr(error, 'problem', None) or 'cannot be parsed'}.") from error
    if not isinstance(value, dict):
        raise errors.InvalidInput(f"{source} must hold keys and values, such as `name: demo`; `semievol init` writes one.")
    return value


def _describe(problem: Any, field: str, path: list[str]) -> str:
    kind, given = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _keys_at(path[:-1]), n=1)
        return f"unknown key {field!r}" + (
            f"; did you mean {'.'.join([*path[:-1], near[0]])!r}?" if near else "; see docs/run-file.md."
        )
    if kind == "missing":
        return f"the key {field!r} is missing."
    if kind == "value_error":
        return f"{problem['ctx']['error']}."
    if kind == "string_type" and isinstance(given, bool | int | float):
        why = " (YAML takes a bare yes, no, on or off for true or false)" if isinstance(given, bool) else ""
        return f"{field}: a text is expected, not {given!r}; put it in quotes{why}."
    name = "letters, digits, `-`, `_` and `.`, at most 63 of them, the first a letter or digit"
    message = name if kind == "string_pattern_mismatch" else problem["msg"]
    return f"{field}: {message[0].lower()}{message[1:]}, not {given!r}."


def _named_in(message: str) -> str:
    """The key that a rule about several keys begins with (`train.references is 9, but ...`), if it does."""
    match = re.match(r"(?:Value error, )?(([a-z_]+)(?:\[\d+\])?(?:\.[a-z_]+)?)", message)
    return match[1] if match and match[2] in RunSpec.model_fields else ""


def _keys_at(path: list[str]) -> list[str]:
    """The known keys at a place of the run file."""
    models: dict[tuple[str, ...], type[BaseModel]] = {
        (): RunSpec,
        ("data",): DataSpec,
        ("task",): TaskSpec,
        ("train",): TrainSpec,
        ("gate",): GateSpec,
    }
    model = models.get(tuple(path), CollaboratorSpec if path[:1] == ["collaborators"] else RunSpec)
    return list(model.model_fields)
