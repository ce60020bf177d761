"""`loradock generate`, `classify` and `score`: ask an adapter, or the base by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loradock.cli.command import JsonOption, command
from loradock.cli.output import note, print_json, show_table
from loradock.cli.refusal import CommandError
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import Answerer

PromptArgument = Annotated[str | None, typer.Argument(help="Read from stdin if it is left out.")]
AdapterOption = Annotated[
    str | None, typer.Option("--adapter", help="Who answers: a reference, as in task:staging.")
]
BaseOption = Annotated[bool, typer.Option("--base", help="The bare base answers.")]
PriorityOption = Annotated[
    Literal["high", "normal", "low"],
    typer.Option(
        "--priority", help="Who waits before whom: high (this takes a role), normal or low."
    ),
]
StickyKeyOption = Annotated[
    str, typer.Option("--sticky-key", help="It keeps its side of a split, as in a user's id.")
]
RawOption = Annotated[bool, typer.Option("--raw", help="No templates at all.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands at the top, beside the nouns."""
    command(
        app,
        "generate",
        "generate --adapter support-triage 'Where is my parcel?'",
        "generate --base --max-tokens 64 < prompt.txt",
        gives="`Generation`",
    )(generate)
    command(
        app,
        "classify",
        "classify --adapter support-triage 'Where is my parcel?'",
        gives="`Classification`",
    )(classify)
    command(app, "score", "score --base 'Water is' ' wet' ' dry'", gives="`Scores`")(score)


def generate(
    context: typer.Context,
    prompt: PromptArgument = None,
    adapter: AdapterOption = None,
    base: BaseOption = False,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Repeatable.")] = None,
    raw: RawOption = False,
    sticky_key: StickyKeyOption = "",
    priority: PriorityOption = "normal",
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt, as the tokens come."""
    _check_answerer(adapter, base)
    with (
        connect(context) as client,
        client.stream(
            _prompt(prompt),
            adapter=adapter,
            base=base,
            raw=raw,
            sticky_key=sticky_key,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop or (),
            priority=priority,
        ) as chunks,
    ):
        for chunk in chunks:
            if not as_json:
                print(chunk.text, end="", flush=True)
        answer = chunks.generation
    if as_json:
        print_json(answer)
        return
    print()
    _note_answerer(
        answer.answerer,
        f"{answer.usage.output_tokens} tokens in {answer.timings.total_s:.2f} s, "
        f"ended by {answer.finish_reason.value}",
    )


def classify(
    context: typer.Context,
    text: PromptArgument = None,
    adapter: AdapterOption = None,
    base: BaseOption = False,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Instead of the version's own; repeatable.")
    ] = None,
    raw: RawOption = False,
    sticky_key: StickyKeyOption = "",
    priority: PriorityOption = "normal",
    as_json: JsonOption = False,
) -> None:
    """Give the best of a set of labels, with probabilities."""
    _check_answerer(adapter, base)
    with connect(context) as client:
        answer = client.classify(
            _prompt(text),
            adapter=adapter,
            base=base,
            raw=raw,
            sticky_key=sticky_key,
            labels=label or (),
            priority=priority,
        )
    if as_json:
        print_json(answer)
        return
    show_table(
        answer.probabilities,
        {"label": lambda p: p.label, "probability": lambda p: f"{p.probability:.4f}"},
        as_json,
    )
    _note_answerer(answer.answerer, f"{answer.timings.total_s:.2f} s")


def score(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument()],
    continuations: Annotated[list[str], typer.Argument()],
    adapter: AdapterOption = None,
    base: BaseOption = False,
    raw: RawOption = False,
    sticky_key: StickyKeyOption = "",
    priority: PriorityOption = "normal",
    as_json: JsonOption = False,
) -> None:
    """Give the log-likelihood of each continuation of a prompt."""
    _check_answerer(adapter, base)
    with connect(context) as client:
        answer = client.score(
            prompt,
            continuations,
            adapter=adapter,
            base=base,
            raw=raw,
            sticky_key=sticky_key,
            priority=priority,
        )
    if as_json:
        print_json(answer)
        return
    show_table(
        list(zip(continuations, answer.scores, strict=True)),
        {
            "continuation": lambda pair: repr(pair[0]),
            "logprob": lambda pair: f"{pair[1].logprob:.4f}",
            "tokens": lambda pair: pair[1].num_tokens,
        },
        as_json,
    )
    _note_answerer(answer.answerer, f"{answer.timings.total_s:.2f} s")


def _check_answerer(adapter: str | None, base: bool) -> None:
    if (adapter is None) is not base:
        raise CommandError(
            "say who answers: --adapter NAME, or --base for the bare base, not both",
            "`loradock adapter list` tells which adapters there are",
        )


def _prompt(given: str | None) -> str:
    if given is not None:
        return given
    if sys.stdin.isatty():
        raise CommandError("there is no prompt", "give it as an argument, or on stdin")
    return sys.stdin.read()


def _note_answerer(who: Answerer, more: str) -> None:
    if not sys.stderr.isatty():
        return
    name = f"{who.adapter}@{who.version_number}" if who.adapter else who.base_model
    side = ", candidate" if who.arm == "candidate" else ""
    through = f" ({who.alias}{side})" if who.alias else ""
    note(f"— {name}{through}, {more}")
