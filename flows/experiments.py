"""One flow per kind: what deployments, the Prefect UI and the command line start."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.pipeline import run_experiment
from tasks.config import ExperimentConfig
from tasks.kinds.causal_lm import CausalLMConfig
from tasks.kinds.masked_lm import MaskedLMConfig
from tasks.kinds.question_answering import QuestionAnsweringConfig
from tasks.kinds.summarization import SummarizationConfig
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.records import Report
from tasks.reporting.step import unchanged
from tasks.text import slug


def _run_name() -> str:
    """Name a run by what it does: model's name, data, starting model."""
    config: ExperimentConfig = flow_run.parameters["config"]
    return "-".join(slug(Path(part).name) for part in (config.name, config.data.source, config.model.name))


def concluded(report: Report) -> Report:
    """Have the run's state say so if nothing had changed; who calls the flow is given the report in either case."""
    if not report.unchanged_since:
        return report
    state: State[Report] = Completed(message=unchanged(report), data=report)
    return cast(Report, state)


@flow(name="text-classification", flow_run_name=_run_name)
def text_classification(config: TextClassificationConfig = TextClassificationConfig(), refresh: bool = False) -> Report:
    """Fine-tune a model to give texts a class, any number of labels, or a number; score it before and after; report.

    Args:
        config: The experiment. Every field has a default that works.
        refresh: Compute every step anew, whatever the store has.
    """
    return concluded(run_experiment("text-classification", config, refresh=refresh))


@flow(name="causal-lm", flow_run_name=_run_name)
def causal_lm(config: CausalLMConfig = CausalLMConfig(), refresh: bool = False) -> Report:
    """Fine-tune a decoder on the texts of a domain; score it before and after; report.

    Args:
        config: The experiment. Every field has a default that works.
        refresh: Compute every step anew, whatever the store has.
    """
    return concluded(run_experiment("causal-lm", config, refresh=refresh))


@flow(name="masked-lm", flow_run_name=_run_name)
def masked_lm(config: MaskedLMConfig = MaskedLMConfig(), refresh: bool = False) -> Report:
    """Adapt an encoder to the texts of a domain; score it before and after; report.

    Args:
        config: The experiment. Every field has a default that works.
        refresh: Compute every step anew, whatever the store has.
    """
    return concluded(run_experiment("masked-lm", config, refresh=refresh))


@flow(name="question-answering", flow_run_name=_run_name)
def question_answering(config: QuestionAnsweringConfig = QuestionAnsweringConfig(), refresh: bool = False) -> Report:
    """Fine-tune a model to find the answers to questions in texts; score it before and after; report.

    Args:
        config: The experiment. Every field has a default that works.
        refresh: Compute every step anew, whatever the store has.
    """
    return concluded(run_experiment("question-answering", config, refresh=refresh))


@flow(name="summarization", flow_run_name=_run_name)
def summarization(config: SummarizationConfig = SummarizationConfig(), refresh: bool = False) -> Report:
    """Fine-tune a model to write a summary, or another text, of a text; score it before and after; report.

    Args:
        config: The experiment. Every field has a default that works.
        refresh: Compute every step anew, whatever the store has.
    """
    return concluded(run_experiment("summarization", config, refresh=refresh))


FLOWS: dict[str, Callable[..., Report] | Flow[..., Report]] = {
    flow.name: flow for flow in (text_classification, causal_lm, masked_lm, question_answering, summarization)
}
"""Kind's name to its flow."""
