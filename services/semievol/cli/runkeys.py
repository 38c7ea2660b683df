"""Every key of the run file in words: what `semievol init` writes and docs/run-file.md lists. Ranges and defaults come from RunSpec itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from semievol.common.runspec import DataSpec, GateSpec, RunSpec, TaskSpec, TrainSpec


@dataclass(frozen=True)
class Key:
    """`path` in dotted form; `values` where the type does not say it; `origin`: where the default comes from."""

    path: str
    meaning: str
    origin: str = ""
    values: str = ""


# what a run file cannot do without, with the values that `semievol init` writes
EXAMPLES: dict[str, str] = {
    "name": "demo",
    "model": "bundled:smollm2-135m",
    "embedding": "bundled:minilm-l6",
    "data.labeled": "labeled.csv",
    "data.unlabeled": "unlabeled.csv",
}

KEYS = (
    Key("name", "Name of the run, and of the alias that its best model gets.", values="letters, digits, `-`, `_`, `.`; 1 to 63"),
    Key(
        "model",
        "Base model.",
        values="a directory (relative to this file), `bundled:NAME` or a hub id (`OWNER/NAME`, `OWNER/NAME@REVISION`)",
    ),
    Key(
        "embedding",
        "Embedding model for the references.",
        values="as for `model`, or the URL of a text-embeddings-inference server: `http://host:8080`",
    ),
    Key(
        "data.labeled",
        "Rows with answers (CSV, JSONL or Parquet: question, options, answer; id and category if you like; or chats: messages, or prompt and completion).",
        values="a file, relative to this file; or a dataset: a directory (`DIR`, `DIR:SPLIT`) or `hub:OWNER/NAME:SPLIT`, `hub:OWNER/NAME@REVISION:SPLIT`",
    ),
    Key(
        "data.unlabeled",
        "Rows to learn from without answers. An answer column changes nothing but the report.",
        values="as for `data.labeled`",
    ),
    Key("data.test", "Rows to measure on; empty: nothing is measured.", values="as for `data.labeled`"),
    Key(
        "data.dev",
        "Rows to decide on whether an iteration's model is better (gate), never trained on.",
        values="as for `data.labeled`",
    ),
    Key(
        "data.map",
        "The files' names for our columns, ours on the left. A file that has our name and not the other is taken as it is.",
        values="such as `{question: text, answer: label}`",
    ),
    Key(
        "task.type",
        "How answers are compared: one of the options, a number within 1 %, or folded text.",
        "the commonest kind of data in the paper",
    ),
    Key(
        "task.answer",
        "What multiple choice asks for: the letter, or the option's text, which small models learn far better.",
        "the paper's prompts (Tables 6 and 7)",
    ),
    Key("task.instruction", "What every prompt begins with; empty: built-in words for the task."),
    Key(
        "task.options",
        "The options of every row, for classification: shown once, with the instruction, and no file needs a column for them.",
        values="a list of 2 to 26 texts such as `[positive, neutral, negative]`; empty: each row brings its own",
    ),
    Key("references", "k: nearest labeled rows that a prompt may show (Eq. 3).", "the paper"),
    Key(
        "collaborators",
        "n: configurations that answer every row (Eq. 4), drawn from {base, warm} x {0..references}; or the list itself.",
        "the paper",
        "1 to 64, or a list such as `[{model: warm, references: 0}, {model: base, references: 3}]`",
    ),
    Key("theta", "Percentile of the entropy cut (Eq. 7): about this share of the rows is kept.", "the paper"),
    Key("iterations", "How often the whole is repeated on the rows that are left (Sec. 4.3.7).", "the paper's main results"),
    Key(
        "gate.holdout",
        "Share of the labeled rows that is kept out to decide by where there is no `data.dev`; 0: none, and no gate.",
        "with several iterations a fifth, if that is 20 rows or more; else none",
        "0 to 0.5",
    ),
    Key(
        "gate.min_gain",
        "What the evolved model must gain there over the best so far, or iterations end and the best model stays.",
    ),
    Key("train.epochs", "Passes over the training rows.", "the paper, Table 4"),
    Key("train.learning_rate", "Peak learning rate (cosine schedule, warm-up 0.1).", "the paper, Table 4"),
    Key("train.lora_rank", "Rank of the adapter.", "the authors' files"),
    Key("train.lora_alpha", "Scale of the adapter; 0: twice the rank.", "the authors' trainer"),
    Key("train.batch_size", "Examples per forward pass.", "the authors' files"),
    Key("train.gradient_accumulation", "Forward passes per update.", "the paper, Table 4"),
    Key("train.max_tokens", "Longest training example in tokens; longer ones are cut off.", "the authors' files"),
    Key("train.references", "References in the training prompts, at most `references`.", "Eq. 1 trains on plain tasks"),
    Key("seed", "Seed of everything that is drawn."),
    Key(
        "in_weight",
        "false: no warm model; the base judges and scores.",
        "the paper; false is its ablation of in-weight propagation",
    ),
    Key("judge", "Which rows are judged (Eq. 5): those where the answers disagree, or all.", "the paper, Sec. 3.1"),
    Key(
        "entropy_source",
        "What H (Eq. 6) is computed from: the warm model's score of the response, or what was seen while sampling.",
        "the same measure for every row, whoever wrote its response",
    ),
    Key(
        "threshold_reference",
        "Whose entropies the percentile is taken over (Eq. 7).",
        "the paper's formula; its text says labeled",
    ),
    Key(
        "include_labeled",
        "false: the evolved model is trained on the selected rows alone.",
        "Eq. 9; false is Algorithm 1, line 11",
    ),
    Key("max_tokens", "Longest reply in tokens.", "short answers"),
    Key("temperature", "Temperature of the collaborators; judging and evaluation are greedy.", "the paper, App. B.1"),
    Key(
        "max_no_answer",
        "The run stops where for more than this share of the rows no collaborator has a valid answer.",
        "half of the rows without an answer is a broken prompt",
    ),
    Key("bad_rows", "What a row that cannot be used does: end the run, or be left out (at most one in ten)."),
    Key(
        "shard_rows",
        "Unlabeled rows per shard, the unit of resume. Of more than 10,000 rows take a hundredth: thousands of shards take long to plan.",
        "seconds to a minute of work",
    ),
    Key(
        "engine",
        "What answers for the base model: this machine, or an OpenAI-compatible endpoint that serves `model` under that name.",
        values="`transformers`, `vllm` (`make setup-vllm`), or a URL such as `http://host:8000/v1`",
    ),
    Key("placement", "vLLM's engines: one for all weights, or one for each of base, warm and evolved (docs/vllm.md)."),
    Key(
        "trainer",
        "What fine-tunes: this machine (LoRA), or the endpoint of `engine` by its fine-tuning API, which then needs no weights here.",
    ),
)

_SECTIONS: dict[str, type[BaseModel]] = {"data": DataSpec, "task": TaskSpec, "train": TrainSpec, "gate": GateSpec}
_WIDTH = 118


def field_of(path: str) -> FieldInfo:
    """The field of RunSpec that a key names."""
    section, _, name = path.rpartition(".")
    return (_SECTIONS[section] if section else RunSpec).model_fields[name]


def default_text(key: Key) -> str:
    """The default as YAML, or an example where the key is required."""
    field = field_of(key.path)
    value: Any = EXAMPLES[key.path] if field.is_required() else field.get_default()
    value = value.value if isinstance(value, Enum) else value
    if value == "":
        return '""'
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...").strip()


def values_text(key: Key) -> str:
    """Which values a key can have."""
    if key.values:
        return key.values
    schema = RunSpec.model_json_schema()
    property_schema: dict[str, Any] = schema
    for part in key.path.split("."):
        property_schema = property_schema["properties"][part]
        name = property_schema.get("$ref", "").rpartition("/")[2]
        property_schema = schema["$defs"][name] if name else property_schema
    if "enum" in property_schema:
        return ", ".join(f"`{value}`" for value in property_schema["enum"])
    return _range_text(property_schema)


def _range_text(schema: dict[str, Any]) -> str:
    kind = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}[schema["type"]]
    bounds = []
    for name, words in {
        "minimum": "from {}",
        "exclusiveMinimum": "above {}",
        "maximum": "to {}",
        "exclusiveMaximum": "below {}",
    }.items():
        if name in schema:
            bounds.append(words.format("2^63" if schema[name] == 2**63 else f"{schema[name]:g}"))
    return " ".join([kind, *bounds])


def template() -> str:
    """The run file that `semievol init` writes: every key with its meaning and its default."""
    lines = ["# One evolution. `semievol run -f` runs it, and continues it where it stopped. Paths are relative to this file."]
    section = ""
    for key in KEYS:
        parent, _, name = key.path.rpartition(".")
        indent = "  " if parent else ""
        if parent and parent != section:
            lines += ["", f"{parent}:"]
        elif not parent:
            lines.append("")
        section = parent
        lines += _comment(f"{key.meaning} Values: {values_text(key)}.", indent)
        lines.append(f"{indent}{name}: {default_text(key)}")
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def markdown_table() -> str:
    """The keys as docs/run-file.md shows them."""
    lines = ["| key | meaning | values | default | where the default comes from |", "|---|---|---|---|---|"]
    for key in KEYS:
        default = "required" if field_of(key.path).is_required() else f"`{default_text(key)}`"
        values = values_text(key).replace("|", "\\|")
        lines.append(f"| `{key.path}` | {key.meaning} | {values} | {default} | {key.origin} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown_table())
