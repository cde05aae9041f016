"""The quickstart dataset of question answering: parameters of AWS API operations, and questions made from their structure.

A context lists some parameters of an operation, each with its type and the first sentence of its documentation. Questions ask
what a parameter is (the answer is the sentence) or of which type it is; for some the context has no such parameter, and so no
answer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.data.files import Part
from tasks.data.quickstart.botocore_docs import part_of, plain, service_model
from tasks.data.rows import fold, hash64

SERVICES = (
    "acm apigateway athena backup batch cloudfront comprehend ecr ecs efs eks events firehose fsx glue guardduty iot kinesis kms "
    "lambda logs macie2 polly rds redshift route53 sagemaker secretsmanager sns sqs ssm transcribe"
)
OPERATIONS_PER_SERVICE = 12
PARAMETERS = range(3, 5)
"""How many parameters a context lists."""
WORDS = range(4, 15)
"""Words of a sentence."""
_ASKED = ("What is the {name} parameter of {operation}?", "What does {name} stand for in {operation}?")
_ASKED_TYPE = "Of which type is the {name} parameter of {operation}?"


@dataclass(frozen=True)
class _Parameter:
    name: str
    type: str
    sentence: str


def answers_part() -> Part:
    """Return the dataset as one part with the columns of SQuAD: `id`, `title`, `context`, `question`, `answers`."""
    rows = [row for service in SERVICES.split() for row in _rows(service)]
    return part_of(sorted(rows, key=lambda row: hash64(row["id"])))


def _rows(service: str) -> Iterator[dict[str, Any]]:
    operations = dict(_operations(service))
    names = sorted({parameter.name for parameters in operations.values() for parameter in parameters})
    chosen = sorted(operations, key=lambda name: hash64(f"{service}.{name}"))[:OPERATIONS_PER_SERVICE]
    for operation in chosen:
        yield from _asked(f"{service}.{operation}", operations[operation], names)


def _operations(service: str) -> Iterator[tuple[str, list[_Parameter]]]:
    """Yield operations that have parameters enough whose first sentence is neither too short nor too long."""
    model = service_model(service) or {"operations": {}}
    for name, operation in sorted(model["operations"].items()):
        shape = model["shapes"][operation["input"]["shape"]] if "input" in operation else {}
        parameters = [
            _Parameter(member, model["shapes"][entry["shape"]]["type"], sentence)
            for member, entry in shape.get("members", {}).items()
            if len((sentence := _first_sentence(plain(entry.get("documentation", "")))).split()) in WORDS
        ]
        if len(parameters) >= PARAMETERS.start:
            yield name, parameters


def _first_sentence(text: str) -> str:
    """Return a text's first sentence, or nothing if it does not end as one."""
    sentence = re.split(r"(?<=[.!?]) ", text)[0]
    return sentence if sentence.endswith(".") else ""


def _asked(title: str, parameters: Sequence[_Parameter], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the questions on an operation: two sentences, a type, and of every other operation a parameter that is not there."""
    operation = title.partition(".")[2]
    listed = sorted(parameters, key=lambda parameter: hash64(f"{title}.{parameter.name}"))[: PARAMETERS.stop - 1]
    context, places = _context(listed)
    form = {"operation": operation}
    for number, parameter in enumerate(listed[:2]):
        question = _ASKED[hash64(f"{title}.{number}") % 2].format(name=parameter.name, **form)
        yield _row(title, context, question, {"text": [parameter.sentence], "answer_start": [places[parameter.name][1]]})
    typed = listed[2]
    question = _ASKED_TYPE.format(name=typed.name, **form)
    yield _row(title, context, question, {"text": [typed.type], "answer_start": [places[typed.name][0]]})
    absent = [name for name in names if fold(name) not in fold(context)]
    if absent and hash64(title) % 2:
        name = absent[hash64(f"{title}.absent") % len(absent)]
        question = _ASKED[hash64(name) % 2].format(name=name, **form)
        yield _row(title, context, question, {"text": [], "answer_start": []})


def _context(parameters: Sequence[_Parameter]) -> tuple[str, dict[str, tuple[int, int]]]:
    """Return the list of parameters as a text, and where in it are the type and the sentence of each."""
    context, places = "", {}
    for parameter in parameters:
        start = len(context) + len(parameter.name) + 2
        places[parameter.name] = (start, start + len(parameter.type) + 3)
        context += f"{parameter.name} ({parameter.type}): {parameter.sentence} "
    return context.rstrip(), places


def _row(title: str, context: str, question: str, answers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{hash64(f'{title} {question}'):016x}",
        "title": title,
        "context": context,
        "question": question,
        "answers": answers,
    }
