"""`keras-gemma chat [PRESET] [MESSAGE]`: talk with a model."""

import sys

import click

from keras_gemma.cli.chat_session import Session
from keras_gemma.cli.common import (
    common,
    complete_preset,
    load_model,
    model_class,
    show_code,
    shown,
)
from keras_gemma.cli.line_editor import history, read_message
from keras_gemma.cli.sampling import sampling_options

DEFAULT = "gemma_instruct_tiny_en"
EPILOG = """\
\b
Examples:
  keras-gemma chat
  keras-gemma chat gemma_instruct_tiny_en "Spell the word apple."
  echo "Spell the word apple." | keras-gemma chat
"""


@click.command(short_help="Talk with a model.", epilog=EPILOG)
@click.argument("preset", required=False, shell_complete=complete_preset)
@click.argument("message", required=False)
@click.option("--system", metavar="TEXT", help="Instructions for the whole conversation.")
@sampling_options
@click.option("--show-code", "code_only", is_flag=True, help="Print the Python that does this.")
@common()
def command(settings, preset, message, system, sampling, limits, code_only):
    """Talk with PRESET (gemma_instruct_tiny_en if left out).

    With MESSAGE, or a message on stdin, there is one answer and no more. /help tells the commands
    of a conversation.
    """
    if preset and message is None and any(letter.isspace() for letter in preset):
        preset, message = None, preset  # `keras-gemma chat "Why is the sky blue?"`
    preset = preset or DEFAULT
    if settings.seed is not None:
        limits["seed"] = settings.seed
    if code_only:
        return show_code(settings, _code(preset, message, system, sampling, limits))
    if message == "-" or (message is None and not sys.stdin.isatty()):
        message = sys.stdin.read().strip()
        if not message:
            raise click.UsageError("There is no message on stdin.")
    if message is None and settings.as_json:
        raise click.UsageError("--json needs a MESSAGE.")
    with settings.status(f"loading {preset}"):
        chat = _chat(settings, preset, sampling, system)
    if message is not None:
        return _answer_once(settings, chat, message, limits)
    _greet(settings, preset)
    session = Session(chat, limits, settings.note, settings.status)
    with history():
        session.run(read_message)


def _chat(settings, preset, sampling, system):
    model = load_model(settings, preset)
    model.compile(sampler=sampling.build())
    from keras_gemma.models.chat import Chat

    return Chat(model, system=system)


def _answer_once(settings, chat, message, limits):
    if settings.as_json:
        chat.send(message, **limits)
        return settings.print_json({"messages": chat.messages})
    with settings.status("thinking"):
        pieces = chat.stream(message, **limits)
        first = next(pieces, "")
    click.echo(shown(first), nl=False)
    for piece in pieces:
        click.echo(shown(piece), nl=False)
    click.echo()


def _greet(settings, preset):
    from keras_gemma.conversion.description import describe

    card = describe(preset)
    settings.note(f"{preset}: {card['parameters']:,} parameters. /help for help, Ctrl-D to leave.")
    if card.get("kind") in ("base", "code"):
        settings.note(
            "This preset was not tuned to answer in turns; it goes on with what it reads."
        )


def _code(preset, message, system, sampling, limits):
    keywords = "".join(f", {name}={value!r}" for name, value in limits.items())
    extra = f", system={system!r}" if system else ""
    lines = [
        f"model = keras_gemma.models.{model_class(preset)}.from_preset({preset!r})",
        f"model.compile(sampler={sampling.code()})",
        f"chat = keras_gemma.Chat(model{extra})",
    ]
    if message is not None:
        return [*lines, f"print(chat.send({message!r}{keywords}))"]
    return [
        *lines,
        "while True:",
        f'    for piece in chat.stream(input("> "){keywords}):',
        '        print(piece, end="", flush=True)',
        "    print()",
    ]
